# Shared by the scripts beside it: source it, do not run it.
#
# All that the scripts download, build or run goes in one ignored folder of the checkout, .work:
#   tools/   Kafka, the S3 server, Debian programs     venv/    Python and what reads the tables
#   run/     folders of running servers         test/    logs and tables of the last test run
#   target/  what scripts/test compiles

umask 077 # run folders hold keys

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
WORK=$ROOT/.work
TOOLS=$WORK/tools

die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

say() { echo "$(basename "$0"): $*" >&2; }

# need COMMAND PACKAGE: the line that installs it is of Debian and Ubuntu.
need() { command -v "$1" >/dev/null || die "$1 is not installed; install it: apt-get install $2"; }

# install_once FOLDER FUNCTION: runs `FUNCTION TMP` and moves TMP to FOLDER when that went well. So FOLDER is whole or
# absent, and of two that start at once one installs and the other waits.
install_once() {
  local target=$1 build=$2 lock tmp
  [[ -e $target ]] && return
  mkdir -p "$(dirname "$target")"
  need flock util-linux
  exec {lock}>"$target.lock"
  flock "$lock"
  if [[ ! -e $target ]]; then
    tmp=$target.tmp
    remove "$tmp" # of an install that was killed
    mkdir -p "$tmp"
    # Not `build || …`: that would switch `set -e` off inside of it.
    (set -e; "$build" "$tmp" {lock}>&-)
    mv "$tmp" "$target"
  fi
  exec {lock}>&-
}

# remove FOLDER: also when it holds what a package manager made read-only.
remove() {
  [[ -e $1 ]] || return 0
  chmod -R u+w "$1"
  rm -rf "$1"
}

# A port on which nobody listens now. Below the range from which the kernel takes ports for outgoing connections
# (32768 on), so that a server that went away finds its port again. Another may take it first: callers retry.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((15000 + (RANDOM * 32768 + RANDOM) % 17000))
    port_taken "$port" || { echo "$port"; return; }
  done
  die "found no free port from 15000 to 31999"
}

port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A run folder belongs to one command at a time; servers are started with this descriptor closed (9>&-).
lock_run_folder() {
  need flock util-linux
  mkdir -p "$1"
  exec 9>"$1/lock"
  flock -w 120 9 || die "another command has held $1/lock for two minutes"
}

# running_pid DIR ARGUMENT: prints the server's process id if it runs. A process id alone may have gone to another
# process by now; ours is known by an argument that only it has, a path in its run folder. A zombie has no arguments.
running_pid() {
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) && [[ -n $pid ]] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "$2" || return 1
  echo "$pid"
}

# stop_server DIR ARGUMENT SIGNAL: returns when the process is gone, since only then its port and folder are free.
stop_server() {
  local dir=$1 argument=$2 signal=$3 pid
  if pid=$(running_pid "$dir" "$argument"); then
    kill "-$signal" "$pid" 2>/dev/null || true
    for ((i = 0; i < 300; i++)); do # 30 s
      running_pid "$dir" "$argument" >/dev/null || break
      ((i == 200)) && { say "process $pid does not stop; killing it"; kill -KILL "$pid" 2>/dev/null || true; }
      sleep 0.1
    done
    running_pid "$dir" "$argument" >/dev/null && die "process $pid is still running after 30 s; see: ps -fp $pid"
  fi
  rm -f "$dir/pid"
}

# ---- what must be there before anything long starts ----

missing=0

# wanted WHAT INSTALL COMMAND…: COMMAND tells whether it is there.
wanted() {
  local what=$1 install=$2
  shift 2
  "$@" >/dev/null 2>&1 && return
  ((missing++)) || echo "missing:"
  printf '  %-34s %s\n' "$what" "$install"
}

wanted_to_build() {
  wanted "Rust (cargo)" "curl https://sh.rustup.rs -sSf | sh -s -- -y" cargo --version
  if cargo --version &>/dev/null; then
    wanted "Rust 1.95 or later" "rustup update stable" rust_is_recent
  fi
  wanted "a C compiler (cc)" "apt-get install gcc libc6-dev" c_compiles
  wanted "make" "apt-get install make" make --version
  wanted "perl" "apt-get install perl" perl -MFindBin -MIPC::Cmd -MFile::Compare -e 1
}

wanted_for_servers() {
  wanted "Java 17 or later" "apt-get install openjdk-17-jre-headless" java_is_recent
  wanted "Maven (mvn)" "apt-get install maven" mvn --version
  wanted "Go 1.21 or later" "https://go.dev/doc/install (the package of Debian 12 is too old)" go_is_recent
  wanted "curl" "apt-get install curl" curl --version
  wanted "flock" "apt-get install util-linux" flock --version
}

rust_is_recent() {
  local minor
  minor=$(rustc --version | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
  [[ -n $minor ]] && ((minor >= 95))
}

c_compiles() { printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' | cc -x c - -o /dev/null; }

java_is_recent() {
  local version
  version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
  [[ -n $version ]] && ((version >= 17))
}

go_is_recent() { # from 1.21 on, Go fetches a later one by itself where a module asks for it
  local minor
  minor=$(go env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
  [[ -n $minor ]] && ((minor >= 21))
}

disk_is_free() { (($(df -Pk "$ROOT" | awk 'NR == 2 { print $4 }') >= $1 * 1024 * 1024)); }
