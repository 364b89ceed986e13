"""scripts/sizing calculates what follows from its inputs, and refuses what can not be.

Run it with `scripts/python tests/sizing_test.py`.
"""

import json
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import runner  # noqa: E402

SIZING = Path(__file__).resolve().parent.parent / "scripts/sizing"


def run(*words, code=0):
    done = subprocess.run([SIZING, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == code, done
    return done.stdout if code == 0 else done.stderr


def sized(*words):
    return json.loads(run("--output", "json", *words))


def test_half_the_events_take_half_of_what_is_in_proportion(folder):
    whole, half = sized(), sized("--events-per-second", 500_000)
    assert whole["input"]["events_per_second"] == 1_000_000
    assert abs(half["cores"]["reading"] / whole["cores"]["reading"] - 0.5) < 1e-9
    assert half["stored_bytes"]["raw"] * 2 == whole["stored_bytes"]["raw"]
    # Rows are not: the more events a window has, the more of them are of cells that are there.
    for name, rows in whole["rows_written_per_second"].items():
        assert rows / 2 < half["rows_written_per_second"][name] < rows, name
    assert half["cores"]["to have"] < whole["cores"]["to have"]


def test_cells_are_those_that_a_drain_counts(folder):
    """`scripts/bench drain`: 2,000,000 events of 10,000 customers in a day are 9,271,679 rows. Here the day has no rhythm."""
    cells = sized("--events-per-second", 2_000_000 / 86_400, "--customers", 10_000)["cells"]
    a_day = 1440 * cells["minute"] + 24 * cells["hour"] + 4 * cells["day"]
    assert abs(a_day / 9_271_679 - 1) < 0.02, a_day


def test_sums_are_sums_and_bounds_are_kept(folder):
    for words in ((), ("--events-per-second", 10_000, "--customers", 10_000), ("--late-minutes", 60), ("--dimensions", "total")):
        found = sized(*words)
        cells = list(found["cells"].values())
        assert cells == sorted(cells) and cells[0] > 0, cells
        cores = found["cores"]
        assert abs(sum(value for name, value in cores.items() if name not in ("busy", "to have")) - cores["busy"]) < 1e-6, cores
        assert cores["to have"] >= cores["busy"] and found["workers"] >= cores["to have"], found
        assert found["buckets"] >= found["workers"] and found["kafka_partitions"] >= found["workers"], found
        ratios = [limit["ratio"] for limit in found["limits"]]
        assert ratios == sorted(ratios, reverse=True), ratios
        assert all(limit["then"] for limit in found["limits"])
    # One process tells nobody anything.
    alone = sized("--events-per-second", 100, "--customers", 100)
    assert alone["processes"] == 1 and alone["network_bytes_per_second"]["between processes"] == 0, alone


def test_the_text_has_a_line_for_what_breaks_first(folder):
    said = run()
    assert "limits, the nearest first" in said and "1 M events/s of 1000 bytes, 5 M customers" in said, said
    assert "usage: scripts/sizing" in run("--help")


def test_wrong_values_are_named(folder):
    for words, says in (
        (["--events-per-second", "0"], "argument --events-per-second: expected a number above 0, found '0'"),
        (["--customers", "many"], "argument --customers: expected a number above 0, found 'many'"),
        (["--bytes", "-1"], "argument --bytes: expected a number above 0, found '-1'"),
        (["--zipf", "nan"], "argument --zipf: expected a number of 0 or more, found 'nan'"),
        (["--busy", "1.5"], "argument --busy: expected a share above 0, at most 1, found '1.5'"),
        (["--buckets", "12"], "argument --buckets: expected a power of two up to 65,536, found '12'"),
        (["--dimensions", "colour"], "argument --dimensions: expected some of total,action,country,page, found 'colour'"),
    ):
        said = run(*words, code=2)
        assert said.splitlines()[-1] == f"scripts/sizing: error: {says}", said


if __name__ == "__main__":
    sys.exit(runner.run(globals()))
