"""scripts/cluster with the real program on the embedded broker, here and by ssh to loopback; the manifests and the unit of scripts/deploy.

Run it with `scripts/python tests/cluster_test.py`, after `cargo build --release`.
"""

import contextlib
import json
import os
import pwd
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import yaml

sys.dont_write_bytecode = True

import runner  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "scripts/cluster"
DEPLOY = ROOT / "scripts/deploy"
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/floodmark"
PATIENCE_SECONDS = 60


def eventually(what, ask):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what}"
        time.sleep(0.05)
    return answer


def run(*words, code=0, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=PATIENCE_SECONDS, **options)
    assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


class Place:
    """An embedded broker, tables, a job, and a cluster's folder; nothing of it is left at the end."""

    def __init__(self, folder):
        self.folder, self.dir, self.sent = folder, folder / "cluster", 0
        self.job = folder / "job.toml"
        text = (ROOT / "jobs/web-analytics.toml").read_text()
        assert "[settings]\n" in text
        self.job.write_text(text.replace("[settings]\n", "[settings]\nepoch_seconds = 1\n"))

    def __enter__(self):
        address = self.folder / "broker"
        self.broker = subprocess.Popen([BINARY, "dev", "broker", "--topic", "events:4", "--address-file", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually("the broker's address", address.exists)
        places = ("KAFKA_", "FLOODMARK_CLUSTER", "FLOODMARK_PROCESS", "S3_", "AWS_")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(places)} | {
            "FLOODMARK": str(BINARY), "KAFKA_BOOTSTRAP": address.read_text().strip(), "FLOODMARK_TOPIC": "events",
            "FLOODMARK_TABLES": str(self.folder / "tables"),
        }
        return self

    def __exit__(self, kind, *_):
        if kind:
            for log in sorted(self.dir.glob("*.log*")):
                print(f"-- {log.name}\n{log.read_text()[-3000:]}")
        subprocess.run([CLUSTER, "stop", "--dir", self.dir], env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.broker.terminate()
        self.broker.wait()

    def cluster(self, command, *words, code=0):
        return run(CLUSTER, command, "--dir", self.dir, *words, code=code, env=self.env)

    def start(self, *words, code=0):
        return self.cluster("start", self.job, *words, code=code)

    def status(self):
        done = subprocess.run([CLUSTER, "status", "--dir", self.dir, "--output", "json"], env=self.env, capture_output=True, text=True)
        answer = json.loads(done.stdout)
        assert done.returncode == (0 if answer["up"] else 1), done
        return answer

    def pids(self):
        return [process["pid"] for process in self.status()["processes"]]

    def send(self, records):
        where = ["--brokers", self.env["KAFKA_BOOTSTRAP"], "--topic", "events", "--seed", self.sent]
        run(BINARY, "dev", "gen", *where, "--events", records, "--customers", "200", "--broken-share", "0.02")
        self.sent += records

    def is_exact(self):
        said = run(BINARY, "verify", self.job, env=self.env)
        assert re.match(r"exact: ", said) and f"recount of {self.sent:,} records" in said, said

    def await_published(self):
        """All that was sent is archived and in every lane, while the cluster runs."""

        def published():
            done = subprocess.run([BINARY, "status", self.job, "--output", "json"], env=self.env, capture_output=True, text=True)
            if done.returncode != 0:
                return False
            found = json.loads(done.stdout)
            return found["balance"]["read_records"] >= self.sent and found["lanes"][0]["pending_raw_rows"] == 0

        eventually(f"{self.sent} records published", published)

    def await_all_back(self, before):
        """All run, none of them those of before."""
        eventually("all are back", lambda: (now := self.status())["up"] and not {p["pid"] for p in now["processes"]} & set(before))


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second one where it goes between opening and reading
        return True


def test_a_killed_process_is_back_and_a_stop_publishes_all(folder):
    with Place(folder) as place:
        said = place.start("--processes", 3, "--workers", 1)
        assert "all 3 are up" in said, said
        assert stat.S_IMODE((place.dir / "secret").stat().st_mode) == 0o600
        place.send(3_000)
        place.await_published()
        before = place.pids()
        assert f"pid {before[1]}" in place.cluster("kill", 1)
        place.await_all_back(before)
        processes = place.status()["processes"]
        assert [process["restarts"] for process in processes] == [1, 1, 1], processes
        assert [process["last_exit"] for process in processes] == [75, 137, 75], processes
        assert all(process["last_log_line"] for process in processes), processes
        place.send(2_000)
        place.await_published()
        # One that stands still is given up by the others, and may not keep them waiting.
        before = place.pids()
        os.kill(before[2], signal.SIGSTOP)
        place.await_all_back(before)
        assert place.status()["processes"][2]["last_exit"] == 137, place.status()
        place.send(1_000)
        place.await_published()
        assert "stop --dir" in place.start("--processes", 2, code=1), "one runs already"
        place.send(1_000)
        said = place.cluster("stop")
        assert said.count("exit code 0 (done") == 3 and "all stopped in order" in said, said
        # What the last second had sent may be unread: another size reads to the end.
        said = place.start("--processes", 2, "--", "--drain")
        eventually("all have drained", lambda: place.status()["supervisor_pid"] is None)
        assert [process["last_exit"] for process in place.status()["processes"]] == [0, 0], place.status()
        place.is_exact()
        assert "ended for good, exit code 0" in place.cluster("status", code=1)
        assert "nothing runs" in place.cluster("stop")


def test_what_would_fail_again_is_not_started_again(folder):
    with Place(folder) as place:
        place.job.write_text(place.job.read_text().replace('name = "web-analytics"', 'nam = "web-analytics"'))
        place.start("--processes", 2, code=1)
        eventually("the end of the supervisor", lambda: place.status()["supervisor_pid"] is None)
        processes = place.status()["processes"]
        assert [(process["last_exit"], process["restarts"]) for process in processes] == [(78, 0)] * 2, processes
        said = place.cluster("status", code=1)
        assert "ended for good, exit code 78 (configuration)" in said and "unknown key" in said.lower(), said
        assert "nothing runs" in place.cluster("kill", 0, code=1)


def test_the_delay_grows(folder):
    with Place(folder) as place:
        calls, program = folder / "calls", folder / "failing"
        calls.write_text("")
        program.write_text(f"#!/bin/sh\ndate +%s.%N >>'{calls}'\nexit 75\n")
        program.chmod(0o755)
        place.env["FLOODMARK"] = str(program)
        place.start("--processes", 1, code=1)
        times = eventually("four starts", lambda: (lines := calls.read_text().split()) if len(calls.read_text().split()) >= 4 else None)
        waits = [float(later) - float(sooner) for sooner, later in zip(times, times[1:])]
        assert waits[0] < 0.5 and 1 <= waits[1] < 1.9 and 2 <= waits[2] < 3, waits
        assert "starts again within 4 s" in place.cluster("status", code=1)
        assert "exit code 75 (try again)" in place.cluster("stop", code=1)
        assert len(calls.read_text().split()) == 4


def test_only_who_fails_by_itself_waits_longer(folder):
    with Place(folder) as place:
        place.start("--processes", 3, "--workers", 1)
        logs = [place.dir / f"process-{index}.log" for index in range(3)]
        rounds = 0

        def all_run():
            nonlocal rounds
            rounds += 1
            for log, word in zip(logs, ("job started", "workers started", "workers started")):
                eventually(f"{word} {rounds} times in {log}", lambda: log.read_text().count(word) == rounds)

        all_run()
        for killed in (1, 0, 2, 1):
            place.cluster("kill", killed)
            all_run()
        for _ in range(3):  # as the system would kill it
            os.kill(place.pids()[1], signal.SIGKILL)
            all_run()
        lines = re.findall(r"process (\d) ended with (\d+) .*starting it again in (\d+) s", (place.dir / "supervisor.log").read_text())
        ends = [[(int(code), int(delay)) for process, code, delay in lines if int(process) == index] for index in range(3)]
        assert [delay for _, delay in ends[0]] == [0] * 7, ends
        assert [delay for _, delay in ends[1]] == [0] * 4 + [0, 1, 2], ends
        assert [delay for _, delay in ends[2]] == [0] * 7, ends
        assert [code for code, _ in ends[1]] == [137, 75, 75, 137, 137, 137, 137], ends


def test_nothing_outlives_a_killed_supervisor(folder):
    with Place(folder) as place:
        place.start("--processes", 2, "--workers", 1)
        place.send(1_000)
        place.await_published()
        before = place.pids()
        # One that nobody watches any more: its guard is killed as well.
        guard = int(re.search(r"PPid:\s*(\d+)", Path(f"/proc/{before[1]}/status").read_text())[1])
        children = Path(f"/proc/{guard}/task/{guard}/children").read_text().split()
        supervisor = place.status()["supervisor_pid"]
        os.kill(supervisor, signal.SIGSTOP)  # or it would have started it again by now
        for pid in (*(int(pid) for pid in children if int(pid) != before[1]), guard, supervisor):
            os.kill(pid, signal.SIGKILL)
        eventually("the end of the process that is watched", lambda: is_gone(before[0]))
        assert "the supervisor is gone" in place.cluster("status", code=1)
        place.start("--processes", 2, "--workers", 1)
        assert is_gone(before[1])
        place.await_published()
        os.kill(place.status()["supervisor_pid"], signal.SIGKILL)
        after = place.pids()
        assert "nothing runs" in place.cluster("stop")
        eventually("all have ended", lambda: all(pid is None or is_gone(pid) for pid in after))
        place.start("--processes", 2, "--", "--drain")
        eventually("all have drained", lambda: place.status()["supervisor_pid"] is None)
        place.is_exact()


def test_a_wrong_command_line_starts_nothing(folder):
    with Place(folder) as place:
        hosts = folder / "hosts"
        for text, words, says in (
            ("", [], "--processes N"),
            ("", ["--hosts", hosts], "found 0 lines"),
            ("a:1\nb\n", ["--hosts", hosts], "hosts:2: found 'b', expected [user@]host:port"),
            ("-oProxyCommand=x:1\n", ["--hosts", hosts], "expected [user@]host:port"),
            ("a:1\n", ["--hosts", hosts, "--processes", 2], "expected at least 2"),
            ("", ["--processes", 2, "--remote-dir", "x"], "--hosts"),
        ):
            hosts.write_text(text)
            said = place.start(*words, code=1)
            assert says in said, said
        assert "check the path" in run(CLUSTER, "start", folder / "nothing.toml", "--processes", 1, code=1)
        place.start("--processes", "0", code=2)
        assert not (place.dir / "state.json").exists()
    for words in (["--help"], ["start", "--help"], ["stop", "--help"], ["status", "--help"], ["kill", "--help"]):
        assert "usage: scripts/cluster" in run(CLUSTER, *words)


# ---- by ssh ----


@contextlib.contextmanager
def ssh_server(folder):
    """An sshd of our own on two loopback addresses, with its own keys; ssh's configuration to reach it."""
    for name in ("host_key", "key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    authorized = folder / "authorized_keys"
    authorized.write_text((folder / "key.pub").read_text())
    log = folder / "sshd.log"
    for _ in range(5):
        port = free_port()
        (folder / "sshd_config").write_text(f"""
ListenAddress 127.0.0.1:{port}
ListenAddress 127.0.0.2:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {authorized}
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
""")
        with open(log, "wb") as output:
            server = subprocess.Popen([ROOT / "scripts/debian", "sshd", "-D", "-e", "-f", folder / "sshd_config"], stderr=output)
        eventually("sshd listens", lambda: server.poll() is not None or log.read_text().count("Server listening") == 2)
        if server.poll() is None:
            break
    else:
        raise AssertionError(log.read_text())
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text("".join(f"[127.0.0.{host}]:{port} {key}\n" for host in (1, 2)))
    config = folder / "ssh_config"
    config.write_text(f"""
Host *
  Port {port}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking yes
""")
    try:
        yield config
    finally:
        server.terminate()
        server.wait()


def free_port(host="127.0.0.1"):
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.randrange(15000, 32000)
            probe.bind((host, port))
            return port


def test_over_hosts_by_ssh(folder):
    with ssh_server(folder) as config, Place(folder) as place:
        remote = folder / "remote"
        remote.mkdir()
        (remote / "floodmark").symlink_to(BINARY)
        (remote / "job.toml").write_text(place.job.read_text())
        user = pwd.getpwuid(os.getuid()).pw_name
        hosts = folder / "hosts"
        hosts.write_text(f"# two\n127.0.0.1:{free_port()}\n{user}@127.0.0.2:{free_port('127.0.0.2')}\n")
        words = ["--hosts", hosts, "--workers", 1, "--remote-dir", remote, "--ssh-config", config]
        place.env["FLOODMARK_LOG"] = "floodmark=debug"
        place.start(*words)
        place.send(2_000)
        place.await_published()

        before = place.pids()
        secret = (place.dir / "secret").read_text().strip().encode()
        lines = [Path(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdigit()]
        for line in lines:
            with contextlib.suppress(OSError):
                assert secret not in line.read_bytes(), line
        environ = Path(f"/proc/{before[0]}/environ").read_bytes().split(b"\0")
        assert b"FLOODMARK_LOG=floodmark=debug" in environ and b"SSH_CONNECTION=" in b"".join(environ), environ

        place.cluster("kill", 1)
        place.await_all_back(before)
        place.send(1_000)
        place.await_published()

        # A session that breaks: its process must not run on by itself, and all are back.
        before = place.pids()
        [session] = sessions(place.status()["supervisor_pid"], "127.0.0.1")
        os.kill(session, signal.SIGKILL)
        eventually("the end of its process", lambda: is_gone(before[0]))
        place.await_all_back(before)
        assert place.status()["processes"][0]["last_exit"] == 137, place.status()
        place.send(1_000)
        place.await_published()

        # A launching host that is gone without a word: here, a session that stands still.
        before = place.pids()
        [session] = sessions(place.status()["supervisor_pid"], "127.0.0.1")
        os.kill(session, signal.SIGSTOP)
        eventually("the end of its process", lambda: is_gone(before[0]))
        os.kill(session, signal.SIGKILL)
        place.await_all_back(before)

        # So it is with a supervisor that breaks.
        before = place.pids()
        os.kill(place.status()["supervisor_pid"], signal.SIGKILL)
        eventually("the end of all", lambda: all(is_gone(pid) for pid in before))
        place.start(*words)
        place.await_published()
        said = place.cluster("stop")
        assert said.count("exit code 0 (done") == 2, said
        place.is_exact()

        # A host that can not be reached is tried again, and its log says what ssh says.
        hosts.write_text(f"127.0.0.3:{free_port()}\n")
        place.start(*words, code=1)
        eventually("another attempt", lambda: place.status()["processes"][0]["restarts"] >= 1)
        assert "127.0.0.3" in place.status()["processes"][0]["last_log_line"], place.status()
        place.cluster("stop", code=1)


def sessions(supervisor, host):
    """ssh's processes to this host."""
    found = []
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[0] == b"ssh" and host.encode() in words:
            found.append(int(pid))
    return found


# ---- scripts/deploy ----


def test_the_unit_is_valid(folder):
    """By systemd itself, which only warns of what it does not know; with our program where the unit has the installed one."""
    text = (DEPLOY / "floodmark@.service").read_text()
    unit = folder / "floodmark@web-analytics.service"

    def verified(text):
        unit.write_text(text.replace("/usr/local/bin/floodmark", str(BINARY)))
        done = subprocess.run([ROOT / "scripts/debian", "systemd-analyze", "verify", unit], capture_output=True, text=True)
        return done.returncode == 0 and unit.name not in done.stdout + done.stderr, done

    assert verified(text)[0], verified(text)[1]
    for right, wrong in (("KillSignal=", "KillSgnal="), ("RestartSec=1", "RestartSec=soon"), ("bin/floodmark run", "bin/floodmak run")):
        assert right in text and not verified(text.replace(right, wrong))[0], wrong
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
    assert settings["RestartPreventExitStatus"] == "0 2 76 78" and settings["Restart"] == "always", settings
    assert int(settings["TimeoutStopSec"]) > 20, settings


def test_the_manifests_are_valid(folder):
    live = list(yaml.safe_load_all((DEPLOY / "live.yaml").read_text()))
    secret_file = list(yaml.safe_load_all((DEPLOY / "secrets.yaml").read_text()))
    for manifest in live + secret_file:
        kubernetes_validate.validate(manifest, "1.31", strict=True)
    by_kind = {manifest["kind"]: manifest for manifest in live}
    assert len(by_kind) == len(live), [manifest["kind"] for manifest in live]
    # Rules that the schemas do not know: what one names, the other has.
    state, service, hosts = by_kind["StatefulSet"], by_kind["Service"], by_kind["ConfigMap"]["data"]["hosts"].split()
    spec, pod = state["spec"], state["spec"]["template"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    selectors = [spec["selector"]["matchLabels"], service["spec"]["selector"], by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
                 by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]]
    assert all(selector == labels for selector in selectors), selectors
    assert spec["serviceName"] == service["metadata"]["name"] and service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["clusterIP"] == "None" and spec["podManagementPolicy"] == "Parallel"
    assert pod["terminationGracePeriodSeconds"] > 20
    name, [container] = state["metadata"]["name"], pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == ports, ports
    expected = [f"{name}-{index}.{service['metadata']['name']}.default.svc.cluster.local:{ports['cluster']}" for index in range(len(hosts))]
    assert hosts == expected, hosts
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert env["FLOODMARK_PROCESSES"] == str(spec["replicas"]) and spec["replicas"] <= len(hosts), env
    assert f"--http=0.0.0.0:{ports['http']}" in container["args"], container["args"]
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}, container[probe]
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert volumes == set(mounts), (volumes, mounts)
    assert env["TMPDIR"] == mounts["scratch"] and env["FLOODMARK_HOSTFILE"] == mounts["hosts"] + "/hosts", env
    job = container["args"][1]
    assert job == mounts["job"] + "/job.toml", job
    made = {manifest["metadata"]["name"]: set(manifest["stringData"]) for manifest in secret_file}
    [reference] = [variable["valueFrom"]["secretKeyRef"] for variable in container["env"] if "valueFrom" in variable]
    assert reference["key"] in made[reference["name"]] and container["envFrom"] == [{"secretRef": {"name": "floodmark"}}]
    # Its arguments are those of the command, its environment too: it gets as far as the job file, and then to the secret.
    args = [str(BINARY), *(arg.replace(f"0.0.0.0:{ports['http']}", "127.0.0.1:0") for arg in container["args"])]
    environment = {name: value for name, value in env.items() if value and name != "TMPDIR"} | {"HOSTNAME": f"{name}-2"}
    done = subprocess.run(args, capture_output=True, text=True, env=environment)
    assert done.returncode == 78 and job in done.stderr, done
    (folder / "hosts").write_text(by_kind["ConfigMap"]["data"]["hosts"])
    args[args.index(job)] = str(ROOT / "jobs/web-analytics.toml")
    done = subprocess.run(args, capture_output=True, text=True, env=environment | {"FLOODMARK_HOSTFILE": str(folder / "hosts")})
    assert done.returncode == 78 and "found neither of FLOODMARK_CLUSTER_SECRET" in done.stderr, done


if __name__ == "__main__":
    sys.exit(runner.run(globals()))
