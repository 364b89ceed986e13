"""skew: topics whose events are not evenly spread, drained by two workers."""

from . import drain, machine
from .machine import of

# Options of `dev gen`. But for the last each differs from the first in one thing. Customers of that are all alike: so it has the
# most cells, and none of them is large.
ALIKE = ["--zipf", 0]
SHAPES = {
    "uniform": ALIKE,
    # The same topic and a job with a single bucket: one worker merges all of it.
    "one bucket": None,
    "60 % of one customer": [*ALIKE, "--customer-skew", 0.6],
    "80 % in one partition": [*ALIKE, "--partition-skew", 0.8],
    "Zipf's law": [],
}


def run(bench, args):
    runs = args.runs or (1 if args.quick else 3)
    events, days = drain.size(args)
    one_bucket = bench.folder / "one-bucket.toml"
    text = (machine.ROOT / "jobs/bench.toml").read_text()
    one_bucket.write_text(text.replace("[tables]\n", "[tables]\nbuckets = 1\n"))
    topics = []
    for number, options in enumerate(SHAPES.values()):
        if options is None:
            topics.append(topics[-1])
        else:
            topics.append(f"skew-{number}")
            kafka = drain.send(bench, events, days, topics[-1], options)

    measured = {shape: {"job": [], "loop": [], "equal_rows": 0} for shape in SHAPES}
    for number in range(runs):
        for place, (shape, options) in enumerate(SHAPES.items()):
            bench.tell(f"run {number + 1} of {runs}: {shape}")
            of_shape, environment = measured[shape], drain.environment(bench, kafka, topics[place])
            job = "jobs/bench.toml" if options is not None else one_bucket
            of_shape["job"].append(drain.job(bench, environment, events, f"job-{place}-{number}", job))
            if args.no_limit:
                continue
            # What Kafka and two threads that read half of the partitions each make of it. It knows no buckets.
            if options is not None:
                of_shape["loop"].append(drain.loop(bench, environment, f"limit-{place}-{number}"))
            if number == 0:
                of_shape["equal_rows"] = drain.compare(bench.folder)
    for topic in {*topics}:
        bench.delete_topic(topic)

    def speeds(values):
        return [events / one["seconds"] for one in values]

    def ratios(name, values):
        even = speeds(measured["uniform"][name])
        return [speed / base for speed, base in zip(speeds(values), even)]

    result = {"events": events, "days": days, "runs": runs, "shapes": {}}
    rows = [["", "events/s", ": uniform", "loop, events/s", ": uniform", "CPU seconds", "rows of counts", "written"]]
    for shape, found in measured.items():
        job, loop = found["job"], found["loop"]
        figures = {
            "events_per_second": speeds(job),
            "ratio_to_uniform": ratios("job", job),
            "loop_events_per_second": speeds(loop),
            "loop_ratio_to_uniform": ratios("loop", loop),
            "cpu_seconds": [one["cpu_seconds"] for one in job],
            "counts_rows": [one["counts_rows"] for one in job],
            "rows_written": [one["rows_written"] for one in job],
        }
        result["shapes"][shape] = {key: machine.spread(values) for key, values in figures.items() if values}
        result["shapes"][shape]["equal_rows"] = found["equal_rows"]
        rows.append([shape, *(of(values) if values else "-" for values in figures.values())])
    if not args.no_limit:
        rows.append(["rows equal in job and loop", f"{sum(found['equal_rows'] for found in measured.values()):,}"])
    return result, rows
