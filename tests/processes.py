"""Processes that tests start. Apart from conftest, whose import sets XLA_FLAGS for the process that imports it."""

import os
import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent


def say(code: str, xla_flags: str = "") -> str:
    """What `code`, which may import tests, prints last in a process of its own, whose programs are as users' are.

    But for `xla_flags`, instead of the tests' own.
    """
    env = os.environ | {"XLA_FLAGS": xla_flags, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]
