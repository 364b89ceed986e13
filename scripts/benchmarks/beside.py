"""beside: a live job under a constant stream, on S3, while a past day is replayed and published on the same cores."""

import json
import re
import signal
import time

from . import machine, tables
from .drain import send
from .machine import short
from .steady import wait_for

RATE = 5_000
DAY_EVENTS = 10_000_000
DAY = ["--from", "2026-01-13", "--to", "2026-01-14"]


def run(bench, args):
    seconds = args.seconds or (40 if args.quick else 180)
    events = args.events or (400_000 if args.quick else DAY_EVENTS)
    kafka = send(bench, events, days=1)
    s3 = bench.server("s3")
    # The server keeps objects as files of that name, so that their times say when a commit could be seen.
    folder = bench.folder / "s3" / "data" / s3["S3_BUCKET"] / "beside"
    tables_at = {"FLOODMARK_TABLES": f"s3://{s3['S3_BUCKET']}/beside"}
    environment = s3 | tables_at | {"KAFKA_BOOTSTRAP": kafka["KAFKA_BOOTSTRAP"]} | tables.LOG
    bench.tell("archiving and counting that day with a wrong field")
    bench.floodmark(["run", "jobs/bench.toml", "--workers", 2, "--drain"], environment, "drain")

    mended = bench.folder / "mended.toml"
    text = (machine.ROOT / "jobs/bench.toml").read_text()
    mended.write_text(text.replace('pointer = "/userInfo/country"', 'pointer = "/userInfo/locale"'))
    job = bench.start(["run", mended, "--workers", 2], environment, "job")
    wait_for(lambda: "job started" in job.err.read_text(), job)
    topic = ["--brokers", kafka["KAFKA_BOOTSTRAP"], "--topic", "bench", "-X", "compression.type=lz4"]
    traffic = bench.start(["dev", "gen", *topic, "--live", "--rate", RATE, "--customers", 10_000, "--seed", 2], {}, "traffic")
    time.sleep(25)  # two epochs, so that the newest minute has the age of a job that runs
    phases, cpu = {}, {}

    def phase(name, work):
        begin, before = time.time(), machine.cpu_of(job.pid)
        done = work()
        phases[name] = (begin, time.time())
        cpu[name] = machine.cpu_of(job.pid) - before
        return done

    bench.tell(f"the live job alone at {RATE:,} events/s for {seconds} s")
    phase("before", lambda: time.sleep(seconds))
    bench.tell("replay of the day")
    command = ["replay", "run", mended, *DAY, "--id", "day", "--output", "json"]
    replay = phase("replay", lambda: bench.floodmark(command, environment, "replay"))
    bench.tell("publish")
    command = ["replay", "publish", "day", "--job", mended, "--output", "json"]
    publish = phase("publish", lambda: bench.floodmark(command, environment, "publish"))
    bench.tell(f"the live job alone again for {seconds} s")
    phase("after", lambda: time.sleep(seconds))

    sent = end_traffic(bench, traffic)
    time.sleep(12)
    job.send_signal(signal.SIGTERM)
    live = bench.end(job)
    ages = {name: tables.minute_ages(folder, *moments) for name, moments in phases.items()}
    complete = {name: tables.complete_ages(folder, *moments) for name, moments in phases.items()}
    behind = {name: tables.behind(folder, *moments) for name, moments in phases.items()}
    verify = verified(bench, mended, environment, events + sent)
    bench.delete_topic("bench")

    found, done = json.loads(replay.pop("out"))["summary"], json.loads(publish.pop("out"))
    live.pop("out")
    beside = {"replay": replay, "publish": publish}
    result = {"rate": RATE, "events": events, "sent_live": sent, "cells": done["cells"], "files": done["files"], "phases": {}}
    result |= {"live": live, "spilled": found["spilled"], **beside}
    result["verified"] = {key: verify[key] for key in ("verdict", "cells", "records")}
    for name, (begin, end) in phases.items():
        took = end - begin
        result["phases"][name] = {
            "seconds": took,
            "minute_age": ages[name],
            "complete_age": complete[name],
            "events_per_second": behind[name]["rows"] / took,
            "behind_seconds": behind[name]["worst_seconds"],
            "cores": cpu[name] / took,
        }
    lines = {
        "seconds": lambda it: f"{it['seconds']:.0f}",
        "age of the newest minute, seconds": lambda it: age(it["minute_age"]),
        "time since the last complete minute": lambda it: age(it["complete_age"]),
        "publishes of minutes": lambda it: it["minute_age"]["publishes"] if it["minute_age"] else 0,
        "events/s archived": lambda it: short(round(it["events_per_second"])),
        "newest event behind an epoch's end, at worst, seconds": lambda it: "-" if it["behind_seconds"] is None else f"{it['behind_seconds']:.1f}",
        "cores busy: live": lambda it: f"{it['cores']:.2f}",
    }
    rows = [["live", *phases]]
    rows += [[label, *(line(it) for it in result["phases"].values())] for label, line in lines.items()]
    cores = [f"{of['cpu_seconds'] / of['seconds']:.2f}" for of in beside.values()]
    rows.append(["cores busy: replay, publish", "", *cores])
    rows.append(["peak memory: replay, publish, bytes", "", *(short(of["rss_bytes"]) for of in beside.values())])
    rows.append(["peak memory: live, bytes", short(live["rss_bytes"])])
    rows.append(["cells that change, files published", short(done["cells"]), done["files"]])
    rows.append(["at the end", verify["verdict"], f"{verify['records']:,} events", f"{verify['cells']:,} rows"])
    return result, rows


def end_traffic(bench, traffic):
    """Ends `dev gen`; how many records it has sent."""
    traffic.send_signal(signal.SIGINT)
    bench.end(traffic)
    return int(re.search(r"([\d,]+) records", traffic.err.read_text().splitlines()[-1]).group(1).replace(",", ""))


def verified(bench, job, environment, events):
    """Takes in what is left in the topic, and counts all of the archive again; fails when something is missing or differs."""
    bench.tell("verifying all counts")
    bench.floodmark(["run", job, "--workers", 2, "--drain"], environment, "rest")
    verify = json.loads(bench.floodmark(["verify", job, "--output", "json"], environment, "verify")["out"])
    if verify["records"] != events:
        raise machine.Failed(f"{events:,} events were sent, but {verify['records']:,} are in the archive")
    return verify


def age(ages):
    return f"{ages['median_seconds']:.1f}, worst {ages['worst_seconds']:.1f}" if ages else "-"
