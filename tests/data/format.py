"""Makes tests/data/format-<N>: small tables as a build leaves them, which every later build must open, go on with and verify.

    python3.11 tests/data/format.py FLOODMARK tests/data/format-<N>

FLOODMARK is the program of the build. It takes four minutes: a real job with epochs of a second, on an embedded broker. Logs
with a checkpoint and commits after it; epochs with records and without; late, rejected and filtered records, odd characters; a
second logic, a published replay, one that was undone; an orderly stop. What is superseded is deleted, so that it stays small.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

FLOODMARK, FOLDER = sys.argv[1:]
FOLDER = Path(FOLDER)
CHECKPOINT = 100  # commits; the fewer there are after the last one, the smaller are the tables

JOB = """# The job of these tables, as it was at their end.
name = "format"
[source]
topics = ["script"]
[source.kafka]
"bootstrap.servers" = "{broker}"
[tables]
url = "{tables}"
buckets = 1
[event]
format = "json"
customer = {{ pointer = "/customer" }}
event_time = {{ pointer = "/time" }}
[event.fields.action]
pointer = "/action"
{action}[[where]]
field = "action"
not = {{ equals = "ping" }}
[dimensions.total]
granularities = ["minute", "hour", "day", "week", "month", "year"]
[dimensions.action]
granularities = ["hour", "day"]
[lanes]
hour.publish_seconds = 5
day.publish_seconds = 5
late.publish_seconds = 10
coarse.publish_seconds = 10
[settings]
epoch_seconds = 1
idle_epoch_seconds = 1
"""
LOWER = 'transform = ["lower_case"]\n'

ACTIONS = ["View", "view", "Buy", "ping", "", "é\u0000\U0010ffff", "x" * 600]
HOUR = 3_600_000


def values(number, now_ms):
    """Some records of one moment: on time, late, of the last hours and days, and broken ones."""
    for index in range(6):
        age = [0, 1000, 3 * HOUR, 40 * HOUR, 400 * HOUR, 2000][index]
        action = ACTIONS[(number + index) % len(ACTIONS)]
        yield json.dumps({"customer": "ab"[index % 2], "time": now_ms - age, "action": action})
    yield "{"
    yield json.dumps({"customer": "a", "time": "soon", "action": "view"})


def main():
    job, work = FOLDER / "job.toml", FOLDER / "work"
    work.mkdir(parents=True)
    address = work / "broker"
    broker = subprocess.Popen([FLOODMARK, "dev", "broker", "--topic", "script:2", "--address-file", address])
    try:
        while not address.exists():
            time.sleep(0.1)
        where = ["--brokers", address.read_text().strip(), "--topic", "script"]

        def write_job(action, broker=where[1], tables=FOLDER.resolve() / "tables"):
            job.write_text(JOB.format(broker=broker, tables=tables, action=action))

        def run(*words):
            subprocess.run([FLOODMARK, *map(str, words)], check=True)

        def send(number):
            lines = work / "lines"
            lines.write_text("".join(value + "\n" for value in values(number, int(time.time() * 1000))))
            run("dev", "produce", lines, *where, "--partition", number % 2)

        def version(table):
            return max(int(path.stem) for path in (FOLDER / "tables" / table / "_delta_log").glob("*[0-9].json"))

        def run_until(done):
            process = subprocess.Popen([FLOODMARK, "run", job, "--workers", "2", "--log", "warn"])
            number = 0
            while not done(number):
                send(number)
                number += 1
                time.sleep(7)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0

        write_job("")
        send(0)
        run("run", job, "--drain")
        run_until(lambda number: number > 1 and min(version("raw"), version("counts")) > CHECKPOINT)
        write_job(LOWER)
        run_until(lambda number: number > 1)
        today = time.strftime("%Y-%m-%d", time.gmtime())
        for id in ["lower-case", "undone"]:
            run("replay", "run", job, "--from", "2020-01-01", "--to", today if id == "undone" else "2099-01-01", "--id", id)
            run("replay", "publish", id, "--job", job)
            if id == "undone":
                run("replay", "undo", id, "--job", job)
        run_until(lambda number: number > 1 and version("counts") > 2 * CHECKPOINT)
        run("table", "compact", job)
        run("table", "vacuum", job, "--retention-hours", "0", "--force")
        run("verify", job)
        write_job(LOWER, "none", "tables")
    finally:
        broker.terminate()
        broker.wait()
        for path in work.iterdir():
            path.unlink()
        work.rmdir()


main()
