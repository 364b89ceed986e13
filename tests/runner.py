"""Runs the tests of a script and says how many passed; the exit code says whether all did."""

import contextlib
import os
import tempfile
import traceback
from pathlib import Path


def own_folder():
    return tempfile.TemporaryDirectory(dir=os.environ.get("FLOODMARK_TEST_DIR"))


def run(script, shared=None):
    """`script`: its globals; what is called test_… is a test. Each gets a folder of its own, or the one that all share."""
    passed = failed = 0
    for name, test in [(name, test) for name, test in script.items() if name.startswith("test_")]:
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
