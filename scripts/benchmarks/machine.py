"""Processes, servers and figures: what is started here is measured here, and ended here."""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Its text is printed for the user."""


class Bench:
    """A folder of its own, and all processes that work in it. At its end, also by Ctrl-C, they are ended by their own ids."""

    def __init__(self, keep):
        self.keep = keep
        self.folder = ROOT / ".work" / "bench" / str(os.getpid())
        self.binary = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "floodmark"
        self.running = []
        self.servers = []

    def __enter__(self):
        self.remove_old()
        self.folder.mkdir(parents=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, when started in the background
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
        return self

    def __exit__(self, kind, *_):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # this takes a second
        self.end_processes()
        for server in self.servers:
            subprocess.run([SCRIPTS / server, "kill", "--dir", self.folder / server], check=False)
        if self.keep or (kind is not None and issubclass(kind, Failed)):
            self.tell(f"tables and logs are kept in {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def remove_old(self):
        """Folders of runs that were killed; their servers too."""
        for old in self.folder.parent.glob("*"):
            if old.name.isdigit() and not Path("/proc", old.name).exists():
                if (old / "cluster").exists():
                    # Standard output is for the figures.
                    subprocess.run([SCRIPTS / "cluster", "stop", "--dir", old / "cluster"], check=False, stdout=sys.stderr)
                for server in ("kafka", "s3"):
                    if (old / server).exists():
                        subprocess.run([SCRIPTS / server, "kill", "--dir", old / server], check=False)
                shutil.rmtree(old)

    def end_processes(self):
        for process in reversed(self.running):
            if process.poll() is None:
                process.kill()
                process.wait()
        self.running.clear()

    def clear(self):
        """Between two benchmarks: tables go, servers stay."""
        self.end_processes()
        for path in self.folder.iterdir():
            if path.name not in self.servers and not self.keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def tell(self, text):
        print(f"bench: {text}", file=sys.stderr, flush=True)

    def build(self):
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT, check=True)

    def server(self, name):
        """Starts a server once; its environment."""
        folder = self.folder / name
        if name not in self.servers:
            self.servers.append(name)
            subprocess.run([SCRIPTS / name, "start", "--dir", folder], check=True)
        lines = (folder / "env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def server_cpu(self, name):
        return cpu_of(int((self.folder / name / "pid").read_text()))

    def topic(self, name, partitions):
        self.server("kafka")
        command = [SCRIPTS / "kafka", "topic", name, "--dir", self.folder / "kafka", "--partitions", str(partitions)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def delete_topic(self, name):
        command = [SCRIPTS / "kafka", "delete-topic", name, "--dir", self.folder / "kafka"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def start(self, arguments, environment, name, program=None):
        """Starts floodmark, or another program, in a session of its own, so that Ctrl-C is ours; its output goes to files."""
        out, err = (self.folder / f"{name}.{end}" for end in ("out", "err"))
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(
                [str(part) for part in (program or self.binary, *arguments)],
                cwd=ROOT,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        process.began, process.out, process.err = time.monotonic(), out, err
        self.running.append(process)
        return process

    def end(self, process):
        """Waits for its end; what it took."""
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - process.began
        process.returncode = os.waitstatus_to_exitcode(status)
        self.running.remove(process)
        if process.returncode != 0:
            last = "\n".join(process.err.read_text().splitlines()[-3:])
            self.keep = True
            raise Failed(f"{' '.join(map(str, process.args))} failed with exit code {process.returncode}:\n{last}")
        return {
            "seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "rss_bytes": usage.ru_maxrss * 1024,
            "out": process.out.read_text(),
        }

    def floodmark(self, arguments, environment, name):
        return self.end(self.start(arguments, environment, name))

    def program(self, command, environment, name):
        return self.end(self.start(command[1:], environment, name, program=command[0]))


def cpu_of(pid):
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def describe():
    model = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cpu": model[0] if model else "?",
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "commit": commit.stdout.strip(),
    }


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def short(number):
    if number is None:
        return "-"
    for limit, divisor, unit in ((999.5e6, 1e9, " G"), (999.5e3, 1e6, " M"), (9999.5, 1e3, " k")):
        if abs(number) >= limit:
            return f"{number / divisor:.3g}{unit}"
    return f"{number:.3g}" if number != int(number) else str(int(number))


def of(values):
    """Median, and the least and greatest where there are several."""
    figures = spread(values)
    text = short(figures["median"])
    return text if len(values) == 1 else f"{text}  ({short(figures['min'])} to {short(figures['max'])})"


def show(title, rows):
    """A table; the first row is its head."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows if len(row) > column) for column in range(max(map(len, rows)))]
    print(f"\n== {title}")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    sys.stdout.flush()
