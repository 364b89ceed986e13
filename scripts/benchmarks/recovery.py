"""recovery: one of two processes is killed again and again: the time to the next publish of minutes, and where it goes."""

import json
import os
import random
import signal
import subprocess
import time

from . import drain, machine, tables
from .beside import end_traffic, verified

RATE = 10_000
PROCESSES = 2
HISTORY_EVENTS = 2_000_000

# After a recovery, until the next kill: at any moment of an epoch of ten seconds, with much and with little in the archive that
# slow lanes have not taken in. Longer than what the supervisor takes for settled, so that each kill is one by itself.
PAUSE_SECONDS = (6, 46)
PAUSE_SECONDS_QUICK = (6, 16)
SETTLE_SECONDS = 5
PATIENCE_SECONDS = 120

# What follows what, from the kill on.
PARTS = {
    "lost": "the loss is noticed",
    "begun": "both processes run again (end, supervisor, start of the program)",
    "gathered": "they have gathered",
    "started": "the job has started (tables fenced and read)",
    "raw": "the first commit of raw",
    "published": "minutes are published",
}


def run(bench, args):
    kills = args.kills or (5 if args.quick else 50)
    events = args.events or (200_000 if args.quick else HISTORY_EVENTS)
    kafka = drain.send(bench, events, days=1)
    s3 = bench.server("s3")
    # The server keeps objects as files of that name, so that their times say when a commit could be seen.
    counts = bench.folder / "s3" / "data" / s3["S3_BUCKET"] / "recovery" / "counts"
    environment = drain.environment(bench, kafka) | s3 | {"FLOODMARK_TABLES": f"s3://{s3['S3_BUCKET']}/recovery"}
    bench.tell("archiving and counting the events of an earlier day")
    bench.floodmark(["run", "jobs/bench.toml", "--workers", 2, "--drain"], environment, "drain")
    last = newest(counts)

    with Cluster(bench, environment) as cluster:
        topic = ["--brokers", kafka["KAFKA_BOOTSTRAP"], "--topic", "bench", "-X", "compression.type=lz4"]
        traffic = bench.start(["dev", "gen", *topic, "--live", "--rate", RATE, "--customers", 10_000, "--seed", 2], {}, "traffic")
        last = next_publish(counts, last)
        moments, done = random.Random(1), []
        for number in range(kills):
            time.sleep(moments.uniform(*(PAUSE_SECONDS_QUICK if args.quick else PAUSE_SECONDS)))
            last = newest(counts, last)
            index = number % PROCESSES
            killed = cluster.kill(index)
            last = next_publish(counts, last)
            done.append({"process": index, "killed": killed, "published": last["seen"]})
            bench.tell(f"kill {number + 1} of {kills}, process {index}: {last['seen'] - killed:.1f} s")
        restarts = sum(process["restarts"] for process in cluster.status())
        sent = end_traffic(bench, traffic)
    logs = [cluster.log(index) for index in range(PROCESSES)]
    told = [found for one in done if (found := parts(logs, one["killed"], one["published"]))]
    verify = verified(bench, "jobs/bench.toml", environment, events + sent)
    bench.delete_topic("bench")

    whole = [one["published"] - one["killed"] for one in done]
    result = {"rate": RATE, "kills": kills, "sent": sent, "seconds": statistics(whole), "parts": {}, "restarts": restarts}
    result["verified"] = {key: verify[key] for key in ("verdict", "cells", "records")}
    rows = [["seconds", "median", "worst"], ["from the kill to the next publish of minutes", *figures(whole)]]
    for index in range(PROCESSES):
        of_one = [seconds for one, seconds in zip(done, whole) if one["process"] == index]
        if of_one:
            result[f"killed_{index}"] = statistics(of_one)
            rows.append([f"  process {index} killed, {len(of_one)} times", *figures(of_one)])
    for part, label in PARTS.items():
        seconds = [found[part] for found in told]
        if seconds:
            result["parts"][part] = statistics(seconds)
            rows.append([f"until {label}", *figures(seconds)])
    rows.append(["kills, restarts", kills, restarts])
    if len(told) < kills:
        rows.append(["kills whose parts are missing in the logs", kills - len(told)])
    rows.append(["at the end", verify["verdict"], f"{verify['records']:,} events"])
    return result, rows


