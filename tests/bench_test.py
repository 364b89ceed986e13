"""The parts of scripts/bench that read what others write: a job's log, a table's log, a store's requests.

Run it with `scripts/python tests/bench_test.py`, after `cargo build --release`.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/floodmark"
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts"))

import runner  # noqa: E402
from benchmarks import recovery, scale, tables  # noqa: E402
from benchmarks.proxy import CountingProxy  # noqa: E402
from benchmarks.sockets import Exchanged  # noqa: E402


def test_help_and_wrong_arguments_are_answered_without_the_readers(_):
    """By a Python without packages, which is not to look for another one."""
    bench = [sys.executable, "-S", ROOT / "scripts/bench"]
    for words, code, says in (["--help"], 0, "usage: scripts/bench"), (["nothing"], 2, "invalid choice: 'nothing'"):
        done = subprocess.run([*bench, *words], env=os.environ | {"FLOODMARK_PYTHON": "1"}, capture_output=True, text=True)
        assert done.returncode == code and says in done.stdout + done.stderr, (words, done)


def test_publishes_and_rows_are_read_from_a_short_life(folder):
    """Rows that the job's log says were written are those of the table's log."""
    environment = os.environ | {"FLOODMARK_TABLES": str(folder / "tables")} | tables.LOG
    command = [BINARY, "dev", "long-life", ROOT / "jobs/bench.toml", "--publishes", "20", "--output", "json"]
    with (folder / "log").open("w") as log:
        life = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=log, check=True, text=True)
    assert json.loads(life.stdout)["publishes"] == 20
    orders = tables.publishes(folder / "log")
    assert orders["by_lanes"]["minute"]["orders"] >= 15, orders
    assert orders["by_granularity"]["minute"]["amplification"] >= 1, orders
    written = tables.rows_written(tables.commits(folder / "tables/counts"))
    for sums in orders.values():
        assert sum(order["rows"] for order in sums.values()) == sum(written.values()) > 0, (orders, written)
    live = tables.live(folder / "tables/counts")
    assert 0 < live["rows"] <= sum(written.values()), live


def test_what_a_day_costs_is_read_from_a_short_one(folder):
    """Eleven minutes in fast motion on two days of history: what the report says is what the tables' logs say."""
    job = folder / "job.toml"
    job.write_text(scale.without(["page"], (ROOT / "jobs/bench.toml").read_text()))
    environment = os.environ | {"FLOODMARK_TABLES": str(folder / "tables")} | tables.LOG

    def floodmark(*arguments):
        command = [BINARY, "dev", *map(str, arguments), "--output", "json"]
        with (folder / "log").open("w") as log:
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=log, check=True, text=True)
        return json.loads(done.stdout)

    until, begin = (round(moment.timestamp() * 1000) for moment in (scale.HISTORY_ENDS, scale.BEGIN))
    made = floodmark("preload", job, "--days", 2, "--customers", 30, "--events-per-day", 5000, "--until", until)
    before = tables.live(folder / "tables/counts")
    assert (before["files"], before["rows"], before["bytes"]) == (made["files"], made["rows"], made["bytes"])
    life = ["--publishes", 66, "--events", 100, "--customers", 30, "--web-delays", "--from", begin]
    result = scale.report(floodmark("long-life", job, *life), folder / "log")

    # All but the first publish, and not what the stop publishes.
    assert result["events"] == 6500, result
    lanes = result["lanes"]
    assert (lanes["minute"]["commits"], lanes["minute"]["mean_seconds"]) == (65, 10), lanes
    assert [lanes[lane]["commits"] for lane in ("hour", "day", "late", "coarse")] == [2, 2, 0, 0], lanes
    # The whole is the sum of its parts, and nearly all of it has a name.
    assert abs(sum(result["us_per_event_by_stage"].values()) - result["us_per_event"]) < 0.01, result
    assert abs(result["not_explained_share"]) < 0.2, result
    assert 0 < result["us_per_event_beside"] < result["us_per_event"], result
    stages = result["us_per_event_by_stage"]
    assert min(stages[name] for name in ("reading and decoding", "counting", "archiving", "merging", "commits of raw")) > 0, stages
    # What is merged for the lanes, by the log of the job, by that of the table, and by what was stored.
    works = result["publishes"]["by_work"]
    assert {work.split()[-1] for work in works} == {"minute", "hour", "day"} and works["minute minute"]["updates"] > 0, works
    assert set(result["us_per_event_merging"]) == {work for work in works if not work.startswith("sealing")}, result
    epochs = range(3, 68)
    newest = lambda commit: max([epoch for txn, epoch in commit["txn"].items() if txn.startswith("lane/")], default=0)  # noqa: E731
    commits = [commit for commit in tables.commits(folder / "tables/counts") if newest(commit) in epochs]
    assert sum(sums["rows"] for sums in works.values()) == sum(tables.rows_written(commits).values()), works
    added = [add["size"] for commit in commits for add in commit["add"]]
    puts = result["requests"]["counts data put"]
    assert (puts["requests"], puts["bytes"]) == (len(added), sum(added)), puts
    assert result["requests"]["raw log put"]["requests"] >= 65, result["requests"]
    assert result["dead_bytes"] == sum(added) - result["grown_bytes"] > 0, result
    json.dumps(result)


