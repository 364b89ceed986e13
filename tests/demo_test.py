"""Runs scripts/demo as a user would: to its end, on a log of their own, two at once, with Ctrl-C; and every line that it prints
to try next.

Run it with `scripts/python tests/demo_test.py`.
"""

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import runner

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "scripts/demo"
MARK = f"FLOODMARK_DEMO_TEST={os.getpid()}"
REAL_LINES = ROOT / "tests/data/apache_access.log"
PATIENCE_SECONDS = 300

# What a user may have set for jobs of their own must not matter.
ENVIRONMENT = os.environ | dict([MARK.split("=")]) | {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "FLOODMARK_TOPIC": "mine"}
ENVIRONMENT.pop("FLOODMARK_PYTHON", None)


def started():
    """Ids of the processes that a demo of this test has started, it included."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and MARK.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            pass  # it has ended
    return found


def run(*words, env=ENVIRONMENT, **options):
    return subprocess.run(
        words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_SECONDS, **options
    )


class Background:
    """A demo without a terminal."""

    def __init__(self, *options):
        self.out = tempfile.NamedTemporaryFile("w+")
        self.process = subprocess.Popen(
            [DEMO, *options], env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=self.out, stderr=subprocess.STDOUT
        )

    def text(self):
        return Path(self.out.name).read_text()

    def wait_for(self, words):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while words not in self.text():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text()}"
            assert time.monotonic() < deadline, f"no {words!r} in\n{self.text()}"
            time.sleep(0.1)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_SECONDS)
        self.folder = re.search(r"stay in (\S+) ", self.text())
        return code


def shell(line):
    done = run("bash", "-c", line, cwd=ROOT)
    assert done.returncode == 0, f"{line}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_traffic_kill_verify_and_what_to_try_next():
    demo, log = Background("--keep"), None
    try:
        demo.wait_for("The job runs")
        log = run(DEMO, "--log", str(REAL_LINES))
        demo.wait_for("Kafka runs until")
        text = demo.text()
        assert "kill -9: the job is killed" in text, text
        assert "200,000 records were sent: all are in the archive, each once." in text, text
        is_as_shown(text)
        assert "Last hours of shop-00000" in text and "Rejected records by reason: 1,000" in text, text

        lines = re.findall(r"^  (\S.*)$", text.split("== What to try next")[1], re.MULTILINE)
        job_lines = [line for line in lines if " run " in line]
        assert len(lines) == 8 and len(job_lines) == 1, lines
        answers = [shell(line) for line in lines if line not in job_lines]
        assert "exact" in answers[1] and "recount: exact" in answers[2], answers
        try_two_copies(job_lines[0])
        assert "exact" in shell(lines[1])
    finally:
        code = demo.end()
        if demo.folder:
            subprocess.run(["rm", "-rf", ROOT / demo.folder[1]], check=True)
    assert code == 143, code
    assert not started(), started()
    # The one beside it, on a broker and in a folder of its own.
    assert log.returncode == 0, log.stdout + log.stderr
    assert re.search(r"^exact: .*records? in raw", log.stdout, re.MULTILINE), log.stdout
    assert "10,000 records were sent" in log.stdout and "Rejected records by reason: 1\n" in log.stdout, log.stdout


def is_as_shown(text):
    """Every line of the demo's output that README shows is printed, in this order, but for its numbers and how long a bar is."""
    [shown] = re.findall(r"^## What the demo shows$.*?^```text\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    at = 0
    for line in filter(None, shown.splitlines()):
        pattern = re.sub(r"\\? (?:\\? )*", " +", re.sub(r"[█▏▎▍▌▋▊▉]+", "[█▏▎▍▌▋▊▉]+", re.sub(r"\d[\d,]*", r"[\\d,]+", re.escape(line))))
        found = re.compile("^" + pattern, re.MULTILINE).search(text, at)
        assert found, f"{line}\n{pattern}\nis not in\n{text}"
        at = found.end()


def try_two_copies(line):
    """The first one is fenced, the second one goes on."""
    copies = []
    for _ in range(2):
        error = tempfile.NamedTemporaryFile("w+")
        process = subprocess.Popen(line.split(), cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stderr=error)
        copies.append((process, error))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "job started" not in Path(error.name).read_text():
            assert process.poll() is None and time.monotonic() < deadline, Path(error.name).read_text()
            time.sleep(0.1)
    (first, first_error), (second, second_error) = copies
    try:
        assert first.wait(PATIENCE_SECONDS) == 76, Path(first_error.name).read_text()
        assert second.poll() is None, Path(second_error.name).read_text()
    finally:
        first.kill()
        second.terminate()
    assert second.wait(PATIENCE_SECONDS) == 0, Path(second_error.name).read_text()


def test_ctrl_c_leaves_nothing():
    folders = set((ROOT / ".work/demo").glob("*"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir("/")
        os.execve(DEMO, [str(DEMO)], ENVIRONMENT)
    text, pressed = b"", False
    while True:
        try:
            read = os.read(terminal, 1 << 16)
        except OSError:
            break
        if not read:
            break
        text += read
        if not pressed and b"epoch 1," in text:  # in the job's live line
            pressed = True
            os.write(terminal, b"\x03")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert pressed and code == 130, text.decode()
    assert b"Interrupted: all processes are ended" in text, text.decode()
    assert not started(), started()
    assert set((ROOT / ".work/demo").glob("*")) <= folders


def test_a_wrong_log_is_refused():
    with tempfile.NamedTemporaryFile("w+") as file:
        done = run(DEMO, "--log", file.name)
        assert done.returncode == 1 and "is empty" in done.stderr, done
        file.write("no access log\nat all\n")
        file.flush()
        done = run(DEMO, "--log", file.name)
        assert done.returncode == 1 and "None of the 2 lines is an access-log line" in done.stdout, done
        assert '"GET /shop HTTP/1.1" 200 512' in done.stdout and "is not an access log" in done.stderr, done
    for wrong, said in [(["--log", "/no/such/file"], "there is no file"), (["--log", "/"], "is not a readable file")]:
        done = run(DEMO, *wrong)
        assert done.returncode == 1 and said in done.stderr, done
    assert run(DEMO, "--nothing").returncode == 2
    assert not started(), started()


def test_differences_fail_the_demo():
    """With a binary whose verify finds differences."""
    binary = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/floodmark"
    with tempfile.TemporaryDirectory() as folder:
        for name, text in [
            ("bin/cargo", "exit 0"),
            ("release/floodmark", f'[[ $1 != verify ]] || {{ echo "1 difference"; exit 3; }}; exec {binary.absolute()} "$@"'),
        ]:
            file = Path(folder) / name
            file.parent.mkdir()
            file.write_text(f"#!/usr/bin/env bash\n{text}\n")
            file.chmod(0o755)
        places = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "CARGO_TARGET_DIR": folder}
        done = run(DEMO, "--log", str(ROOT / "tests/data/access_lines.txt"), env=ENVIRONMENT | places)
    assert done.returncode == 3 and "The demo failed (exit code 3)" in done.stdout, done
    assert not started(), started()


def main():
    passed = failed = 0
    for name, test in runner.chosen(runner.tests_of(globals())).items():
        try:
            test()
            passed += 1
            print(f"ok {name}", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"FAILED {name}", flush=True)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
