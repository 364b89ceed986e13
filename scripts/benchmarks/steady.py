"""steady: a constant stream onto tables with weeks of history that is as dense as the stream.

Density is events per customer and day: it decides how many rows a day of a customer has, so how much is around the rows that a publish
changes. The history has to have it too, for the same customers, and a machine can make some 300 million events of history in minutes, not
billions. So the stream has 100 events/s, of 2,000 customers: 4,320 events per customer and day, as `scale` has. A load of 10,000
events/s of 200,000 customers is as dense. What reading a fast stream costs is measured by `drain`.
"""

import json
import signal
import time

from . import machine, tables
from .machine import short

RATE, CUSTOMERS, DAYS = 100, 2_000, 35


def run(bench, args):
    seconds = args.seconds or (90 if args.quick else 600)
    kafka = bench.server("kafka")
    bench.topic("steady", 4)
    folder = bench.folder / "tables"
    environment = {
        "KAFKA_BOOTSTRAP": kafka["KAFKA_BOOTSTRAP"],
        "FLOODMARK_TABLES": str(folder),
        "FLOODMARK_TOPIC": "steady",
    } | tables.LOG
    days = 7 if args.quick else DAYS
    bench.tell(f"creating {days} days of history")
    history = ["--days", days, "--customers", CUSTOMERS, "--events-per-day", RATE * 86_400]
    made = bench.floodmark(["dev", "preload", "jobs/bench.toml", *history, "--output", "json"], environment, "preload")
    preloaded = json.loads(made["out"])

    job = bench.start(["run", "jobs/bench.toml", "--workers", 2], environment, "job")
    wait_for(lambda: "job started" in job.err.read_text(), job)
    bench.tell(f"sending {RATE:,} events/s for {seconds} s")
    topic = ["--brokers", kafka["KAFKA_BOOTSTRAP"], "--topic", "steady", "-X", "compression.type=lz4"]
    traffic = ["--live", "--rate", RATE, "--events", RATE * seconds, "--customers", CUSTOMERS, "--seed", 2]
    begun, begun_at = time.monotonic(), time.time()
    cpu = {"job": machine.cpu_of(job.pid), "broker": bench.server_cpu("kafka")}
    bench.floodmark(["dev", "gen", *topic, *traffic], environment, "gen")
    took, ended_at = time.monotonic() - begun, time.time()
    cpu = {"job": machine.cpu_of(job.pid) - cpu["job"], "broker": bench.server_cpu("kafka") - cpu["broker"]}
    ages = tables.minute_ages(folder, begun_at, ended_at)
    live = tables.live(folder / "counts")
    written = tables.rows_written(commit for commit in tables.commits(folder / "counts") if commit["seen"] >= begun_at)
    time.sleep(12)  # what was sent last is read, so that the stop has an ordinary epoch's work
    job.send_signal(signal.SIGTERM)
    stopping = time.monotonic()
    whole = bench.end(job)
    stopped = time.monotonic() - stopping
    orders = tables.publishes(job.err)
    bench.delete_topic("steady")

    # With what the stop publishes: more than its share, as the slow lanes had no other turn.
    longer = [sums["merge_us"] for name, sums in orders["by_granularity"].items() if name not in ("minute", "hour")]
    core = lambda seconds: seconds / took  # noqa: E731
    result = {
        "rate": RATE,
        "seconds": took,
        "preloaded": preloaded,
        "cores_job": core(cpu["job"]),
        "cores_broker": core(cpu["broker"]),
        "cores_merge_day_and_coarser": core(sum(longer) / 1e6),
        "rss_bytes": whole["rss_bytes"],
        "stop_seconds": stopped,
        "minute_age": ages,
        "live": live,
        "rows_written": written,
        "publishes": orders,
    }
    rows = [
        ["history", f"{short(preloaded['rows'])} rows, {preloaded['files']} files, {short(preloaded['bytes'])}B"],
        ["cores busy: job, broker", f"{result['cores_job']:.2f}, {result['cores_broker']:.2f}"],
        ["cores busy: merges of days and coarser", f"{result['cores_merge_day_and_coarser']:.3f}"],
        ["peak memory, bytes", short(whole["rss_bytes"])],
        ["age of the newest published minute", age_text(ages)],
        ["live files of counts", live["files"]],
        ["orderly stop, seconds", f"{stopped:.1f}"],
        ["rows written by granularity", ", ".join(f"{name} {short(rows)}" for name, rows in written.items())],
        *publish_rows(orders),
    ]
    return result, rows


def age_text(ages):
    return f"median {ages['median_seconds']:.1f} s, worst {ages['worst_seconds']:.1f} s" if ages else "-"


def publish_rows(orders):
    """The last lines of a table: what was merged for the lanes of an order, and for a granularity."""

    def figures(sums):
        rows = f"{short(sums['rows'])} rows for {short(sums['updates'])} updates: {short(sums['amplification'])}"
        return f"{rows}; {sums['merge_us'] / 1e6:.1f} s"

    for lanes, sums in sorted(orders["by_lanes"].items(), key=lambda item: -item[1]["rows"]):
        yield [f"lanes {lanes}", f"{sums['orders']} times, {figures(sums)}"]
    for granularity, sums in orders["by_granularity"].items():
        yield [f"granularity {granularity}", figures(sums)]


def wait_for(done, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not done():
        if process.poll() is not None or time.monotonic() > deadline:
            raise machine.Failed(f"the job did not start: {process.err.read_text()[-500:]}")
        time.sleep(0.1)
