"""SIGKILL in every phase of a self-training run, one after another in one workdir: the end is bit for bit the same."""

import json
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent

# Runs the small config once a place, and dies by SIGKILL there: before, in the middle of, or after a write. Each run is
# a process of its own, forked from one that has imported everything and touched no device yet.
CHILD = """
import json, os, signal, sys
sys.path.insert(0, {root!r}); sys.path.insert(0, {root!r} + "/tests")

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

import jax
jax.config.update("jax_compilation_cache_dir", {cache!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
from test_recipes import small_self_train
from tlx import checkpoint, metrics
from tlx.recipes import self_train

save, write, rename = checkpoint.Checkpoints.save, metrics.MetricWriter.write, os.replace

def in_checkpoint(phase, at):
    def saving(self, step, *args):
        if self.folder.name == phase and step == at:
            # What a kill in the middle of orbax's write leaves: a folder under its temporary name.
            half = self.folder / f"{{step}}.orbax-checkpoint-tmp-99" / "state"
            half.mkdir(parents=True)
            (half / "manifest.ocdbt").write_bytes(b"half")
            die()
        save(self, step, *args)
    checkpoint.Checkpoints.save = saving

def after_metrics(phase, at):
    def writing(self, at_phase, step, values):
        write(self, at_phase, step, values)
        if (at_phase, step) == (phase, at):
            die()
    metrics.MetricWriter.write = writing

def in_rename(name):
    os.replace = lambda old, new: die() if str(new).endswith(name) else rename(old, new)

def run(place, workdir):
    if place == "teacher": in_checkpoint("teacher", 4)
    elif place == "teacher's mark": in_rename("phases/teacher.json")
    elif place == "ledger": in_rename("ledger.json")
    elif place == "diagnosis": in_rename("pseudo_labels/round_1.json")
    elif place == "pseudo-labels": in_rename("pseudo_labels/round_1.npz")
    elif place == "student": after_metrics("round_1", 4)
    elif place == "between rounds": self_train.promotion.compare = die
    elif place == "second student": in_checkpoint("round_2", 6)
    elif place == "result": in_rename("result.json")
    self_train.run(small_self_train(), workdir)

ends = []
for place, workdir in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        run(place, workdir)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    ends.append([place, os.waitstatus_to_exitcode(status), os.path.exists(workdir + "/result.json")])
json.dump(ends, open(sys.argv[2], "w"))
"""
PLACES = ["teacher", "teacher's mark", "ledger", "diagnosis", "pseudo-labels", "student", "between rounds"]
PLACES += ["second student", "result"]


def test_sigkill_in_every_phase(tmp_path):
    import jax
    from test_recipes import curves, figures

    script = tmp_path / "child.py"
    script.write_text(CHILD.format(root=str(ROOT), cache=jax.config.jax_compilation_cache_dir))
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    course = [("nowhere", whole), *((place, killed) for place in PLACES), ("nowhere", killed)]
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(course), str(tmp_path / "ends.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads((tmp_path / "ends.json").read_text())
    expected = [["nowhere", 0, True], *([place, -signal.SIGKILL, False] for place in PLACES), ["nowhere", 0, True]]
    assert ends == expected, done.stderr
    whole, again = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed"))
    assert figures(again) == figures(whole)
    assert curves(tmp_path / "killed") == curves(tmp_path / "whole")
    made = ("ledger.json", "pseudo_labels/round_1.json", "pseudo_labels/round_2.npz")
    assert all((tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in made)
