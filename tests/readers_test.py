"""Every reader that schemas/README.md names gives the same rows, by all its doors, with filters: on both tables, new ones and those that
an earlier build has left.

Run it with `scripts/python tests/readers_test.py`. It needs the program built (`cargo build --release`) and, for Spark, scripts/spark.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date, datetime, timedelta, timezone
from functools import reduce
from pathlib import Path

import duckdb
import duckdb_extension_delta
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable, QueryBuilder

from runner import run

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/floodmark"

JOB = """
name = "readers"
[source]
topics = ["{topic}"]
[source.kafka]
"bootstrap.servers" = "{broker}"
[tables]
url = "{tables}"
buckets = 2
[event]
format = "json"
customer = {{ pointer = "/customer" }}
event_time = {{ pointer = "/time" }}
[event.fields.action]
pointer = "/action"
[[where]]
field = "action"
not = {{ equals = "ping" }}
[dimensions.total]
granularities = ["minute", "hour", "day", "month"]
[dimensions.action]
granularities = ["hour", "day"]
"""

# Longer than bounds are, characters at the ends of what UTF-8 and UTF-16 know; of the last one no bound can be raised.
ODD = ["", "a\0b", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff", "x" * 600, "x" * 63 + "é" * 30, "\U0010ffff" * 100]
CUSTOMERS = ["acme", "globex", "c" * 200, "ü"]
NOW = datetime(2026, 1, 13, 12, 0, 0, 123456, tzinfo=timezone.utc)

KEYS = {
    "raw": ["kafka_topic", "kafka_partition", "kafka_offset", "epoch"],
    "counts": ["customer_id", "window_start", "dimension", "dimension_value", "granularity", "bucket"],
}


def records(round):
    """What a run reads: in each round other values, so that some files hold a value and others not."""
    for number, customer in enumerate(CUSTOMERS[: 2 + round]):
        for action in ["view", ODD[3 * round % len(ODD)], ODD[(3 * round + number) % len(ODD)], "ping"]:
            time_ms = int((NOW - timedelta(hours=5 * round, seconds=number)).timestamp() * 1000)
            yield json.dumps({"customer": customer, "time": time_ms, "action": action})
    yield "{" + "~" * 80
    yield json.dumps({"customer": "acme", "time": ["soon", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"][round], "action": "v"})
    yield json.dumps({"customer": "acme", "action": "v"} if round else {"time": 0})


@contextlib.contextmanager
def broker(folder, topic):
    """An embedded broker; gives a function that sends lines to it, and its address."""
    address = folder / "broker"
    process = subprocess.Popen([BINARY, "dev", "broker", "--topic", f"{topic}:2", "--address-file", address])
    try:
        while not address.exists():
            assert process.poll() is None, "the embedded broker ended while it was starting"
            time.sleep(0.05)
        where = ["--brokers", address.read_text().strip(), "--topic", topic]

        def send(lines, partition, now):
            (folder / "lines").write_text("".join(line + "\n" for line in lines))
            floodmark("dev", "produce", folder / "lines", *where, "--partition", partition, "--timestamp-ms", int(now.timestamp() * 1000))

        yield send, where[1]
    finally:
        process.terminate()
        process.wait()


def floodmark(*words):
    subprocess.run([str(word) for word in [BINARY, *words]], check=True, stdout=subprocess.DEVNULL)


def make_tables(folder):
    """Tables in which files differ in what they hold; some of raw are merged, others not."""
    with broker(folder, "readers") as (send, address):
        job = folder / "job.toml"
        job.write_text(JOB.format(topic="readers", broker=address, tables=folder / "tables"))
        for round in range(3):
            send(records(round), round % 2, NOW + timedelta(seconds=round))
            floodmark("run", job, "--drain")
            if round == 1:
                floodmark("table", "compact", job)
    return folder / "tables"


def carried_over(folder):
    """Tables of an earlier build in which a job of this one has gone on: their old files lack bounds of most columns."""
    shutil.copytree(ROOT / "tests/data/format-1/tables", folder / "tables")
    text = (ROOT / "tests/data/format-1/job.toml").read_text()
    with broker(folder, "script") as (send, address):
        job = folder / "job.toml"
        job.write_text(text.replace('"none"', f'"{address}"').replace('url = "tables"', f'url = "{folder / "tables"}"'))
        now = datetime.now(timezone.utc)
        send([json.dumps({"customer": "a", "time": int(now.timestamp() * 1000), "action": "View"}), "{"], 0, now)
        # The topic was made anew.
        floodmark("run", job, "--drain", "--accept-gap")
    return folder / "tables"


# ---- the questions: of each table, conditions (column, operator, value) that must all hold ----


def truth(tables, table):
    """All rows, read without a filter."""
    return DeltaTable(tables / table).to_pyarrow_table().to_pylist()


def questions(rows):
    """Of each column, what is there, what is not, and what lies between; nulls and no nulls."""
    asked = []
    for column in rows[0]:
        if column in ("key", "value", "headers"):
            asked += [[(column, "null", None)], [(column, "not null", None)]] if column != "headers" else []
            continue
        values = sorted({row[column] for row in rows if row[column] is not None})
        chosen = values if len(values) <= 12 else values[:3] + values[len(values) // 2 :][:3] + values[-3:]
        for value in chosen:
            asked.append([(column, "=", value)])
        for value in [values[0], values[len(values) // 2], values[-1]] if values else []:
            asked += [[(column, ">=", value)], [(column, "<", value)]]
        if isinstance(values[0] if values else "", str):
            asked += [[(column, "=", "nobody")], [(column, ">=", "\ufffe")]]
        asked += [[(column, "null", None)], [(column, "not null", None)]]
    if "dimension" in rows[0]:
        asked += [[("granularity", "=", "day"), ("dimension", "=", "total")], [("dimension", "=", "action"), ("dimension_value", "=", "view")]]
    return asked


def holds(row, conditions):
    def holds_one(column, op, value):
        found = row[column]
        if op in ("null", "not null"):
            return (found is None) == (op == "null")
        if found is None:
            return False
        if isinstance(found, str):  # Python compares code points, which is the order of UTF-8's bytes
            found, value = found.encode(), value.encode()
        return {"=": found == value, "<": found < value, ">=": found >= value}[op]

    return all(holds_one(*condition) for condition in conditions)


def ids(table, rows):
    """What tells rows apart, as all readers can give it: windows start at whole minutes."""
    text = lambda value: f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)
    return sorted(tuple(text(row[name]) for name in KEYS[table]) for row in rows)


# ---- the readers ----


def of_dnf(conditions):
    """As deltalake's `filters` take them; None where they have no word for it."""
    if any(op in ("null", "not null") for _, op, _ in conditions):
        return None
    return [tuple(condition) for condition in conditions]


