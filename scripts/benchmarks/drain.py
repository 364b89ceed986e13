"""drain: a topic read up to its end by a job, beside the same work as a bare loop."""

import json
import shutil

from . import machine, tables
from .machine import of

DAY_EVENTS = 2_000_000
PARTITIONS = 4


def fingerprints(db, source, granularity):
    """Of each granularity and dimension: rows, events, and a sum of hashes of all rows."""
    return db.execute(
        f"""SELECT {granularity} AS granularity, dimension, count(*), sum(event_count),
                   sum(hash(customer_id, window_start, window_end, dimension_value, event_count))
            FROM {source} GROUP BY ALL ORDER BY ALL"""
    ).fetchall()


def compare(folder):
    db = tables.connect()
    job = fingerprints(db, f"delta_scan('{folder}/tables/counts')", "granularity")
    loop = fingerprints(
        db,
        f"read_parquet('{folder}/limit/counts-*.parquet', filename = true)",
        "regexp_extract(filename, 'counts-([a-z]+).parquet', 1)",
    )
    if job != loop:
        differ = [row[:4] for row in sorted(set(job) ^ set(loop))][:6]
        raise machine.Failed(f"the job and the loop counted differently (granularity, dimension, rows, events): {differ}")
    return sum(row[2] for row in job)


def size(args):
    """How many events, and of how many days: more events are more days, so there are more customers' windows too, and memory
    that grew with history would show."""
    events = args.events or (400_000 if args.quick else DAY_EVENTS)
    return events, max(1, events // DAY_EVENTS)


def send(bench, events, days, topic="bench", more=()):
    """Sends events to a broker of ours; returns the broker."""
    kafka = bench.server("kafka")
    where = ["--brokers", kafka["KAFKA_BOOTSTRAP"], "--topic", topic, "--partitions", PARTITIONS]
    traffic = ["--events", events, "--customers", 10_000, "--from", "2026-01-13", "--hours", 24 * days, *more]
    bench.tell(f"sending {events:,} events of {days} day{'' if days == 1 else 's'}")
    bench.floodmark(["dev", "gen", *where, *traffic, "-X", "compression.type=lz4"], {}, "gen")
    return kafka


def environment(bench, kafka, topic="bench"):
    """Of a job that drains a topic into a local folder."""
    places = {"FLOODMARK_TOPIC": topic, "FLOODMARK_TABLES": str(bench.folder / "tables")}
    return {"KAFKA_BOOTSTRAP": kafka["KAFKA_BOOTSTRAP"]} | places | tables.LOG


def job(bench, environment, events, name, path="jobs/bench.toml", binary=None):
    """Drains a topic into tables that begin anew; by another build, if one is given."""
    shutil.rmtree(bench.folder / "tables", ignore_errors=True)
    done = bench.program([binary or bench.binary, "run", path, "--workers", 2, "--drain"], environment, name)
    return done | written(bench, events)


def written(bench, events):
    """What a job has left in its tables."""
    folder = bench.folder / "tables"
    raw, counts = (tables.live(folder / name) for name in ("raw", "counts"))
    if raw["rows"] != events:
        raise machine.Failed(f"{events:,} events were sent, but {raw['rows']:,} are in the archive")
    sizes = {f"{name}_{key}": value for name, live in (("raw", raw), ("counts", counts)) for key, value in live.items()}
    return sizes | {"rows_written": sum(tables.rows_written(tables.commits(folder / "counts")).values())}


def loop(bench, environment, name):
    """The same as a bare loop."""
    shutil.rmtree(bench.folder / "limit", ignore_errors=True)
    command = ["dev", "limit", "jobs/bench.toml", "--threads", 2, "--to", bench.folder / "limit", "--output", "json"]
    done = bench.floodmark(command, environment, name)
    figures = json.loads(done["out"])
    sizes = {key: figures[key] for key in ("raw_rows", "raw_bytes", "counts_rows", "counts_bytes")}
    return done | sizes | {"rows_written": figures["counts_rows"]}


def run(bench, args):
    runs = args.runs or (1 if args.quick else 3)
    events, days = size(args)
    env = environment(bench, send(bench, events, days))
    folder = bench.folder
    measured = {"job": [], "limit": []}
    other = []
    compared = 0
    for number in range(runs):
        if args.other_build:
            bench.tell(f"run {number + 1} of {runs}: the other build")
            other.append(job(bench, env, events, f"other-{number}", binary=args.other_build))
        bench.tell(f"run {number + 1} of {runs}: job")
        measured["job"].append(job(bench, env, events, f"job-{number}"))
        if args.no_limit:
            continue
        bench.tell(f"run {number + 1} of {runs}: loop without guarantees")
        measured["limit"].append(loop(bench, env, f"limit-{number}"))
        if not compared:
            compared = compare(folder)
    bench.delete_topic("bench")

    result = {"events": events, "days": days, "runs": runs, "equal_rows": compared}
    for name, values in measured.items():
        for run in values:
            run.pop("out")
            run["events_per_second"] = events / run["seconds"]
            run["events_per_cpu_second"] = events / run["cpu_seconds"]
        result[name] = {key: machine.spread([run[key] for run in values]) for key in (values[0] if values else {})}
    labels = {
        "events_per_second": "events/s",
        "seconds": "seconds",
        "cpu_seconds": "CPU seconds",
        "events_per_cpu_second": "events per CPU second",
        "rss_bytes": "peak memory, bytes",
        "raw_bytes": "raw, bytes",
        "counts_rows": "counts, rows",
        "counts_bytes": "counts, bytes",
        "rows_written": "rows of counts written",
    }
    rows = [["", "job", "loop without guarantees"]]
    for key, label in labels.items():
        rows.append([label, *(of([run[key] for run in values]) if values else "-" for values in measured.values())])
    if measured["limit"]:
        ratios = [job["events_per_cpu_second"] / limit["events_per_cpu_second"] for job, limit in zip(*measured.values())]
        result["ratio_per_cpu_second"] = machine.spread(ratios)
        rows.append(["job : loop, events per CPU second", of(ratios)])
        rows.append(["rows equal in both", f"{compared:,}"])
    if other:
        for key in ("seconds", "cpu_seconds"):
            ratios = [before[key] / now[key] for before, now in zip(other, measured["job"])]
            result[f"other_build_{key}_ratio"] = machine.spread(ratios)
            rows.append([f"other build : job, {labels[key]}", of(ratios)])
    return result, rows
