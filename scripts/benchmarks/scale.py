"""scale: what a publish costs on tables that are as dense as the load: a day in fast motion, CPU by stage."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

from . import machine, tables
from .machine import short

# The day in fast motion is always the same, so that runs can be compared: the 25th, when the files of a month hold most of it. It has
# to be in the future, as what cleans up compares with the times of files, which are written today. It begins an hour before the files of
# the day before are sealed.
BEGIN = datetime(2030, 6, 25, 2, tzinfo=UTC)
HISTORY_ENDS = BEGIN - timedelta(minutes=10)  # more than the longest grace

EPOCH_SECONDS = 10
RATE = 100
CUSTOMERS = 2_000

# What every event costs once, however large the tables are. Each worker's thread also arranges and exchanges, outside of all spans.
READING = {"reading and decoding": ["source", "decode"], "counting": ["combine", "roll_up", "pending", "outside timely:work"]}
READING["archiving"] = ["raw", "archiver"]
OTHERS = {
    "planning": ["plan"],
    "commits of raw": ["commit raw"],
    "commits of counts": ["commit counts"],
    "ticks and orders": ["commit", "outside committer"],
    "checkpoints": ["checkpoint"],
    "upkeep": ["upkeep"],
    "storage, outside of these": ["outside storage"],
}


def run(bench, args):
    hours = args.hours or (2 if args.quick else 24)
    days = args.days or (7 if args.quick else 35)
    rate, customers = args.rate or RATE, args.customers or CUSTOMERS
    job = bench.folder / "job.toml"
    # An hour, so that a day's dead files need no disk.
    job.write_text(without(args.without or [], (machine.ROOT / "jobs/bench.toml").read_text()) + "\n[settings]\ndead_files_keep_hours = 1\n")
    folder = bench.folder / "tables"
    environment = {"FLOODMARK_TABLES": str(folder)} | tables.LOG
    history = preload(bench, args, job, environment, folder, rate, customers, days)

    publishes = round(hours * 3600 / EPOCH_SECONDS)
    bench.tell(f"{hours:g} hours in fast motion, {rate} events/s")
    command = ["dev", "long-life", job, "--publishes", publishes, "--events", rate * EPOCH_SECONDS, "--customers", customers]
    command += ["--late-share", 0] if args.late == "none" else ["--web-delays"]
    command += ["--from", round(BEGIN.timestamp() * 1000), "--output", "json"]
    life = bench.floodmark(command, environment, "life")
    result = {"rate": rate, "customers": customers, "hours": hours, "late": args.late, "without": args.without or [], "history": history}
    result |= {"seconds": life["seconds"], "rss_bytes": life["rss_bytes"], "live": tables.live(folder / "counts")}
    result |= report(json.loads(life["out"]), bench.folder / "life.err")
    return result, list(lines(result))


def without(dimensions, job):
    """A job that does not count these dimensions."""
    for name in dimensions:
        job, found = re.subn(rf"\[dimensions\.{re.escape(name)}\]\n(?:[^\[\n].*\n?)*", "", job)
        if not found:
            raise machine.Failed(f"--without {name}: jobs/bench.toml has no such dimension")
    return job


def preload(bench, args, job, environment, folder, rate, customers, days):
    """Makes the history; or takes what an earlier run has made for --history. Files of a table never change, so links to them do."""
    kept = args.history
    if kept is None or not (kept / "made.json").exists():
        bench.tell(f"making {days} days of history, {rate * 86_400:,} events each, of {customers:,} customers")
        size = ["--days", days, "--customers", customers, "--events-per-day", rate * 86_400]
        until = ["--until", round(HISTORY_ENDS.timestamp() * 1000), "--output", "json"]
        made = bench.floodmark(["dev", "preload", job, *size, *until], environment, "preload")
        out = json.loads(made.pop("out")) | made
        if kept is not None:
            kept.mkdir(parents=True)
            link(folder, kept / "tables")
            (kept / "made.json").write_text(json.dumps(out))
        return out
    bench.tell(f"taking the history from {kept}")
    link(kept / "tables", folder)
    return json.loads((kept / "made.json").read_text())


def link(of, to):
    if subprocess.run(["cp", "-al", of, to], check=False, stderr=subprocess.DEVNULL).returncode != 0:
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(of, to)


def report(figures, log):
    """What a run in fast motion has cost, by its report and its log."""
    cost, between = figures["cost"], range(figures["first_epoch"], figures["last_epoch"] + 1)
    stages = {name: used["cpu_seconds"] for name, used in cost["stages"].items() if used["cpu_seconds"] > 0}
    groups, merging, sealing = {}, {}, {}
    left = dict(stages)
    for name, parts in (READING | OTHERS).items():
        groups[name] = sum(left.pop(part, 0) for part in parts)
    for name in [name for name in left if name.split()[0] == "merge"]:
        work = name.split()[1:]
        of = sealing if "seals" in work else merging
        key = " ".join(part for part in reversed(work) if part != "seals")
        of[key] = of.get(key, 0) + left.pop(name)
    groups |= {"merging": sum(merging.values()), "sealing": sum(sealing.values()), "other threads": sum(left.values())}
    groups["not explained"] = cost["cpu_seconds"] - sum(groups.values())
    beside = cost["cpu_seconds"] - sum(groups[name] for name in READING)
    per_event = lambda seconds: seconds / cost["records"] * 1e6  # noqa: E731
    grown = cost["live_bytes_after"] - cost["live_bytes_before"]
    return {
        "events": cost["records"],
        "cpu_seconds": cost["cpu_seconds"],
        "us_per_event": per_event(cost["cpu_seconds"]),
        "us_per_event_beside": per_event(beside),
        "not_explained_share": groups["not explained"] / cost["cpu_seconds"],
        "us_per_event_by_stage": {name: per_event(seconds) for name, seconds in groups.items()},
        "us_per_event_merging": {name: per_event(seconds) for name, seconds in merging.items()},
        "us_per_event_sealing": {name: per_event(seconds) for name, seconds in sealing.items()},
        "publishes": tables.publishes(log, between),
        "lanes": tables.lane_intervals(log, between, EPOCH_SECONDS),
        "requests": cost["requests"],
        "dead_bytes": cost["requests"].get("counts data put", {"bytes": 0})["bytes"] - grown,
        "grown_bytes": grown,
        "files": figures["files"],
    }


def lines(result):
    history = result["history"]
    yield ["history", f"{short(history['rows'])} rows, {history['files']} files, {short(history['bytes'])}B, made in {history['seconds']:.0f} s"]
    yield ["events, hours, seconds", f"{short(result['events'])}, {result['hours']:g}, {result['seconds']:.0f}"]
    yield ["CPU per event, µs", f"{result['us_per_event']:.1f}"]
    yield ["… beside reading, counting, archiving", f"{result['us_per_event_beside']:.1f}"]
    for name, us in result["us_per_event_by_stage"].items():
        yield [f"  {name}", f"{us:.2f}"]
        for of, key in (("merging", "us_per_event_merging"), ("sealing", "us_per_event_sealing")):
            if of == name:
                yield from ([f"    {work}", f"{us:.2f}"] for work, us in sorted(result[key].items(), key=lambda item: -item[1]))
    for work, sums in sorted(result["publishes"]["by_work"].items(), key=lambda item: -item[1]["rows"]):
        yield [f"rows: {work}", rows_text(sums)]
    for lane, of in result["lanes"].items():
        if of["commits"]:
            yield [f"lane {lane}", f"{of['commits']} commits, every {of['mean_seconds']:.0f} s, at most {of['most_seconds']:.0f} s"]
    for kind, made in result["requests"].items():
        yield [f"requests: {kind}", f"{short(made['requests'])}, {short(made['bytes'])}B; {short(made['requests'] / result['hours'])} an hour"]
    yield ["live files, rows, bytes", f"{result['live']['files']:,}, {short(result['live']['rows'])}, {short(result['live']['bytes'])}"]
    yield ["bytes that became dead : that live tables grew by", f"{short(result['dead_bytes'])} : {short(result['grown_bytes'])}"]
    yield ["peak memory, bytes", short(result["rss_bytes"])]


def rows_text(sums):
    each = lambda key: short(sums[key] / sums["updates"]) if sums["updates"] else "-"  # noqa: E731
    text = f"{short(sums['rows'])} rows for {short(sums['updates'])} updates: {each('rows')}"
    # Builds that copy what no update touches say so.
    if "decoded" in sums:
        text += f"; decoded {short(sums['decoded'])}: {each('decoded')}"
    if "copied" in sums:
        text += f"; copied {short(sums['copied'])}B: {each('copied')}"
    return f"{text}; {sums['merge_us'] / 1e6:.1f} s; {sums['files']} files"