def of_pyarrow(conditions):
    def one(column, op, value):
        field = ds.field(column)
        return {
            "=": lambda: field == value, "<": lambda: field < value, ">=": lambda: field >= value,
            "null": lambda: field.is_null(), "not null": lambda: field.is_valid(),
        }[op]()  # fmt: skip

    return reduce(lambda a, b: a & b, [one(*condition) for condition in conditions])


def of_polars(conditions):
    def one(column, op, value):
        field = pl.col(column)
        return {
            "=": lambda: field == value, "<": lambda: field < value, ">=": lambda: field >= value,
            "null": lambda: field.is_null(), "not null": lambda: field.is_not_null(),
        }[op]()  # fmt: skip

    return reduce(lambda a, b: a & b, [one(*condition) for condition in conditions])


def of_sql(conditions):
    words = {"=": "= ?", "<": "< ?", ">=": ">= ?", "null": "IS NULL", "not null": "IS NOT NULL"}
    where = " AND ".join(f"{column} {words[op]}" for column, op, _ in conditions)
    return where, [value for _, op, value in conditions if "?" in words[op]]


class Readers:
    """Each asks its own way; all open the table once."""

    def __init__(self, tables, table, exported):
        self.table, self.path = table, str(tables / table)
        self.delta = DeltaTable(self.path)
        self.dataset = self.delta.to_pyarrow_dataset()
        self.duckdb = duckdb.connect()
        # Instead of INSTALL and LOAD, which download: the same extension, from PyPI.
        extensions = Path(duckdb_extension_delta.__file__).parent / "extensions" / f"v{duckdb.__version__}"
        self.duckdb.execute(f"LOAD '{extensions}/delta.duckdb_extension'")
        self.duckdb.execute(f"ATTACH '{self.path}' AS t (TYPE delta, PIN_SNAPSHOT)")
        self.duckdb.register("arrow_dataset", self.dataset)
        self.polars = pl.scan_delta(self.path)
        self.polars_pyarrow = pl.scan_delta(self.path, use_pyarrow=True)
        self.glob = f"{exported}/{table}/**/*.parquet"
        of_folders = {"granularity": pl.String, "period": pl.String, "bucket": pl.Int32} if table == "counts" else {"ingest_date": pl.Date}
        self.polars_export = pl.scan_parquet(self.glob, hive_partitioning=True, hive_schema=of_folders)
        self.types = "hive_types = {'period': VARCHAR, 'bucket': INTEGER}" if table == "counts" else "hive_types = {'ingest_date': DATE}"

    def sql(self, source, conditions):
        where, values = of_sql(conditions)
        names = ", ".join(KEYS[self.table])
        return self.duckdb.execute(f"SELECT {names} FROM {source} WHERE {where}", values).to_arrow_table().to_pylist()

    def deltalake_to_pandas(self, conditions):
        dnf = of_dnf(conditions)
        return dnf and self.delta.to_pandas(filters=dnf, columns=KEYS[self.table]).to_dict("records")

    def deltalake_to_pyarrow_table(self, conditions):
        dnf = of_dnf(conditions)
        return dnf and self.delta.to_pyarrow_table(filters=dnf).to_pylist()

    def deltalake_to_pyarrow_dataset(self, conditions):
        return self.dataset.to_table(filter=of_pyarrow(conditions)).to_pylist()

    def deltalake_query_builder(self, conditions):
        if any("\0" in value for _, _, value in conditions if isinstance(value, str)):
            return None  # its SQL has no way to write it
        if any(not 1700 < value.year < 2200 for _, _, value in conditions if isinstance(value, datetime)):
            return None  # it reads times in SQL as nanoseconds
        words = {"=": "=", "<": "<", ">=": ">=", "null": "IS NULL", "not null": "IS NOT NULL"}

        def literal(value):
            if value is None:
                return ""
            if isinstance(value, datetime):
                return f"TIMESTAMP '{value.isoformat()}'"
            return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"

        where = " AND ".join(f"{column} {words[op]} {literal(value)}" for column, op, value in conditions)
        asked = QueryBuilder().register("t", self.delta).execute(f"SELECT * FROM t WHERE {where}")
        return pa.table(asked.read_all()).to_pylist()

    def duckdb_delta(self, conditions):
        return self.sql("t", conditions)

    def duckdb_over_pyarrow(self, conditions):
        return self.sql("arrow_dataset", conditions)

    def duckdb_over_export(self, conditions):
        return self.sql(f"read_parquet('{self.glob}', hive_partitioning = true, {self.types})", conditions)

    def polars_scan_delta(self, conditions):
        return self.of_frame(self.polars, conditions)

    def polars_scan_delta_use_pyarrow(self, conditions):
        return self.of_frame(self.polars_pyarrow, conditions)

    def polars_over_export(self, conditions):
        return self.of_frame(self.polars_export, conditions)

    def of_frame(self, frame, conditions):
        return frame.filter(of_polars(conditions)).select(KEYS[self.table]).collect().to_dicts()


