"""The README's own Python runs as it stands there."""

import pathlib
import re

import numpy as np

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_the_own_loop_learns(capsys):
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "TrainState" in block)
    assert len(code.splitlines()) <= 18
    exec(compile(code.replace("steps=200", "steps=60"), "README.md", "exec"), {})
    loss = float(capsys.readouterr().out.split()[-1])
    assert loss < 0.8 * np.log(10)  # chance is log 10


def test_every_command_names_what_is_there():
    root = pathlib.Path(__file__).parent.parent
    for path in re.findall(r"(?:configs|experiments)/[\w/]+\.(?:py|md|png)", README):
        assert (root / path).exists(), path
