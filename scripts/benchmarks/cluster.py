"""cluster: what it costs to be several processes: CPU seconds an event, and bytes that go between them."""

import runpy
import secrets
import shutil

from . import drain, machine
from .machine import of
from .sockets import Exchanged

# Processes x workers of each, with as many workers in total: they do the same work in as many parts, and what differs is that the
# parts meet over sockets. Each is compared with one process of as many workers. On few cores four workers take turns: CPU seconds
# can be compared all the same, seconds only where there is a core for each worker.
LAYOUTS = [(1, 2), (2, 1), (1, 4), (2, 2), (4, 1)]

# The defaults of a job, which hold for each process. Shared out here, or more processes would have more memory, and so merge less.
EPOCH_BYTES = 256 << 20
PENDING_BYTES_MAX = 384 << 20

free_ports = runpy.run_path(str(machine.SCRIPTS / "cluster"))["free_ports"]


def run(bench, args):
    runs = args.runs or (1 if args.quick else 3)
    events, days = drain.size(args)
    environment = drain.environment(bench, drain.send(bench, events, days))
    bench.tell("the loop without guarantees, for comparison")
    drain.loop(bench, environment, "limit")
    measured = {layout: [] for layout in LAYOUTS}
    equal_rows = {}
    for number in range(runs):
        for processes, workers in LAYOUTS:
            bench.tell(f"run {number + 1} of {runs}: {processes} x {workers}")
            name = f"{processes}x{workers}-{number}"
            measured[processes, workers].append(drained(bench, environment, events, processes, workers, name))
            if number == 0:
                equal_rows[processes, workers] = drain.compare(bench.folder)
    bench.delete_topic("bench")

    result = {"events": events, "days": days, "runs": runs, "layouts": {}}
    columns = []
    for (processes, workers), done in measured.items():
        alone = measured[1, processes * workers]
        figures = {
            "cpu_seconds_per_million": [one["cpu_seconds"] / events * 1e6 for one in done],
            "ratio_to_one_process": [one["cpu_seconds"] / base["cpu_seconds"] for one, base in zip(done, alone)],
            "exchanged_bytes_per_event": [one["exchanged_bytes"] / events for one in done],
            "seconds": [one["seconds"] for one in done],
            "rss_bytes": [one["rss_bytes"] for one in done],
            "rows_written": [one["rows_written"] for one in done],
        }
        of_layout = {key: machine.spread(values) for key, values in figures.items()}
        result["layouts"][f"{processes}x{workers}"] = of_layout | {"equal_rows": equal_rows[processes, workers]}
        # Alone it is what the others are compared with.
        empty = ["ratio_to_one_process", "exchanged_bytes_per_event"] if processes == 1 else []
        cells = ["-" if key in empty else of(values) for key, values in figures.items()]
        columns.append([f"{processes} x {workers}", *cells, f"{equal_rows[processes, workers]:,}"])
    labels = [
        *["processes x workers", "CPU seconds per million events", "these : those of one process", "bytes exchanged per event"],
        *["seconds", "peak memory of all, bytes", "rows of counts written", "rows equal to the loop's"],
    ]
    return result, [*zip(labels, *columns)]


def drained(bench, environment, events, processes, workers, name):
    """A drain by so many processes; what all of them took."""
    shutil.rmtree(bench.folder / "tables", ignore_errors=True)
    settings = f"\n[settings]\nepoch_bytes = {EPOCH_BYTES // processes}\npending_bytes_max = {PENDING_BYTES_MAX // processes}\n"
    job = bench.folder / f"job-{name}.toml"
    job.write_text((machine.ROOT / "jobs/bench.toml").read_text() + settings)
    command = ["run", job, "--workers", workers, "--drain"]
    if processes == 1:
        done = bench.floodmark(command, environment, name)
        return done | {"exchanged_bytes": 0} | drain.written(bench, events)
    ports = free_ports(processes)
    hosts = bench.folder / f"hosts-{name}"
    hosts.write_text("".join(f"127.0.0.1:{port}\n" for port in ports))
    together = environment | {"FLOODMARK_CLUSTER_SECRET": secrets.token_hex(32), "FLOODMARK_HOSTFILE": str(hosts)}
    exchanged = Exchanged(ports)
    command += ["--processes", processes, "--process-index"]
    started = [bench.start([*command, index], together, f"{name}-process-{index}") for index in range(processes)]
    done = [bench.end(process) for process in started]
    return {
        "seconds": max(one["seconds"] for one in done),
        "cpu_seconds": sum(one["cpu_seconds"] for one in done),
        "rss_bytes": sum(one["rss_bytes"] for one in done),
        "exchanged_bytes": exchanged.stop(),
    } | drain.written(bench, events)
