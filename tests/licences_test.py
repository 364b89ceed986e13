"""scripts/licences: the crates of the lock file have licences that are allowed, and others are named.

Run it with `python3.11 tests/licences_test.py`.
"""

import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import runner  # noqa: E402

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/licences"
loader = importlib.machinery.SourceFileLoader("licences", str(SCRIPT))
licences = importlib.util.module_from_spec(importlib.util.spec_from_loader("licences", loader))
loader.exec_module(licences)


def test_the_crates_of_the_lock_file(folder):
    done = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"floodmark", "timely", "rdkafka", "proptest"} <= listed and len(listed) > 200, listed


def test_expressions(folder):
    allowed = ["MIT", "Unlicense/MIT", "GPL-3.0-only OR MIT", "(MIT OR GPL-3.0-only) AND ISC", "MIT OR GPL-3.0-only AND LGPL-2.1"]
    denied = ["", "GPL-3.0-only", "MIT AND GPL-3.0-only", "(MIT OR ISC) AND GPL-3.0-only", "MIT WITH Odd-exception"]
    broken = ["(MIT", "MIT OR", "MIT MIT", "MIT)"]
    for expression in allowed:
        assert licences.is_allowed(expression, licences.ALLOWED), expression
    for expression in denied + broken:
        assert not licences.is_allowed(expression, licences.ALLOWED), expression


def test_exceptions_are_for_one_crate(folder):
    found = licences.refused([("option-ext", "0.2.0", "MPL-2.0"), ("other", "1.0.0", "MPL-2.0"), ("bare", "1.0.0", "")])
    assert found == [("other", "1.0.0", "MPL-2.0"), ("bare", "1.0.0", "")], found


if __name__ == "__main__":
    sys.exit(runner.run(globals()))