def statistics(seconds):
    return machine.spread(seconds) | {"all": seconds}


def figures(seconds):
    found = machine.spread(seconds)
    return f"{found['median']:.2f}", f"{found['max']:.2f}"


class Cluster:
    """A job under the supervisor of scripts/cluster."""

    def __init__(self, bench, environment):
        self.bench, self.folder = bench, bench.folder / "cluster"
        # Every line with its time, and when processes found each other.
        log = {"FLOODMARK_LOG": tables.LOG["FLOODMARK_LOG"] + ",floodmark::cluster=debug", "FLOODMARK_LOG_FORMAT": "json"}
        self.environment = os.environ | environment | log | {"FLOODMARK": str(bench.binary)}

    def __enter__(self):
        sizes = ["--processes", PROCESSES, "--workers", 1, "--settle-seconds", SETTLE_SECONDS]
        if self.call("start", "jobs/bench.toml", *sizes).returncode != 0:
            raise machine.Failed(f"the cluster did not start; its logs are in {self.folder}")
        return self

    def __exit__(self, kind, *_):
        if self.call("stop").returncode != 0 and kind is None:
            raise machine.Failed(f"the cluster did not stop in order; its logs are in {self.folder}")

    def call(self, command, *words):
        line = [machine.SCRIPTS / "cluster", command, "--dir", self.folder, *words]
        line = [str(word) for word in line]
        return subprocess.run(line, cwd=machine.ROOT, env=self.environment, stdout=subprocess.PIPE, text=True)

    def status(self):
        return json.loads(self.call("status", "--output", "json").stdout)["processes"]

    def kill(self, index):
        """kill -9; when that was. By hand, as the supervisor says it to the second only."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (pid := self.status()[index]["pid"]) is None:
            if time.monotonic() > deadline:
                raise machine.Failed(f"process {index} did not come back; its logs are in {self.folder}")
        os.kill(pid, signal.SIGKILL)
        return time.time()

    def log(self, index):
        """What it has said and when: objects with `at` and `message`."""
        text = (self.folder / f"process-{index}.log").read_text()
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line | {"at": tables.seconds_of(line["timestamp"])} for line in lines]


def publishes(counts, last):
    """Commits of counts after one in which there are newer minutes."""
    version, epoch = (last["version"], last["txn"]["lane/minute"]) if last else (-1, 0)
    for commit in tables.commits(counts, after=version):
        if commit["txn"].get("lane/minute", 0) > epoch:
            yield commit


def newest(counts, last=None):
    return max(publishes(counts, last), key=lambda commit: commit["version"], default=last)


def next_publish(counts, last):
    """Waits for the first one of a later start of the job than that of `last`: what was under way at a kill does not count."""
    generation = last["txn"]["writer/generation"]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for commit in publishes(counts, last):
            if commit["txn"]["writer/generation"] > generation:
                return commit
        time.sleep(0.05)
    raise machine.Failed(f"nothing was published within {PATIENCE_SECONDS} s")


def parts(logs, killed, published):
    """Seconds from each of the moments to the next, in the order of PARTS; nothing where the logs lack a line."""
    meanwhile = [[line for line in log if killed <= line["at"] <= published] for log in logs]
    leader, everyone = meanwhile[0], [line for log in meanwhile for line in log]

    def said(what, lines):
        return [line["at"] for line in lines if line["message"] == what]

    lost = [line["at"] for line in everyone if " is lost: " in line["message"] + line.get("what", "")]
    started = max(said("job started", leader), default=killed)
    moments = {
        "lost": min(lost, default=None),
        "begun": max((at for at in said("gathering", everyone) if at < started), default=None),
        "gathered": max((at for at in said("connected", leader) if at < started), default=None),
        "started": started,
        "raw": min((at for at in said("raw committed", leader) if at > started), default=None),
        "published": published,
    }
    if None in moments.values():
        return None
    times = [killed, *moments.values()]
    return {part: later - sooner for part, sooner, later in zip(PARTS, times, times[1:])}
