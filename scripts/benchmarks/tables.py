"""What a table's folder and a job's log say of what was written."""

import json
import re
from datetime import datetime
from pathlib import Path

import duckdb
import duckdb_extension_delta
import duckdb_extension_httpfs

GRANULARITIES = ["minute", "hour", "day", "week", "month", "year"]


def connect():
    """DuckDB with the extensions that the Python packages carry."""
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    db.execute("SET enable_progress_bar = false")
    for package, name in [(duckdb_extension_httpfs, "httpfs"), (duckdb_extension_delta, "delta")]:
        folder = Path(package.__file__).parent / "extensions" / f"v{duckdb.__version__}"
        db.execute(f"LOAD '{folder}/{name}.duckdb_extension'")
    return db


def commits(table, after=-1):
    """The commits of a local table whose log entries are still there, of versions after one, with the moment at which each could be
    seen."""
    entries = (path for path in (Path(table) / "_delta_log").glob("*.json") if int(path.stem) > after)
    for path in sorted(entries):
        commit = {"version": int(path.stem), "seen": path.stat().st_mtime, "add": [], "remove": [], "txn": {}}
        for line in path.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                add = action["add"]
                stats = json.loads(add["stats"])
                commit["add"].append(
                    {"path": add["path"], "partition": add["partitionValues"], "size": add["size"], "stats": stats}
                    | {"rows": stats["numRecords"]}
                )
            elif "remove" in action:
                commit["remove"].append(action["remove"]["path"])
            elif "txn" in action:
                commit["txn"][action["txn"]["appId"]] = action["txn"]["version"]
        yield commit


def live(table):
    """Live files of a local table, by a reader of Delta Lake: how many, rows, bytes."""
    from deltalake import DeltaTable

    adds = DeltaTable(str(table)).get_add_actions(flatten=True)
    rows, sizes = adds.column("num_records").to_pylist(), adds.column("size_bytes").to_pylist()
    return {"files": len(sizes), "rows": sum(rows), "bytes": sum(sizes)}


def rows_written(commits):
    """Rows in files that were added, by granularity."""
    rows = dict.fromkeys(GRANULARITIES, 0)
    for commit in commits:
        for add in commit["add"]:
            rows[add["partition"]["granularity"]] += add["rows"]
    return rows


MESSAGE = re.compile(r"^\S+ .*?(merged|counts committed) (epoch=\d+ .*)")
FIELD = re.compile(r'(\w+)=(?:"([^"]*)"|(\S+))')
LANES = ["minute", "hour", "day", "late", "coarse"]

# The environment for a job whose log is to be read by `publishes` and `lane_intervals`.
LOG = {"FLOODMARK_LOG": "warn,librdkafka=off,floodmark=info,floodmark::dataflow::commit=debug"}


def said(log, message, between):
    """The fields of a message of the committer, of some epochs."""
    for line in Path(log).read_text().splitlines():
        found = MESSAGE.match(line)
        if found and found.group(1) == message:
            fields = {name: text or plain for name, text, plain in FIELD.findall(found.group(2))}
            if between is None or int(fields["epoch"]) in between:
                yield fields


def publishes(log, between=None):
    """What a job's log says of its publishes: by the lanes that were ordered together, by granularity, and by both, where what was sealed
    stands for itself."""
    by_lanes, by_granularity, by_work, orders = {}, {}, {}, {}
    for fields in said(log, "merged", between):
        lanes, granularity, seals = fields["lanes"], fields["granularity"], fields.get("seals") == "true"
        orders.setdefault(lanes, set()).add(fields["epoch"])
        work = f"sealing {granularity}" if seals else f"{lanes} {granularity}"
        for sums in (by_lanes.setdefault(lanes, {}), by_granularity.setdefault(granularity, {}), by_work.setdefault(work, {})):
            for key, value in fields.items():
                if key != "epoch" and value.isdigit():
                    sums[key] = sums.get(key, 0) + int(value)
    for lanes, sums in by_lanes.items():
        sums["orders"] = len(orders[lanes])
    for sums in (*by_lanes.values(), *by_granularity.values(), *by_work.values()):
        sums["amplification"] = sums["rows"] / sums["updates"] if sums["updates"] else None
    return {"by_lanes": by_lanes, "by_granularity": by_granularity, "by_work": by_work}


