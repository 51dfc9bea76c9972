"""The fault campaign in small (`python -m experiments.faults.campaign`), and that its judge notices what is lost."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments.faults import trial
from experiments.faults.child import Child
from experiments.pods.hosts import flags_of_children

ROOT = pathlib.Path(__file__).parent.parent


def test_whatever_is_disturbed_ends_alike_or_is_refused(tmp_path):
    """SIGKILL in every kind of write and at a random moment; a second process; bits that flip; files that are cut
    off, or too large; a read-only folder; clocks that jump.
    """
    command = [sys.executable, "-m", "experiments.faults.campaign", "--short", f"--into={tmp_path / 'results.json'}"]
    # One device: what is tested is the folder. The processes compile once, and read it back.
    env = os.environ | {"XLA_FLAGS": flags_of_children(), "TLX_FAULTS_CACHE": os.environ["TLX_TESTS_CACHE"]}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = [t for record in json.loads((tmp_path / "results.json").read_text()).values() for t in record["trials"]]
    assert {t["outcome"] for t in trials} <= {trial.SAME, trial.REFUSED, trial.SHORTER}, done.stdout
    assert len([t for t in trials if t["fault"].startswith("SIGKILL")]) == 14
    found = {t["fault"]: t["outcome"] for t in trials}
    assert found["clocks jump"] == trial.SAME
    assert found["files too large"] == found["read-only"] == found["phases/*.json: cut off"] == trial.REFUSED
    second = next(t for t in trials if t["fault"] == "a second process")
    assert second["outcome"] == trial.REFUSED and "in use by another process" in second["said"]


END = {"weights": "w", "ledger.json": "l", trial.CURVES: [{"step": 1}, {"step": 2}]}


def ended(folder, code, said="", end=END):
    """A child that has ended."""
    output = folder / f"child-{len(list(folder.iterdir()))}.txt"
    output.write_text(said)
    output.with_suffix(".json").write_text(json.dumps(end))
    return Child(0, output, code=code)


@pytest.mark.parametrize(
    ("code", "said", "end", "outcome", "reason"),
    [
        (0, "", END, trial.SAME, ""),
        (0, "", END | {"weights": "v"}, trial.LOST, "another end: weights"),
        (0, "", END | {"ledger.json": "m", trial.CURVES: []}, trial.LOST, "another end: ledger.json, curves"),
        (0, "", END | {trial.CURVES: [{"step": 2}]}, trial.SHORTER, "1 of 2 lines"),
        (0, "", END | {trial.CURVES: [{"step": 1}, {"step": 3}]}, trial.LOST, "another end: curves"),
        (2, "x\nerror: result.json is damaged: restore it\n", END, trial.REFUSED, "error: result.json is damaged"),
        (1, "Traceback\nKeyError: 'phase'\n", END, trial.LOST, "KeyError"),
        (2, "Traceback\nerror: x\n", END, trial.LOST, "error: x"),
        (-6, "", END, trial.LOST, "exit code -6"),
    ],
)
def test_the_judge(tmp_path, code, said, end, outcome, reason):
    child = ended(tmp_path, code, said, end)
    found, why = trial.judge(child, END, lambda: ended(tmp_path, 0))
    assert found == outcome and reason in why
    if child.refused:  # and what does not end alike when it is mended is lost
        assert trial.judge(child, END, lambda: ended(tmp_path, 1, "KeyError"))[0] == trial.LOST
