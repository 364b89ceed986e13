"""long-life: what becomes of the tables after thousands of publishes."""

import json
import statistics
import time

import polars

from . import tables
from .machine import ROOT, short
from .steady import publish_rows


def run(bench, args):
    publishes = args.publishes or (720 if args.quick else 8640)
    folder = bench.folder / "tables"
    # A day's dead files would stay for a day: an hour shows that they go.
    job = bench.folder / "job.toml"
    job.write_text((ROOT / "jobs/bench.toml").read_text() + "\n[settings]\ndead_files_keep_hours = 1\n")
    environment = {"FLOODMARK_TABLES": str(folder)} | tables.LOG
    bench.tell(f"a simulated day of {publishes:,} publishes")
    command = ["dev", "long-life", job, "--publishes", publishes, "--output", "json"]
    life = bench.floodmark(command, environment, "life")
    figures = json.loads(life["out"])
    counts = folder / "counts"
    alive = tables.live(counts)
    log = [path.stat().st_size for path in (counts / "_delta_log").iterdir()]
    db = tables.connect()
    opened = {
        "floodmark": figures["open_seconds"],
        "duckdb": median_seconds(lambda: db.execute(f"FROM delta_scan('{counts}') LIMIT 0").fetchall()),
        "polars": median_seconds(lambda: polars.scan_delta(str(counts)).collect_schema()),
    }
    before, after = figures["bytes_on_disk"], figures["bytes_when_clean"]
    orders = tables.publishes(bench.folder / "life.err")
    result = {
        "publishes": publishes,
        "records": figures["records"],
        "seconds": life["seconds"],
        "version": figures["version"],
        "live": alive,
        "log_entries": len(log),
        "log_bytes": sum(log),
        "open_seconds": opened,
        "bytes_on_disk": before,
        "bytes_when_clean": after,
        "publishes_by_lanes": orders,
    }
    rows = [
        ["publishes, records, seconds", f"{publishes:,}, {figures['records']:,}, {life['seconds']:.0f}"],
        ["live files, rows, bytes", f"{alive['files']:,}, {short(alive['rows'])}, {short(alive['bytes'])}"],
        ["log: version, entries, bytes", f"{figures['version']:,}, {len(log):,}, {short(result['log_bytes'])}"],
        ["seconds to open", ", ".join(f"{name} {seconds:.3f}" for name, seconds in opened.items())],
        ["bytes on disk : bytes alive", f"{short(before)} : {short(alive['bytes'])} = {before / alive['bytes']:.2f}"],
        ["the same an hour later, after a cleanup", f"{short(after)} : {short(alive['bytes'])} = {after / alive['bytes']:.2f}"],
        *publish_rows(orders),
    ]
    return result, rows


def median_seconds(work):
    taken = []
    for _ in range(4):
        begun = time.monotonic()
        work()
        taken.append(time.monotonic() - begun)
    return statistics.median(taken[1:])  # the first one also loads the reader
