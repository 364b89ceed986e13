"""Runs the tests of a script and says how many passed; the exit code says whether all did. Names of tests as arguments: only those."""

import contextlib
import os
import sys
import tempfile
import traceback
from pathlib import Path


def own_folder():
    return tempfile.TemporaryDirectory(dir=os.environ.get("FLOODMARK_TEST_DIR"))


def tests_of(script):
    """By name. `script`: its globals; what is called test_… is a test."""
    return {name: test for name, test in script.items() if name.startswith("test_")}


def chosen(tests):
    """Those that the command line names; all if it names none."""
    names = sys.argv[1:] or list(tests)
    unknown = [name for name in names if name not in tests]
    if unknown:
        sys.exit(f"there is no test {', '.join(unknown)}; the tests are: {', '.join(tests)}")
    return {name: tests[name] for name in names}


def run(script, shared=None):
    """`script`: its globals. Each test gets a folder of its own, or the one that all share."""
    passed = failed = 0
    for name, test in chosen(tests_of(script)).items():
        with contextlib.nullcontext(shared) if shared else own_folder() as folder:
            try:
                test(Path(folder))
                passed += 1
                print(f"ok {name}")
            except Exception:
                failed += 1
                traceback.print_exc()
                print(f"FAILED {name}")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0