def test_a_dimension_is_left_out(folder):
    job = scale.without(["page", "country"], (ROOT / "jobs/bench.toml").read_text())
    assert "[dimensions.action]" in job and "[dimensions.page]" not in job and "[dimensions.country]" not in job, job
    assert job.count("granularities") == 2, job


def test_the_age_of_minutes_is_a_saw(folder):
    """Epochs close at 10, 20, 30 s; their minutes can be seen two seconds later, but for the third: five."""
    for table in ("raw", "counts"):
        (folder / table / "_delta_log").mkdir(parents=True)
    for epoch in range(1, 5):
        opened = f"1970-01-01T00:00:{(epoch - 1) * 10:02}.000Z"
        stats = {"numRecords": 1, "minValues": {"epoch": epoch, "ingested_at": opened}, "maxValues": {"epoch": epoch}}
        add = {"add": {"path": "x", "partitionValues": {}, "size": 1, "stats": json.dumps(stats)}}
        (folder / f"raw/_delta_log/{epoch:020}.json").write_text(json.dumps(add))
        path = folder / f"counts/_delta_log/{epoch:020}.json"
        path.write_text(json.dumps({"txn": {"appId": "lane/minute", "version": epoch}}))
        seen = epoch * 10 + (5 if epoch == 3 else 2)
        os.utime(path, (seen, seen))
    ages = tables.minute_ages(folder, 0, 100)
    # From 2 to 12 s, and from 2 to 15 s.
    assert ages["worst_seconds"] == 15 and ages["publishes"] == 3, ages
    assert abs(ages["median_seconds"] - 7.75) < 0.01, ages
    # Of a part of it: from 8 to 12 s, and from 2 to 5 s. Commits of others do not matter.
    other = folder / "counts/_delta_log" / f"{5:020}.json"
    other.write_text(json.dumps({"txn": {"appId": "replay/r", "version": 1}}))
    os.utime(other, (20, 20))
    ages = tables.minute_ages(folder, 18, 25)
    assert ages["worst_seconds"] == 12 and ages["publishes"] == 1, ages


def test_bytes_between_sockets_are_counted_both_ways(folder):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        exchanged = Exchanged([listener.getsockname()[1]])
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
        with here, there:
            for one, other, size in ((here, there, 1 << 20), (there, here, 1000)):
                one.settimeout(10)
                threading.Thread(target=one.sendall, args=(bytes(size),)).start()
                while size > 0:
                    size -= len(other.recv(1 << 16))
            exchanged.ask()
        total = exchanged.stop()
    assert total == (1 << 20) + 1000, total


def test_the_parts_of_a_recovery_are_read_from_the_logs(folder):
    """Process 1 is killed at 100 s, and its minutes can be seen at 106 s; process 1 had to be started twice."""

    def line(at, message, **more):
        return {"at": at, "message": message} | more

    lost = line(100.5, "end", what="process 1 at h:2 is lost: it closed its connection")
    first = [
        *[line(99, "raw committed"), lost, line(100.6, lost["what"]), line(101, "gathering"), line(103, "connected")],
        *[line(103.25, "connected"), line(104, "job started"), line(105, "raw committed"), line(107, "raw committed")],
    ]
    second = [line(90, "gathering"), line(100.1, "gathering"), line(102, "gathering"), line(104.1, "workers started")]
    parts = recovery.parts([first, second], 100, 106)
    expected = {"lost": 0.5, "begun": 1.5, "gathered": 1.25, "started": 0.75, "raw": 1, "published": 1}
    assert parts == expected, parts
    assert recovery.parts([first, second], 103.5, 106) is None


def test_the_proxy_counts_and_keeps_the_host(folder):
    class Store(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            content = self.headers["Host"].encode()
            self.send_response(206)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    store = HTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=store.serve_forever, daemon=True).start()
    proxy = CountingProxy(*store.server_address)
    try:
        for _ in range(2):
            client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
            client.request("GET", "/bucket/a%3Db", headers={"Host": "signed.example"})
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (206, b"signed.example")
            client.close()
        assert proxy.take() == [("GET", "/bucket/a%3Db", 206, 14)] * 2
        assert proxy.take() == []
    finally:
        proxy.close()
        store.shutdown()


if __name__ == "__main__":
    sys.exit(runner.run(globals()))