READERS = [name for name in vars(Readers) if name.split("_")[0] in ("deltalake", "duckdb", "polars")]


def compare(tables):
    wrong, asked_of_spark = [], []
    export = tables.with_name("export")
    floodmark("table", "export", tables, "--table", "all", "--to", export)
    for table in KEYS:
        rows = truth(tables, table)
        assert rows, table
        readers = Readers(tables, table, export / "latest")
        for conditions in questions(rows):
            expected = ids(table, [row for row in rows if holds(row, conditions)])
            for reader in READERS:
                found = getattr(readers, reader)(conditions)
                if found is not None and ids(table, found) != expected:
                    wrong.append(f"{reader}: {table} {conditions}: {len(found)} rows, expected {len(expected)}")
            asked_of_spark.append((table, conditions, expected))
    assert not wrong, "\n".join([f"{len(wrong)} wrong:", *wrong[:40]])
    return asked_of_spark


# ---- the tests ----

ASKED = []  # of Spark, which starts slowly: all in one session


def ask(name, tables):
    asked = compare(tables)
    ASKED.extend((name, tables, *question) for question in asked)


def test_new_tables(folder):
    ask("new", make_tables(folder / "new"))


def test_tables_of_an_earlier_build(folder):
    ask("carried over", carried_over(folder / "old"))


