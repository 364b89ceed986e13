"""replay: an archive recounted with one field changed and compared with counts, beside DuckDB answering the same question."""

import json
import shutil
import sys
from pathlib import Path

from . import machine, tables
from .drain import send, size
from .machine import of

# A year, so that every window of an event is whole in it.
RANGE = ["--from", "2025-12-29", "--to", "2027-01-04"]


def sums(db, source):
    return db.execute(
        f"""SELECT granularity, dimension, count(*), sum(old_count), sum(new_count),
                   sum(hash(customer_id, window_start, dimension_value, old_count, new_count))
            FROM {source} GROUP BY ALL ORDER BY ALL"""
    ).fetchall()


def run(bench, args):
    runs = args.runs or (1 if args.quick else 3)
    folder = bench.folder
    events, days = size(args)
    kafka = send(bench, events, days)
    environment = {"KAFKA_BOOTSTRAP": kafka["KAFKA_BOOTSTRAP"], "FLOODMARK_TABLES": str(folder / "tables")}
    bench.tell("archiving and counting these events")
    bench.floodmark(["run", "jobs/bench.toml", "--workers", 2, "--drain"], environment, "job")
    bench.delete_topic("bench")
    changed = folder / "changed.toml"
    text = (machine.ROOT / "jobs/bench.toml").read_text()
    changed.write_text(text.replace('pointer = "/userInfo/country"', 'pointer = "/userInfo/locale"'))

    measured = {"replay": [], "1 % of customers": [], "duckdb": []}
    db = tables.connect()
    some = db.execute(f"SELECT DISTINCT customer_id FROM delta_scan('{folder}/tables/counts') ORDER BY hash(customer_id) LIMIT 100")
    (folder / "customers").write_text("".join(f"{row[0]}\n" for row in some.fetchall()))
    for number in range(runs):
        bench.tell(f"run {number + 1} of {runs}: replay")
        command = ["replay", "run", changed, *RANGE, "--workers", 2, "--output", "json"]
        replay = bench.floodmark([*command, "--id", f"all-{number}"], environment, f"replay-{number}")
        summary = json.loads(replay.pop("out"))["summary"]
        cells = summary["cells"]
        replay |= {"cells": cells["added"] + cells["changed"] + cells["removed"], "spilled": summary["spilled"]}
        measured["replay"].append(replay)
        few = [*command, "--id", f"few-{number}", "--customers", f"@{folder / 'customers'}"]
        few = bench.floodmark(few, environment, f"few-{number}")
        few.pop("out")
        measured["1 % of customers"].append(few)
        if args.no_limit:
            continue
        bench.tell(f"run {number + 1} of {runs}: DuckDB")
        shutil.rmtree(folder / "duckdb", ignore_errors=True)
        script = Path(__file__).with_name("replay_duckdb.py")
        duckdb = bench.program([sys.executable, script, folder / "tables", folder / "duckdb", 2], {}, f"duckdb-{number}")
        duckdb.pop("out")
        measured["duckdb"].append(duckdb)
        if number == 0:
            ours = sums(db, f"read_parquet('{folder}/tables/replays/all-0/cells/**/*.parquet', hive_partitioning = true)")
            theirs = sums(db, f"read_parquet('{folder}/duckdb/**/*.parquet', hive_partitioning = true)")
            if ours != theirs:
                differ = [row[:5] for row in sorted(set(ours) ^ set(theirs))][:6]
                raise machine.Failed(f"the replay and DuckDB found different changes (granularity, dimension, rows, old, new): {differ}")
            compared = sum(row[2] for row in ours)

    result = {"events": events, "runs": runs, "cells": measured["replay"][0]["cells"]}
    for name, values in measured.items():
        result[name] = {key: machine.spread([run[key] for run in values]) for key in (values[0] if values else {})}
    rows = [["", *measured]]
    for key, label in {"seconds": "seconds", "cpu_seconds": "CPU seconds", "rss_bytes": "peak memory, bytes"}.items():
        rows.append([label, *(of([run[key] for run in values]) if values else "-" for values in measured.values())])
    rows.append(["times that memory was full", of([run["spilled"] for run in measured["replay"]]), "", ""])
    if measured["duckdb"]:
        ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in zip(measured["replay"], measured["duckdb"])]
        result["ratio_of_seconds"] = machine.spread(ratios)
        result["equal_cells"] = compared
        rows.append(["DuckDB : replay, seconds", of(ratios), "", ""])
        rows.append(["changed cells, equal in both", f"{compared:,}", "", ""])
    return result, rows
