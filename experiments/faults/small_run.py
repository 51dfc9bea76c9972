"""The run that is disturbed, self-training in small; and what must be the same however it came to its end."""

import hashlib
import pathlib
from typing import Any

from ml_collections import ConfigDict

from tlx import ledger, pseudo_label, record
from tlx.data import splits
from tlx.pretrained import load_run
from tlx.pretrained.run import network_only
from tlx.recipes import self_train
from tlx.recipes.learner import digest
from tlx.workdir import read_json

PHASES = ("teacher", "round_1", "round_2")
CURVES = "curves"


def config(harness: str = "jit") -> ConfigDict:
    """A teacher and two students on digits, each with three evaluations and checkpoints."""
    made = self_train.default_config()
    made.name, made.parallel = "faults", harness
    made.rounds = len(PHASES) - 1
    made.data.update(labels_per_class=5, validation=50)
    for section in (made.teacher, made.student):
        section.model = {"name": "mlp", "widths": (16,), "dropout": 0.2}
        section.train.update(steps=6, batch_size=8, eval_every=2)
        section.augment = {"shift": 1}
    made.student.unlabeled_ratio = 2.0
    made.loss.consistency = 0.5
    return made


def end(folder: pathlib.Path) -> dict[str, Any]:
    """What a finished run came to, without times: name -> value. Two that are equal ended alike, bit for bit.

    All of the folder's record is read, by what reads it in tlx.

    Raises:
      UserError: it is not finished, or what it holds is damaged.
    """
    run, trained = record.load(folder), load_run(folder)
    splits.load(folder / "splits.json")
    ledger.read(folder / "ledger.json")
    for phase in PHASES:
        read_json(folder / "phases" / f"{phase}.json", seal=True)
    for phase in PHASES[1:]:
        pseudo_label.load(folder / "pseudo_labels" / f"{phase}.npz")
    files = ["ledger.json", "config.json", "task.json", "splits.json"]
    files += [f"pseudo_labels/{phase}.{kind}" for phase in PHASES[1:] for kind in ("npz", "json")]
    return {
        "weights": digest(network_only(trained.variables)),
        **{name: run.result[name] for name in ("figures", "rounds", "confusion", "selected")},
        **{name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
        CURVES: run.metrics,
    }


def where(folder: pathlib.Path) -> str:
    """How far the run in this folder has come: its phase, the last step that is saved, what is being written."""
    if not (folder / "task.json").exists():
        return "start"
    half = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if _is_half(path))
    writing = f", writing {half[0].split('.orbax')[0]}" if half else ""
    if (folder / "result.json").exists():
        return f"report{writing}"
    begun = [phase for phase in PHASES if (folder / "checkpoints" / phase).exists()]
    if not begun:
        return f"before teacher{writing}"
    phase = begun[-1]
    if (folder / "phases" / f"{phase}.json").exists():
        return f"after {phase}{writing}"
    saved = [int(path.name) for path in (folder / "checkpoints" / phase).iterdir() if path.name.isdigit()]
    return f"{phase}, step {max(saved, default=0)} saved{writing}"


def _is_half(path: pathlib.Path) -> bool:
    """Whether it has a name that orbax or `tlx.workdir.writing` gives to what is not whole yet."""
    if ".orbax-checkpoint-tmp" in path.name:
        return not any(".orbax-checkpoint-tmp" in parent.name for parent in path.parents)
    return path.name.startswith(".") and path.name != ".lock" and path.is_file()