def example(words):
    """The block of schemas/README.md that holds these words."""
    [block] = [block for block in re.findall(r"^```py\n(.*?)^```$", (ROOT / "schemas/README.md").read_text(), re.M | re.S) if words in block]
    return block


def as_in_readme(folder):
    """The place of tables in that paper."""
    (folder / "tables").mkdir(exist_ok=True)
    link = folder / "tables/web-analytics"
    if not link.exists():
        link.symlink_to(folder / "new/tables")


def test_readme_pandas(folder):
    as_in_readme(folder)
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out):
        exec(example("to_pandas"), {})
    assert "bad_json" in out.getvalue(), out.getvalue()


def test_spark_gives_the_same_rows(folder):
    assert ASKED, "the tests before this one ask the questions"
    as_in_readme(folder)

    def value(value):
        # A date or a number is a word of JSON; a time is not, and is never mistaken for a text.
        return {"time": value.isoformat()} if isinstance(value, datetime) else str(value) if isinstance(value, date) else value

    # Of each column one question of a kind, as each takes it a while.
    chosen = {}
    for name, tables, table, conditions, expected in ASKED:
        kind = (name, table, tuple((column, op) for column, op, _ in conditions))
        if {op for _, op, _ in conditions} <= ({"=", ">=", "null"} if name == "new" else {"="}):
            chosen[kind] = (tables, conditions, expected)
    questions = [
        {"path": str(tables / table), "columns": KEYS[table], "where": [(column, op, value(of)) for column, op, of in conditions]}
        for (_, table, _), (tables, conditions, _) in chosen.items()
    ]
    asked = {"example": example("SparkSession"), "questions": questions}
    command = [ROOT / "scripts/spark", ROOT / "tests/readers_spark.py"]
    answered = subprocess.run(command, input=json.dumps(asked), cwd=folder, capture_output=True, text=True)
    assert answered.returncode == 0, answered.stderr[-4000:]
    *shown, answers = answered.stdout.splitlines()
    assert any("acme" in line for line in shown), shown
    wrong = []
    for ((name, table, _), (_, conditions, expected)), rows in zip(chosen.items(), json.loads(answers), strict=True):
        if sorted(map(tuple, rows)) != expected:
            wrong.append(f"{name}: {table} {conditions}: {len(rows)} rows, expected {len(expected)}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(chosen)} wrong:", *wrong[:40]])


def test_what_deltalake_changes_is_taken_in_or_refused_and_taken_back(folder):
    tables, job = folder / "changed/tables", folder / "changed/job.toml"
    shutil.copytree(folder / "new/tables", tables)
    rows = len(truth(tables, "raw"))
    done = DeltaTable(tables / "raw").optimize.compact()
    assert done["numFilesRemoved"] > 1, done
    assert len(truth(tables, "raw")) == rows
    # A job's start asks the brokers before it reads the tables.
    with broker(folder / "changed", "readers") as (_, address):
        job.write_text(JOB.format(topic="readers", broker=address, tables=tables))
        floodmark("verify", job)
        before = DeltaTable(tables / "counts").version()
        DeltaTable(tables / "counts").delete("dimension = 'action'")
        for words in (["status", tables], ["verify", job], ["table", "compact", job], ["run", job, "--drain"]):
            refused = subprocess.run([str(word) for word in [BINARY, *words]], capture_output=True, text=True)
            said = refused.stderr
            assert refused.returncode == 78, (words, refused)
            assert f"version {before + 1} (DELETE by delta-rs" in said and f"restore({before})" in said, said
    DeltaTable(tables / "counts").restore(before)
    floodmark("verify", job)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("FLOODMARK_TEST_DIR")) as shared:
        shared = Path(shared).resolve()
        for name in ("new", "old"):
            (shared / name).mkdir()
        sys.exit(run(globals(), shared))
