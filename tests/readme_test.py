"""The papers, all README.md files: every example is run on tables that the job has just made, every command and every link is there.

Run it with `scripts/python tests/readme_test.py`, after `cargo build --release`. Blocks of sql, python and sh are run here, as they
stand; those of py by tests/readers_test.py, those of toml by tests/library/job_files.rs. Blocks of text are what is printed.
"""

import contextlib
import functools
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import duckdb
import duckdb_extension_delta
import runner

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/floodmark"
FILES = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines()
PAPERS = {name: (ROOT / name).read_text() for name in FILES if Path(name).name == "README.md"}
README, JOBS, SCHEMAS, REPLAY = (PAPERS[name] for name in ("README.md", "jobs/README.md", "schemas/README.md", "src/replay/README.md"))

# Which paper's blocks of a language are run by a test; here, unless a file is named.
RUN = {
    ("README.md", "sh"), ("README.md", "text"), ("jobs/README.md", "toml"), ("schemas/README.md", "sql"),
    ("schemas/README.md", "python"), ("schemas/README.md", "py"), ("schemas/README.md", "sh"), ("src/replay/README.md", "sh"),
    ("src/replay/README.md", "sql"), ("src/replay/README.md", "python"), ("src/replay/README.md", "text"), ("tests/README.md", "rust"),
}  # fmt: skip

EVENTS, REJECTED = 20_000, 200
GRANULARITIES = ["minute", "hour", "day", "week", "month", "year"]


def blocks(language, paper):
    """The blocks of a language, without the indentation of a list that they are in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", paper, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def prose(paper):
    """Without what is in blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", paper, flags=re.MULTILINE | re.DOTALL)


@contextlib.contextmanager
def traffic(folder, *options, topic="web-analytics"):
    """An embedded broker with generated traffic; what the environment of a job is that reads it."""
    address = folder / "broker"
    broker = subprocess.Popen([BINARY, "dev", "broker", "--topic", f"{topic}:4", "--address-file", address])
    try:
        while not address.exists():
            if broker.poll() is not None:
                raise RuntimeError("the embedded broker ended while it was starting")
        where = ["--brokers", address.read_text().strip(), "--topic", topic]
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
    (folder / "jobs").symlink_to(ROOT / "jobs")
    with traffic(folder) as env:
        subprocess.run([BINARY, "run", "jobs/web-analytics.toml", "--drain"], cwd=folder, env=env, check=True)


def run_lines(block, folder, env=os.environ):
    """A block of sh with this checkout's program and scripts; what each line printed. The environment stays from line to line."""
    answers = []
    env = dict(env)
    for line in re.sub(r"\n +", " ", block).splitlines():
        line = line.strip()
        if line.startswith("export "):
            env |= dict(word.split("=", 1) for word in line.split()[1:])
            continue
        words = re.sub(r"(?<!\S)(target/release/)?floodmark(?= )", str(BINARY), line)
        words = re.sub(r"(?<!\S)scripts/", f"{ROOT}/scripts/", words)
        done = subprocess.run(words, shell=True, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done}"
        answers.append(done.stdout)
    return answers


def run_sql(paper):
    """Every statement; what its rows are by its first words."""
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    # Instead of INSTALL and LOAD, which download: the same extension, from PyPI.
    extensions = Path(duckdb_extension_delta.__file__).parent / "extensions" / f"v{duckdb.__version__}"
    db.execute(f"LOAD '{extensions}/delta.duckdb_extension'")
    answers = {}
    for block in blocks("sql", paper):
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


# ---- README ----


def test_readme_is_a_door(_):
    assert README.count("\n") <= 200, README.count("\n")
    assert blocks("", README.split("\n## Two commands\n")[1])[0] == "scripts/demo\nscripts/test\n"
    assert os.access(ROOT / "scripts/demo", os.X_OK) and os.access(ROOT / "scripts/test", os.X_OK)
    with open(ROOT / "Cargo.toml", "rb") as file:
        version = tomllib.load(file)["package"]["version"]
    versions = re.findall(r"^\| (\d+\.\d+\.\d+) \|", README, re.MULTILINE)
    assert versions[0] == version and versions == sorted(versions, reverse=True), (versions, version)


