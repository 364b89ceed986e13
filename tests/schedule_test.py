"""scripts/replay with a program in place of floodmark, and the manifest in scripts/deploy by Kubernetes' own schemas.

Run it with `scripts/python tests/schedule_test.py`, after `cargo build --release`.
"""

import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import kubernetes_validate
import yaml

sys.dont_write_bytecode = True

import runner  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
REPLAY = ROOT / "scripts/replay"
MANIFEST = ROOT / "scripts/deploy/replay-job.yaml"
JOB = ROOT / "jobs/web-analytics.toml"
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/floodmark"
RANGE = ["--from", "2026-01-13", "--to", "2026-01-15"]
PATIENCE_SECONDS = 30


class Fake:
    """A program that ends with the next of some exit codes, and notes how it was called."""

    def __init__(self, folder, *codes, body=""):
        self.calls, self.program = folder / "calls", folder / "floodmark"
        self.calls.write_text("")
        (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
        self.program.write_text(f"""#!/usr/bin/env bash
cd '{folder}'
printf '%s\\n' "$*" >>calls
{body}
exit "$(sed -n "$(wc -l <calls)p" codes)"
""")
        self.program.chmod(0o755)

    def start(self, *words, **env):
        return subprocess.Popen(
            [REPLAY, *words], env=os.environ | {"FLOODMARK": str(self.program)} | env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def run(self, *words, **env):
        process = self.start(*words, **env)
        out, error = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, out, error

    def called(self):
        return self.calls.read_text().splitlines()


def ids(*lines):
    return [subprocess.run([REPLAY, *line, "--print-id"], capture_output=True, text=True, check=True).stdout.strip() for line in lines]


def test_exit_codes_are_passed_through(folder):
    for code in (0, 1, 2, 3, 78, 137):
        fake = Fake(folder, code)
        assert fake.run(str(JOB), *RANGE, "--wait", "0")[0] == code, code
        assert len(fake.called()) == 1, fake.called()


def test_75_is_tried_again_as_the_same_replay(folder):
    fake = Fake(folder, 75, 75, 3)
    code, _, error = fake.run(str(JOB), *RANGE, "--wait", "0", "--", "--publish", "--workers", "2")
    assert code == 3 and error.count("try again") == 2, error
    [id] = ids([str(JOB), *RANGE])
    line = f"replay run {JOB} --from 2026-01-13 --to 2026-01-15 --id {id} --publish --workers 2"
    assert fake.called() == [line] * 3, fake.called()
    fake = Fake(folder, *[75] * 9)
    assert fake.run(str(JOB), *RANGE, "--wait", "0", "--attempts", "4")[0] == 75
    assert len(fake.called()) == 4
    # 1 s, then 2 s.
    started = time.monotonic()
    assert Fake(folder, 75, 75, 0).run(str(JOB), *RANGE, "--wait", "1")[0] == 0
    assert time.monotonic() - started >= 3


def test_the_id_is_of_the_job_and_the_range(folder):
    other = folder / "web-analytics.toml"
    other.write_text(JOB.read_text())
    base = [str(JOB), *RANGE]
    first, again, moved = ids(base, base, [str(other), *RANGE])
    assert first == again == moved and first.startswith("web-analytics_2026-01-13_2026-01-15_"), (first, again, moved)
    other.write_text(JOB.read_text().replace("/userInfo/country", "/userinfo/country"))
    long = folder / f"{'ä. /' * 2}{'x' * 90}.toml".replace("/", "")
    long.write_text("")
    different = ids(
        base,
        [str(other), *RANGE],
        [str(JOB), "--from", "2026-01-13", "--to", "2026-01-16"],
        [*base, "--customers", "shop-00000"],
        [*base, "--customers", "shop-00000", "--customers", "shop-00001"],
        [str(long), "--from", "2026-01-13T00:00:00.000000+01:00", "--to", "2026-01-14T00:00:00.000000+01:00"],
    )
    assert len(set(different)) == len(different), different
    # As `floodmark replay run --id` wants it.
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", id) for id in different), different
    fake = Fake(folder, 0)
    assert fake.run(*base, "--id", "mine")[0] == 0 and "--id mine" in fake.called()[0]


def test_yesterday_is_the_default(folder):
    fake = Fake(folder, 0)
    today = datetime.now(timezone.utc).date()
    assert fake.run(str(JOB), TZ="Pacific/Kiritimati")[0] == 0
    days = [(today - timedelta(days=1), today), (today, today + timedelta(days=1))]  # midnight may pass meanwhile
    assert any(f"--from {first} --to {last} " in fake.called()[0] for first, last in days), fake.called()


def test_a_wrong_command_line_calls_nothing(folder):
    fake = Fake(folder, 0)
    for words in (
        [], [str(JOB), "--from", "2026-01-13"], [str(JOB), "--nothing"], [str(JOB), str(JOB)], [str(JOB), "--attempts", "0"],
        [str(JOB), "--wait", "x"], [str(JOB), "--id"],
    ):
        code, out, error = fake.run(*words)
        assert code == 2 and not out and "--help" in error, (words, code, out, error)
    assert fake.run(str(folder / "nothing.toml"), *RANGE)[0] == 78
    assert fake.called() == []
    code, out, _ = fake.run("--help")
    assert code == 0 and all(word in out for word in ("--attempts N", "Airflow", "75 still try again")), out


def test_a_signal_ends_what_runs(folder):
    for sent, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)):
        fake = Fake(folder, 0, body="trap 'echo ended >>ended; exit 0' TERM\ntouch ready\nsleep 60 &\nwait; exit 9")
        process = fake.start(str(JOB), *RANGE)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (folder / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (folder / "ready").unlink()
        process.send_signal(sent)
        assert process.wait(PATIENCE_SECONDS) == expected, (sent, process.returncode)
        assert (folder / "ended").read_text() == "ended\n"
        (folder / "ended").unlink()
    # Also while it waits for the next attempt.
    process = Fake(folder, 75, 0).start(str(JOB), *RANGE)
    assert "try again" in process.stderr.readline()
    process.terminate()
    assert process.wait(PATIENCE_SECONDS) == 143


def test_the_manifest_is_valid(_):
    manifest = yaml.safe_load(MANIFEST.read_text())
    kubernetes_validate.validate(manifest, "1.31", strict=True)
    spec = manifest["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    # Rules that the schemas do not know.
    assert pod["restartPolicy"] == "Never" and spec["backoffLimit"] > 0
    [fail] = [rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert (fail["containerName"], fail["operator"], fail["values"]) == (container["name"], "In", [1, 2, 78]), fail
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert volumes == set(mounts), (volumes, mounts)
    assert {"name": "TMPDIR", "value": mounts["scratch"]} in container["env"]
    assert container["args"][2].startswith(mounts["job"] + "/")
    # Its arguments are those of the command: it gets as far as the job file.
    done = subprocess.run([BINARY, *container["args"]], capture_output=True, text=True)
    assert done.returncode == 78 and container["args"][2] in done.stderr, done


if __name__ == "__main__":
    sys.exit(runner.run(globals()))
