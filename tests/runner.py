"""Runs the tests of a script, each in a folder of its own, and says how many passed; the exit code says whether all did."""

import os
import tempfile
import traceback
from pathlib import Path


def run(script):
    """`script`: its globals; what is called test_… is a test."""
    passed = failed = 0
    for name, test in [(name, test) for name, test in script.items() if name.startswith("test_")]:
        with tempfile.TemporaryDirectory(dir=os.environ.get("FLOODMARK_TEST_DIR")) as folder:
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