def test_your_own_topic(folder):
    """The five steps, on a topic of that name."""
    build, *steps = blocks("sh", README)
    assert re.sub(r" # .*", "", build) == "cargo build --release --locked\nexport PATH=$PWD/target/release:$PATH\n"
    block = "".join(steps)
    [topic] = re.findall(r"FLOODMARK_TOPIC=(\S+)", block)
    with traffic(folder, topic=topic) as env:
        address = re.search(r"KAFKA_BOOTSTRAP=(\S+)", block)[1]
        copied, checked, _, status, verified, asked = run_lines(block.replace(address, env["KAFKA_BOOTSTRAP"]), folder, env)
    assert not copied and (folder / "my-job.toml").exists()
    assert "1,000 records" in checked and "nothing was written" in checked, checked
    assert f"{EVENTS:,} read =" in status, status
    assert verified.startswith("exact: "), verified
    assert "shop-00000" in asked, asked


def test_the_demos_output(_):
    """Each line of the demo's output that README shows is of a step that scripts/demo has, or is printed by the program."""
    [shown] = blocks("text", README)
    script = (ROOT / "scripts/demo").read_text()
    steps = re.findall(r"^== (.*)$", shown, re.MULTILINE)
    for step in steps:
        words = max(re.split(r"[\d,]+|\S*/\S*", step), key=len).strip()
        assert len(words) > 15 and words in script, step
    assert len(steps) >= 6, steps


# ---- schemas ----


