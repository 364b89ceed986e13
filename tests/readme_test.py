"""Runs the README's examples on tables that the job has just made, and checks what they say.

Run it with `scripts/python tests/readme_test.py`, after `cargo build --release`.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from datetime import timedelta
from pathlib import Path

import duckdb
import duckdb_extension_delta
import runner

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/floodmark"
README = (ROOT / "README.md").read_text()

EVENTS, REJECTED = 20_000, 200
GRANULARITIES = ["minute", "hour", "day", "week", "month", "year"]


# The replay's examples are run on tables of their own.
BEFORE, REPLAY, AFTER = re.fullmatch(r"(.*?)(^## Replay: .*?)(^## .*)", README, re.MULTILINE | re.DOTALL).groups()


def blocks(language, text=BEFORE + AFTER):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@contextlib.contextmanager
def traffic(folder, *options):
    """An embedded broker with generated traffic; what the environment of a job is that reads it."""
    address = folder / "broker"
    broker = subprocess.Popen([BINARY, "dev", "broker", "--topic", "web-analytics:4", "--address-file", address])
    try:
        while not address.exists():
            if broker.poll() is not None:
                raise RuntimeError("the embedded broker ended at its start")
        where = ["--brokers", address.read_text().strip(), "--topic", "web-analytics"]
        shares = ["--events", str(EVENTS), "--late-share", "0.05", "--broken-share", str(REJECTED / EVENTS)]
        subprocess.run([BINARY, "dev", "gen", *where, *shares, *options], check=True)
        places = ("KAFKA_", "FLOODMARK_", "S3_", "AWS_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(places)}
        yield env | {"KAFKA_BOOTSTRAP": where[1]}
    finally:
        broker.terminate()
        broker.wait()


def make_tables(folder):
    """tables/web-analytics below the folder, by the job as it is in jobs/."""
    with traffic(folder) as env:
        subprocess.run([BINARY, "run", ROOT / "jobs/web-analytics.toml", "--drain"], cwd=folder, env=env, check=True)


def run_sql(folder, text=BEFORE + AFTER):
    """Every statement; what its rows are by its first words."""
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    # Instead of INSTALL and LOAD, which download: the same extension, from PyPI.
    extensions = Path(duckdb_extension_delta.__file__).parent / "extensions" / f"v{duckdb.__version__}"
    db.execute(f"LOAD '{extensions}/delta.duckdb_extension'")
    answers = {}
    for block in blocks("sql", text):
        for statement in duckdb.extract_statements(block):
            text = re.sub(r"--.*", "", statement.query).strip()
            if text.startswith(("INSTALL", "LOAD")):
                continue
            answer = db.execute(text)
            if text.startswith("SELECT"):
                answers[text] = answer.fetchall()
                assert answers[text], f"no rows: {text}"
    return db, answers


def answer_of(answers, words):
    [rows] = [rows for text, rows in answers.items() if words in text]
    return rows


def test_sql_examples(folder):
    db, answers = run_sql(folder)
    busiest = answer_of(answers, "ORDER BY events DESC")
    assert busiest[0][0] == "shop-00000" and len(busiest) == 10, busiest
    assert sum(rejected[1] for rejected in answer_of(answers, "FROM rejected")) == REJECTED
    hours = answer_of(answers, "bucket_of('shop-00000')")
    without_bucket = """SELECT window_start, event_count FROM counts WHERE customer_id = 'shop-00000'
        AND granularity = 'hour' AND dimension = 'total' ORDER BY 1"""
    assert hours == db.execute(without_bucket).fetchall()
    assert sum(count for _, count in hours) == busiest[0][1]
    wrong = db.execute("SELECT count(*) FROM counts WHERE bucket <> bucket_of(customer_id)").fetchone()
    assert wrong == (0,), wrong
    assert answer_of(answers, "AS epoch")[0][0] >= 1
    assert answer_of(answers, "AS complete_until")[0][0].year >= 2024


def test_periods(folder):
    """Each granularity's condition finds its windows of the month, and its files have no other periods than those that are named."""
    db, _ = run_sql(folder)
    (month,) = db.execute("SELECT date_trunc('month', max(window_start)) FROM counts WHERE granularity = 'hour'").fetchone()
    after = (month + timedelta(days=31)).replace(day=1)
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (`2026[^|]*) \| `([^`|]*)` \|$", README, re.MULTILINE)
    said = {granularity: row for row in rows for granularity in re.findall(r"\w+", row[0])}
    assert list(said) == GRANULARITIES, rows
    for granularity, (_, periods, condition) in said.items():
        condition = condition.replace("2026-02", f"{after:%Y-%m}").replace("2026-01", f"{month:%Y-%m}").replace("'2026'", f"'{month:%Y}'")
        rows = f"SELECT * FROM counts WHERE granularity = '{granularity}' AND"
        found = db.execute(f"SELECT count(*) FROM ({rows} {condition})").fetchone()
        window = db.execute(f"SELECT count(*) FROM ({rows} window_start >= ? AND window_start < ?)", [month, after]).fetchone()
        assert found == window and (found[0] > 0 or granularity in ("week", "year")), (granularity, condition, found, window)
        lengths = {len(period) for period in re.findall(r"`([^`]*)`", periods)}
        there = db.execute(f"SELECT DISTINCT length(period) FROM ({rows} true)").fetchall()
        assert there and {length for (length,) in there} <= lengths, (granularity, there, lengths)


def test_python_examples(folder):
    first, second, _ = blocks("python")
    names, out = {}, io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(first, names)
        exec(second, {})
    assert names["hours"].height > 24, names["hours"]
    assert re.search(r"^epoch \d+$", out.getvalue(), re.MULTILINE), out.getvalue()
    assert re.search(r"^complete until 20", out.getvalue(), re.MULTILINE), out.getvalue()


def test_status(folder):
    """On the tables, by their folder and by the job file; what the README explains is on the screen."""
    by_folder = subprocess.run([BINARY, "status", "tables/web-analytics"], capture_output=True, text=True, check=True)
    for words in ("freshness", "nothing pending", "pending rows", "lag", f"{EVENTS:,} read ="):
        assert words in by_folder.stdout, by_folder.stdout
    env = {"PATH": os.environ["PATH"], "KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    line = [BINARY, "status", ROOT / "jobs/web-analytics.toml", "--output", "json", "--all"]
    by_job = json.loads(subprocess.run(line, env=env, capture_output=True, check=True).stdout)
    assert by_job["balance"]["rejected_records"] == REJECTED and by_job["logic"]["md5"], by_job
    assert [lane["pending_raw_rows"] for lane in by_job["lanes"]] == [0] * 5, by_job
    assert "brokers do not answer" in by_job["notes"][0], by_job


def test_table_commands(folder):
    """Each line as it stands, and then the export read by a plain glob, next to the table that it was made from."""
    [block] = blocks("sh")
    for line in block.splitlines():
        words = [BINARY, *line.split()[1:]]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, f"{line}: {done}"
    names = {}
    exec(blocks("python")[2], names)
    db, _ = run_sql(folder)
    table = "SELECT customer_id, window_start, event_count FROM counts WHERE granularity = 'day' AND dimension = 'total'"
    expected = db.execute(table).fetchall()
    key = lambda row: (row[0], row[1].timestamp(), row[2])
    assert expected and sorted(map(key, names["exported"])) == sorted(map(key, expected))
    glob = "read_parquet('exports/web-analytics/latest/counts/granularity=*/period=*/bucket=*/*.parquet', hive_partitioning = true"
    everything = """SELECT granularity, period, bucket, customer_id, window_start, window_end, dimension, dimension_value,
        event_count FROM """
    for left, right in ((f"{glob}, hive_types = {{'period': VARCHAR}})", "counts"), ("counts", f"{glob}, hive_types_autocast = 0)")):
        rest = db.execute(f"{everything} {left} EXCEPT ALL {everything} {right}").fetchall()
        assert not rest, rest[:5]


def test_replay(folder):
    """The job with the wrong field, then every line as it stands."""
    own = folder / "replay"
    job = own / "jobs/web-analytics.toml"
    job.parent.mkdir(parents=True)
    right = (ROOT / "jobs/web-analytics.toml").read_text()
    [wrong_pointer, right_pointer] = re.search(r'`pointer = "([^"]*)"`.*The field is `([^`]*)`', REPLAY, re.DOTALL).groups()
    assert right.count(right_pointer) == 1
    job.write_text(right.replace(right_pointer, wrong_pointer))
    first, second = blocks("sh", REPLAY)
    with traffic(own, "--from", "2026-01-13", "--hours", "48") as env:

        def floodmark(line, code=0):
            done = subprocess.run([BINARY, *line.split()[1:]], cwd=own, env=env, capture_output=True, text=True)
            assert done.returncode == code, f"{line}: {done}"
            return done.stdout

        floodmark("floodmark run jobs/web-analytics.toml --drain")
        job.write_text(right)
        outputs = {line.split(" --job")[0]: floodmark(line) for line in first.splitlines()}
        [plan] = [output for line, output in outputs.items() if " replay plan " in line]
        assert plan.rstrip().endswith("it can be published: live counts with this logic"), plan
        [shown] = blocks("text", REPLAY)
        found = outputs["floodmark replay diff country-fix"]
        assert found == shown, found
        again = " ".join(line for line in first.splitlines() if " replay run " in line) + " --detailed-exitcode"
        floodmark(again, code=3)

        with contextlib.chdir(own):
            db, answers = run_sql(own, REPLAY)
            names = {}
            exec(blocks("python", REPLAY)[0], names)
        [countries] = answers.values()
        assert countries[0][0] == "" and countries[0][1] > countries[0][2] > 0 and countries[1][1] == 0, countries
        assert names["changed"].height > 10 and set(names["changed"]["window_start"].dt.day()) == {13, 14}, names["changed"]

        for line in second.splitlines():
            output = floodmark(line)
            if " publish " in line or " undo " in line:
                assert floodmark("floodmark verify jobs/web-analytics.toml").startswith("exact: "), line
        assert re.search(r"^country-fix +published \(order 3\) ", output, re.MULTILINE), output
        floodmark(again.replace("country-fix", "another"), code=0)
        # A cut range: the message as the README says.
        floodmark(again.replace("2026-01-13", "2026-01-13T00:30").replace("country-fix", "cut"), code=2)
    assert not list(own.glob("tables/web-analytics/replays/*/chunks/**/*.parquet"))
    assert (own / "tables/web-analytics/replays/country-fix/entry.json").exists()


def test_links_and_columns(_):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links and all((ROOT / link).exists() for link in links), links
    for table in ("raw", "counts"):
        schema = json.loads((ROOT / f"schemas/{table}.json").read_text())
        known = {column["name"] for column in schema["columns"] + schema["partition_columns"]}
        [row] = re.findall(rf"^\| `{table}` \|[^|]*\|([^|]*)\|$", README, re.MULTILINE)
        named = set(re.split(r"[,;]\s*", row.strip()))
        assert named == known, named ^ known
    sections = set(re.findall(r"`\[+(\w+)", " ".join(re.findall(r"^\| `\[[^|]*\|", README, re.MULTILINE))))
    for job, dimensions in re.findall(r"^\| \[(jobs/[^]]*)\]\([^)]*\) \|[^|]*\|([^|]*)\|$", README, re.MULTILINE):
        with open(ROOT / job, "rb") as file:
            said = tomllib.load(file)
        counted = said["dimensions"]
        assert {name for name, value in said.items() if not isinstance(value, str)} <= sections, sections
        assert set(re.split(r",\s*", dimensions.strip())) == set(counted), (job, dimensions)
    [row] = re.findall(r"^\| `\[dimensions[^|]*\|([^|]*)\|$", README, re.MULTILINE)
    assert all(granularity in row for granularity in GRANULARITIES), row


def test_commands(_):
    """Every subcommand and option that the README names is there."""

    def help_of(*words):
        return subprocess.run([BINARY, *words, "--help"], capture_output=True, text=True, check=True).stdout

    assert all(word in help_of() for word in ("run", "check", "status", "verify", "table", "dev", "--log"))
    assert all(word in help_of("check") for word in ("--sample <FILE|N>", "--show", "--detailed-exitcode", "--output"))
    assert all(word in help_of("status") for word in ("JOB|URL", "--output", "--all"))
    assert all(word in help_of("run") for word in ("--drain", "--workers", "--accept-gap"))
    assert all(word in help_of("replay") for word in ("plan", "run", "diff", "publish", "undo", "list", "discard"))
    assert all(word in help_of("replay", "run") for word in ("--publish", "--detailed-exitcode", "--memory-mib", "--chunk-mib"))
    assert all(word in help_of("replay", "diff") for word in ("--customer", "--dimension", "--granularity", "--from"))
    demo = subprocess.run([ROOT / "scripts/demo", "--help"], capture_output=True, text=True, check=True).stdout
    assert all(word in demo for word in ("--real", "--log FILE"))
    cluster = subprocess.run([ROOT / "scripts/cluster", "start", "--help"], capture_output=True, text=True, check=True).stdout
    named = re.findall(r"^scripts/cluster (\w+)(.*)$", README, re.MULTILINE)
    assert {command for command, _ in named} == {"start", "status", "kill", "stop"}, named
    options = {option for _, line in named for option in re.findall(r"--[\w-]+", line)} | {"--dir", "--ssh-config"}
    assert all(option in cluster for option in options), options
    assert os.access(ROOT / "scripts/test", os.X_OK)


def main():
    with runner.own_folder() as folder:
        make_tables(Path(folder))
        os.chdir(folder)
        code = runner.run(globals(), shared=folder)
        os.chdir(ROOT)
    return code


if __name__ == "__main__":
    sys.exit(main())
