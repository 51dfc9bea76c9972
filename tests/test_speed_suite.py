"""The benchmark of two libraries, in small: sides that answer, fail and hang; and tlx's own tasks."""

import dataclasses
import json
import pathlib

import pytest

from experiments.speed import cases, rivals, tables, tlx_side

SIDE = """
import time
from experiments.speed import rivals
answer = rivals.claim_output()
print("what a library prints")
def fail(steps): raise ValueError("no such layer")
rivals.serve(answer, {"sleep": lambda steps: time.sleep(0.01 * steps), "fail": fail}, {"version": 7})
"""


@pytest.fixture
def side(tmp_path, monkeypatch):
    """`side(name)`: a process with the tasks above."""
    (tmp_path / "a_side.py").write_text(SIDE)
    root = pathlib.Path(__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", f"{root}:{tmp_path}")
    begun = []

    def make(name):
        begun.append(rivals.Side(name, "a_side"))
        return begun[-1]

    yield make
    for one in begun:
        one.close()


def test_sides_take_turns_and_a_failure_is_an_answer(side):
    ours, theirs = side("ours"), side("theirs")
    assert ours.ask(do="prepare", patience=60)["version"] == 7
    found = rivals.take_turns([(ours, "sleep"), (theirs, "sleep"), (ours, "fail")], seconds=0.1, repeats=3)
    for name in ("ours", "theirs"):
        row = found[name, "sleep"]
        assert 0.01 <= row["fastest"] <= row["seconds"] <= row["slowest"]
        assert 3 <= row["steps"] <= 10  # of a tenth of a second in all
    assert found["ours", "fail"] == {"error": "ValueError: no such layer"}


def test_a_side_that_hangs_is_an_answer_too(side):
    slow = side("slow")
    assert "gave no answer in 0 s" in slow.ask(do="sleep", steps=100, patience=0.1)["error"]
    assert "has died" in slow.ask(do="sleep", steps=1, patience=5)["error"]


def test_tlx_does_all_that_a_case_asks(tmp_path):
    ways = ("kd_live", "self_train", "frozen_kept", "scan_8")
    tiny = dataclasses.replace(cases.of(cases.TINY["gpu"], "mlp float32"), batch=8, count=64, ways=ways)
    tasks, about = tlx_side.tasks(tiny)
    assert about == {"parameters": 1_276_810, "multiply_adds": 1_275_200}
    assert tuple(tasks) == ways
    for task in tasks.values():
        task(2)
    costs = [cost for cost, _, _ in tasks["self_train"].profile(str(tmp_path))]
    assert len(costs) > 3 and costs == sorted(costs, reverse=True) and costs[-1] > 0
    assert (tmp_path / "program.txt").exists()


@pytest.mark.parametrize("suite", ["cpu", "gpu"])
def test_the_committed_figures_make_the_pages_table(suite):
    folder = pathlib.Path(tables.__file__).parent
    rows = [line for line in tables.of(json.loads((folder / f"{suite}.json").read_text())) if line.startswith("|")]
    assert len(rows) > 10 and "\n".join(rows) in (folder / "README.md").read_text()


def test_the_same_networks_have_as_many_parameters():
    torch_nets = pytest.importorskip("experiments.speed.torch_nets", exc_type=ImportError)
    counted = {name: sum(p.numel() for p in torch_nets.make(name).parameters()) for name in ("mlp", "cnn", "resnet20")}
    assert counted == {"mlp": 1_276_810, "cnn": 105_866, "resnet20": 272_474}