def test_columns(_):
    for table in ("raw", "counts"):
        schema = json.loads((ROOT / f"schemas/{table}.json").read_text())
        known = [column["name"] for column in schema["columns"] + schema["partition_columns"]]
        [rows] = re.findall(rf"^\| column of `{table}` \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", SCHEMAS, re.MULTILINE)
        named = [name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
        assert sorted(named) == sorted(known), set(named) ^ set(known)


def test_sql_examples(_):
    db, answers = run_sql(SCHEMAS)
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


def test_periods(_):
    """Each granularity's condition finds its windows of the month, or the year, and its files have no other periods than are named."""
    db, _ = run_sql(SCHEMAS)
    (month,) = db.execute("SELECT date_trunc('month', max(window_start)) FROM counts WHERE granularity = 'hour'").fetchone()
    after = (month + timedelta(days=31)).replace(day=1)
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (`2026[^|]*) \| `([^`|]*)` \|$", SCHEMAS, re.MULTILINE)
    said = {granularity: row for row in rows for granularity in re.findall(r"\w+", row[0])}
    assert list(said) == GRANULARITIES, rows
    for granularity, (_, periods, condition) in said.items():
        condition = condition.replace("2026-02", f"{after:%Y-%m}").replace("2026-01", f"{month:%Y-%m}").replace("'2027'", f"'{month.year + 1}'").replace("'2026'", f"'{month:%Y}'")
        rows = f"SELECT * FROM counts WHERE granularity = '{granularity}' AND"
        stretch = [month.replace(month=1), month.replace(year=month.year + 1, month=1)] if granularity == "year" else [month, after]
        found = db.execute(f"SELECT count(*) FROM ({rows} {condition})").fetchone()
        window = db.execute(f"SELECT count(*) FROM ({rows} window_start >= ? AND window_start < ?)", stretch).fetchone()
        assert found == window and (found[0] > 0 or granularity == "week"), (granularity, condition, found, window)
        lengths = {len(period) for period in re.findall(r"`([^`]*)`", periods)}
        there = db.execute(f"SELECT DISTINCT length(period) FROM ({rows} true)").fetchall()
        assert there and {length for (length,) in there} <= lengths, (granularity, there, lengths)


def test_python_examples(_):
    polars, _, far = blocks("python", SCHEMAS)
    names, out = {}, io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(polars, names)
        exec(far, {})
    assert names["hours"].height > 24, names["hours"]
    assert re.search(r"^epoch \d+$", out.getvalue(), re.MULTILINE), out.getvalue()
    assert re.search(r"^complete until 20", out.getvalue(), re.MULTILINE), out.getvalue()


def test_table_commands(folder):
    """Each line as it stands; then the export read by a plain glob, next to the table that it was made from."""
    env = os.environ | {"KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    export, recounts, upkeep = (run_lines(block, folder, env) for block in blocks("sh", SCHEMAS))
    assert all(export + upkeep), (export, upkeep)
    assert recounts[0].startswith("exact: ") and "recount: exact" in recounts[1], recounts
    names = {}
    exec(blocks("python", SCHEMAS)[1], names)
    db, _ = run_sql(SCHEMAS)
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


# ---- jobs: every key is compared with the code by tests/library/job_files.rs ----


def test_job_files(_):
    listed = re.findall(r"^\| \[([\w.-]+)\]\([^)]*\) \|[^|]*\|([^|]*)\|$", JOBS, re.MULTILINE)
    assert len(listed) == 2, listed
    headings = set(re.findall(r"^### `\[+(\w+)", JOBS, re.MULTILINE))
    for file, dimensions in listed:
        with open(ROOT / "jobs" / file, "rb") as job:
            said = tomllib.load(job)
        assert {name for name, value in said.items() if not isinstance(value, str)} <= headings, headings
        assert set(re.split(r",\s*", dimensions.strip())) == set(said["dimensions"]), (file, dimensions)


# ---- operations ----


def test_status(folder):
    """On the tables, by their folder and by the job file; what the papers explain is on the screen."""
    by_folder = subprocess.run([BINARY, "status", "tables/web-analytics"], capture_output=True, text=True, check=True)
    for words in ("freshness", "nothing pending", "pending rows", "lag", f"{EVENTS:,} read ="):
        assert words in by_folder.stdout, by_folder.stdout
    env = {"PATH": os.environ["PATH"], "KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    line = [BINARY, "status", ROOT / "jobs/web-analytics.toml", "--output", "json", "--all"]
    by_job = json.loads(subprocess.run(line, env=env, capture_output=True, check=True).stdout)
    assert by_job["balance"]["rejected_records"] == REJECTED and by_job["logic"]["md5"], by_job
    assert [lane["pending_raw_rows"] for lane in by_job["lanes"]] == [0] * 5, by_job
    assert "brokers do not answer" in by_job["notes"][0], by_job


# ---- replay ----


def test_replay(folder):
    """The job with the wrong field, then every line as it stands."""
    own = folder / "replay"
    job = own / "jobs/web-analytics.toml"
    job.parent.mkdir(parents=True)
    right = (ROOT / "jobs/web-analytics.toml").read_text()
    [wrong_pointer] = re.findall(r'`pointer = "([^"]*)"`', REPLAY)
    [right_pointer] = set(re.findall(r"`(/\w+/country)`", REPLAY)) - {wrong_pointer}
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
            _, answers = run_sql(REPLAY)
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
        # A cut range: the message as the paper says.
        floodmark(again.replace("2026-01-13", "2026-01-13T00:30").replace("country-fix", "cut"), code=2)
    assert not list(own.glob("tables/web-analytics/replays/*/chunks/**/*.parquet"))
    assert (own / "tables/web-analytics/replays/country-fix/entry.json").exists()


# ---- all papers ----


def slug(heading):
    """The anchor that GitHub makes of a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@functools.cache
def anchors(path):
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.M | re.S), re.M)}


def test_links(_):
    """Each goes to a file that is there, and to a heading in it; and from README every paper can be reached."""
    linked = {}
    for name, paper in PAPERS.items():
        links = re.findall(r"\]\(([^)\s]+)\)", prose(paper))
        linked[name] = set()
        for link in links:
            if "://" in link:
                continue
            file, _, anchor = link.partition("#")
            target = ((ROOT / name).parent / file).resolve() if file else ROOT / name
            assert target.exists() and target.is_relative_to(ROOT), f"{name}: {link}"
            assert not anchor or anchor in anchors(target), f"{name}: {link} is none of {sorted(anchors(target))}"
            linked[name].add(str(target.relative_to(ROOT)))
    assert set(PAPERS) - {"README.md"} <= linked["README.md"], set(PAPERS) - linked["README.md"]


def test_files_that_are_cited_are_there(_):
    """In code, comments and papers: papers, beside the file that cites them or from the root, and files of code."""
    for name in FILES:
        path = ROOT / name
        if not path.exists() or name.startswith("tests/data/") or path.suffix in (".json", ".lock"):
            continue
        text = path.read_text(errors="replace")
        for cited in re.findall(r"[\w./-]*\w\.md\b", text):
            places = [(ROOT / cited).resolve(), (path.parent / cited).resolve()]
            assert any(place.exists() for place in places), f"{name} cites {cited}"
        for cited in re.findall(r"(?<![\w/.])(?:src|tests|scripts|schemas)/[\w./-]+\.(?:rs|py|toml|json|sql|yaml|xml)\b", text):
            assert (ROOT / cited).exists(), f"{name} cites {cited}"
        cited = re.findall(r"\b(DESIGN|ARCHITECTURE|STYLE|NOTES)\b", text) if path.suffix in (".rs", ".md", ".toml") else []
        assert not cited, f"{name} cites {cited}"


def test_the_design(_):
    """Its map has every module, in the order of src/lib.rs; each test that it names is in the file beside whose link it is."""
    design = PAPERS["src/README.md"]
    [rooms] = re.findall(r"^## Code map\n(.*?)^## ", design, re.MULTILINE | re.DOTALL)
    cells = "".join(row.split("|")[1] for row in rooms.splitlines() if row.startswith("| ["))
    mapped = [name for name in re.findall(r"\[(\w+)(?:\.rs)?\]\(", cells) if name not in ("main", "cli")]
    modules = re.findall(r"^pub mod (\w+);", (ROOT / "src/lib.rs").read_text(), re.MULTILINE)
    assert mapped == modules, (mapped, modules)
    named = re.findall(r"\]\(([^)]+\.rs)\)((?:,? `\w+`)+)", design)
    for file, tests in named:
        text = (ROOT / "src" / file).read_text()
        missing = [test for test in re.findall(r"\w+", tests) if not re.search(rf"\bfn {test}\b", text)]
        assert not missing, f"{file}: {missing}"
    assert len(named) > 20, named


def test_blocks_are_run(_):
    """A block of a language that is run belongs to a test that runs it."""
    for name, paper in PAPERS.items():
        for language in re.findall(r"^ *```(\w+)$", paper, re.MULTILINE):
            assert (name, language) in RUN, f"{name}: no test runs its blocks of {language}"


def test_rust_examples(_):
    """What they call and name is there."""
    code = "\n".join((ROOT / name).read_text() for name in FILES if name.startswith("tests/") and name.endswith(".rs"))
    for block in blocks("rust", PAPERS["tests/README.md"]):
        calls = set(re.findall(r"\b([a-z_]+)\(", block))
        names = {part for path in re.findall(r"\b\w+(?:::\w+)+", block) for part in path.split("::")}
        assert calls and names, block
        missing = [call for call in calls if not re.search(rf"\bfn {call}\b", code)]
        missing += [name for name in names if not re.search(rf"\b{name}\b", code)]
        assert not missing, missing


@functools.cache
def help_of(*words):
    done = subprocess.run([*words, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done}"
    return done.stdout


def commands(paper):
    """Every line of a block, and every code in a text, that is a command of ours."""
    lines = []
    for _, _, block in re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", paper, re.MULTILINE | re.DOTALL):
        lines += re.sub(r"\\\n", " ", block).splitlines()
    lines += re.findall(r"`([^`\n]+)`", prose(paper).replace("\n", " "))
    for line in lines:
        line = re.sub(r"\s#.*", "", line.strip().removeprefix("$ "))
        line = re.sub(r"^(?:\w+=\S* )+", "", line)
        if re.match(r"(target/release/)?floodmark (?!help)\w|scripts/\w|cargo test", line):
            yield line


def test_commands(_):
    """Every subcommand, script and option that a paper names is there; so is every test."""
    checked = 0
    for name, paper in PAPERS.items():
        for line in commands(paper):
            before, _, after = line.partition(" -- ")
            words, options = before.split(), set(re.findall(r"(?<!\S)--[a-z][\w-]*", before))
            checked += 1
            if words[0] == "cargo":
                is_of_a_test(name, line, before, after)
            elif words[0].startswith("scripts/"):
                script = ROOT / words[0].rstrip(":,")
                assert script.is_file(), f"{name}: {line}"
                if options:
                    text = help_of(str(script), *words[1:2]) if words[0] == "scripts/cluster" else help_of(str(script))
                    assert all(re.search(rf"{option}(?![\w-])", text) for option in options), f"{name}: {line}\n{text}"
            else:
                subcommand = [str(BINARY)]
                for word in words[1:]:
                    if not re.fullmatch(r"[a-z][a-z-]*", word) or "Commands:" not in help_of(*subcommand):
                        break
                    subcommand.append(word)
                text = help_of(*subcommand)
                assert all(re.search(rf"{option}(?![\w-])", text) for option in options), f"{name}: {line}\n{text}"
    assert checked > 60, checked


def is_of_a_test(name, line, before, after):
    """The crates and the filters of a `cargo test`."""
    for crate in re.findall(r"--test (\w+)", before):
        assert (ROOT / f"tests/{crate}.rs").exists(), f"{name}: {line}"
    sources = "\n".join(path.read_text() for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.rs"))
    for filter in re.sub(r"--(test-threads[= ]\S+|skip \S+|\w[\w-]*)", "", after).split():
        if filter.isupper():
            continue  # a place for a name
        for part in filter.split("::"):
            assert not part or re.search(rf"\b(fn|mod) {part}", sources), f"{name}: {line}: no test is called {part}"


def test_options_in_prose(_):
    """Options and subcommands that the text speaks of without their command."""

    def helps(*words):
        text = help_of(*words)
        yield text
        for subcommand in re.findall(r"^  ([a-z][a-z-]*) ", text.partition("Commands:")[2].partition("Options:")[0], re.MULTILINE):
            if subcommand != "help":
                yield from helps(*words, subcommand)

    scripts = [name for name in FILES if re.fullmatch(r"scripts/[a-z0-9]+", name)]
    known = "\n".join([*helps(str(BINARY)), *((ROOT / name).read_text() for name in scripts)])
    for name, paper in PAPERS.items():
        for option in re.findall(r"`(--[a-z][\w-]*)", prose(paper)):
            assert re.search(rf"{option}(?![\w-])", known), f"{name}: {option}"

    assert all(word in help_of(str(BINARY)) for word in ("run", "check", "status", "verify", "table", "dev", "--log"))
    has = lambda words, *command: all(word in help_of(str(BINARY), *command) for word in words)
    assert has(("--sample <FILE|N>", "--show", "--detailed-exitcode", "--output"), "check")
    assert has(("JOB|URL", "--output", "--all"), "status")
    assert has(("--drain", "--workers", "--accept-gap"), "run")
    assert has(("plan", "run", "diff", "publish", "undo", "list", "discard"), "replay")
    assert has(("--publish", "--detailed-exitcode", "--memory-mib", "--chunk-mib"), "replay", "run")
    assert has(("--customer", "--dimension", "--granularity", "--from"), "replay", "diff")
    assert all(word in help_of(str(ROOT / "scripts/demo")) for word in ("--real", "--log FILE"))
    assert all(word in help_of(str(ROOT / "scripts/cluster"), "start") for word in ("--dir", "--ssh-config"))
    named = {command for paper in PAPERS.values() for command in re.findall(r"^scripts/cluster (\w+)", paper, re.MULTILINE)}
    assert named == {"start", "status", "kill", "stop"}, named


def main():
    with runner.own_folder() as folder:
        make_tables(Path(folder))
        os.chdir(folder)
        code = runner.run(globals(), shared=folder)
        os.chdir(ROOT)
    return code


if __name__ == "__main__":
    sys.exit(main())