def lane_intervals(log, between, epoch_seconds):
    """How often each lane was ordered, and the time between, by the epochs of its commits."""
    commits = {lane: [between.start - 1] for lane in LANES}
    for fields in said(log, "counts committed", between):
        for lane in fields["lanes"].split("-"):
            commits[lane].append(int(fields["epoch"]))
    lanes = {}
    for lane, epochs in commits.items():
        gaps = [(after - before) * epoch_seconds for before, after in zip(epochs, epochs[1:])]
        mean = sum(gaps) / len(gaps) if gaps else None
        lanes[lane] = {"commits": len(gaps), "mean_seconds": mean, "most_seconds": max(gaps, default=None)}
    return lanes


def seconds_of(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def epochs(folder):
    """What the archive's log says of epochs: when each was opened, and the newest event time in it."""
    opened, newest = {}, {}
    for commit in commits(Path(folder) / "raw"):
        for add in commit["add"]:
            least, most = add["stats"]["minValues"], add["stats"]["maxValues"]
            if least["epoch"] == most["epoch"]:
                epoch = least["epoch"]
                opened[epoch] = seconds_of(least["ingested_at"])
                if "event_time" in most:
                    newest[epoch] = max(newest.get(epoch, 0), seconds_of(most["event_time"]))
    return opened, newest


def minute_ages(folder, begin, end):
    """How old the newest published minute was, between two moments.

    What an epoch has read is complete when the epoch closes: at the next one's ingested_at. It can be seen when a commit of
    counts has its lane. In between, and until the next such commit, readers see it age.
    """
    opened, _ = epochs(folder)
    points = []
    for commit in commits(Path(folder) / "counts"):
        epoch = commit["txn"].get("lane/minute")
        closed = None if epoch is None else opened.get(epoch + 1)
        if closed is not None:
            points.append((commit["seen"], closed))
    return saw(points, begin, end)


def complete_ages(folder, begin, end):
    """How long ago the newest minutes ended that are published and complete: the grace and the epoch's length come on top."""
    until = [(commit["seen"], commit["txn"].get("complete_until/minute")) for commit in commits(Path(folder) / "counts")]
    return saw([(seen, ms / 1000) for seen, ms in until if ms is not None], begin, end)


def saw(points, begin, end):
    """Median and worst age, from moments at which something could be seen and its time: at once after a publish it is
    youngest, just before the next one oldest."""
    teeth = []
    for (seen, time), (after, _) in zip(points, points[1:]):
        low, high = max(seen, begin), min(after, end)
        if low < high:
            teeth.append((low - time, high - time))
    if not teeth:
        return None
    total = sum(high - low for low, high in teeth)
    below = lambda age: sum(min(max(age - low, 0), high - low) for low, high in teeth)  # noqa: E731
    low, high = 0.0, max(high for _, high in teeth)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < total / 2 else (low, middle)
    publishes = sum(begin <= seen <= end for seen, _ in points)
    return {"median_seconds": high, "worst_seconds": max(high for _, high in teeth), "publishes": publishes}


def behind(folder, begin, end):
    """Between two moments: rows that were archived, and how far the newest event of an epoch was behind its end, at worst."""
    opened, newest = epochs(folder)
    seen = [commit for commit in commits(Path(folder) / "raw") if begin <= commit["seen"] <= end]
    rows = sum(add["rows"] for commit in seen for add in commit["add"])
    numbers = {commit["txn"].get("epoch", 0) for commit in seen}
    seconds = [opened[epoch + 1] - newest[epoch] for epoch in numbers if epoch in newest and epoch + 1 in opened]
    return {"rows": rows, "worst_seconds": max(seconds, default=None)}
