"""The README's own Python runs as it stands there."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_own_loop_learns():
    """On one device, as its reader has: on several virtual ones a loop must wait for its steps, see `tlx.loop`."""
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "TrainState" in block)
    assert len(code.splitlines()) <= 20
    done = subprocess.run(
        [sys.executable, "-c", code.replace("steps=200", "steps=60")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 0.8 * np.log(10)  # chance is log 10


def test_every_command_names_what_is_there():
    for path in re.findall(r"(?:configs|experiments)/[\w/]+\.(?:py|md|png)", README):
        assert (ROOT / path).exists(), path
