"""A finished run's folder with all that one can hold, made by hand in a second: nothing is trained."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import optax

from tlx import ledger, models
from tlx.checkpoint import ACCURACY, LOSS, Checkpoints
from tlx.pretrained import TrainedRun
from tlx.state import TrainState
from tlx.workdir import write_json

CLASSES, SHAPE = ("cat", "dog"), (2, 2, 1)
_MODEL = {"name": "mlp", "widths": [3]}
_TAKES = {"shape": SHAPE, "mean": [0.5], "std": [0.25]}
_SELECTED = {"phase": "train", "step": 4, "model": _MODEL, "takes": _TAKES, "dtype": "float32", "digest": "d" * 64}


def network() -> TrainedRun:
    """Two classes of 2 x 2 grey pixels, with weights that are not random."""
    model = models.build("mlp", num_classes=2, widths=(3,))
    ramp = lambda *shape: np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    layer = lambda *shape: {"kernel": ramp(*shape), "bias": ramp(shape[-1])}
    variables = {"params": {"backbone": {"layer1": layer(4, 3)}, "head": layer(3, 2)}, "batch_stats": {}}
    takes = models.Input(SHAPE, (0.5,), (0.25,))
    return TrainedRun(pathlib.Path("made"), model, variables, CLASSES, SHAPE, takes, {"selected": _SELECTED})


def write(folder: pathlib.Path) -> pathlib.Path:
    """Writes every record of a run, and one checkpoint."""
    checkpoints = Checkpoints(folder / "checkpoints" / "train")
    checkpoints.save(4, state(), {"phase": "train", "step": 4}, {ACCURACY: 0.75, LOSS: 0.5})
    checkpoints.close()
    loss = {"kind": "kl", "alpha": 1.0}
    config = {"recipe": "self_train", "name": "made", "seed": 0, "rounds": 2, "loss": loss, "data": {"name": "digits"}}
    write_json(folder / "config.json", config)
    write_json(folder / "task.json", {"class_names": CLASSES, "image_shape": SHAPE, "fingerprint": "f" * 16})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics()))
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    kinds = {"images": images, "label": [0, 1], "truth": [0, 0], "confidence": [0.99999, 0.9]}
    np.savez(folder / "gallery.npz", **{f"most_sure_{name}": value for name, value in kinds.items()})
    write_json(folder / "strategy.json", _strategy())
    write_json(folder / "pseudo_labels" / "round_1.json", _diagnosis())
    write_json(folder / "reentry.json", {"from_round": 1, "config": "c", "changes": {"seed": [0, 1]}, "kept": []})
    for generation in range(2):
        ledger.add(folder / "ledger.json", _entry(generation))
    write_json(folder / "result.json", _result())
    return folder


def state() -> TrainState:
    """Of the network, as the checkpoint has it."""
    return TrainState.create(variables=jax.tree.map(np.asarray, network().variables), tx=optax.identity())


def metrics() -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    lines = [{"phase": "teacher", "step": step, "train/loss": 2.0 / step} for step in (1, 2, 3)]
    return [
        *lines,
        {"phase": "round_1", "step": 2, "validation/loss": 0.5, "validation/accuracy": 0.5, "train/kl": None},
    ]


def _result() -> dict[str, Any]:
    first = {"round": 0, "role": "teacher", "model": "mlp", "parameters": 23, "promoted": True, "reason": "first"}
    first |= {"validation_accuracy": 0.5, "test_accuracy": 0.75}
    rows = [{"role": "teacher", "model": "mlp", "accuracy": 0.75, "ece": 0.1, "parameters": 23, "latency_ms": 0.1}]
    curve = {"confidence": [None, 0.8], "accuracy": [None, 0.75], "count": [0, 4]}
    return {
        "recipe": "self_train",
        "name": "made",
        "seed": 0,
        "figures": {"test_accuracy": 0.75, "test_loss": 0.5, "test_accuracy_uncorrected": 0.5},
        "rounds": [
            first,
            first | {"round": 1, "role": "student 1", "promoted": False, "reason": "worse", "p_value": 0.5},
        ],
        "compression": [*rows, rows[0] | {"role": "student", "parameters": 11}],
        "reliability": {"teacher": curve, "student": curve},
        "ensemble": {"members": 2, "test_accuracy": 0.75, "validation_accuracy": 0.5},
        "bias_correction": {"omitted": ["dog"], "offset": 0.5},
        "confusion": [[2, 0], [1, 1]],
        "class_names": CLASSES,
        "selected": _SELECTED | {"bias": [0.0, 0.5]},
        "time": {"total": 92.0, "compile": 20.0, "train": 60.0},
        "versions": {"jax": "0.10.2"},
        "git": "abc1234",
        "devices": "1 x cpu",
    }


def _strategy() -> dict[str, Any]:
    figure = {"value": 0.5, "shuffled": 0.5}
    facts = {"top": dict.fromkeys(("probe", "knn", "h_score", "log_me"), figure), "early": 0.5, "random": 0.5}
    facts |= {"labels_per_class": 5.0, "parameters": 23}
    choice = {"regime": "linear", "runner_up": "full", "quadrant": "small and similar", "why": "5 labels a class."}
    return {"choice": choice, "facts": facts}


def _diagnosis() -> dict[str, Any]:
    names = ("unlabeled", "known", "dropped", "distinct", "drawn", "copies", "used")
    row = {"predicted": 2, "used": 2, "copies": 0, "threshold": 0.5, "accuracy": 0.5}
    return {
        "threshold": 0.5,
        "drop_below": 0.1,
        "counts": dict.fromkeys(names, 4),
        "classes": [{"name": name, **row} for name in CLASSES],
        "bins": {"confidence": [None, 0.8], "accuracy": [None, 0.75], "count": [0, 4]},
        "calibration_error": 0.1,
        "confusions": [{"true": "cat", "taken_for": "dog", "count": 1, "confidence": 0.75}],
        "dropped": {"known": 1, "wrong": 1, "classes": [{"name": "dog", "count": 1}]},
    }


def _entry(generation: int) -> dict[str, Any]:
    student = generation > 0
    data = {"labeled": 4, "unlabeled": 4, "drawn": 4, "fingerprint": "f" * 16, "pseudo_labels": "e" * 64}
    return {
        "generation": generation,
        "phase": "round_1" if student else "teacher",
        "role": "student 1" if student else "teacher",
        "taught_by": "teacher" if student else None,
        "digest": "d" * 64,
        "model": _MODEL,
        "parameters": 23,
        "start": "fresh",
        "data": data,
        "noise": {"augment": {"shift": 1}},
        "figures": {"validation_accuracy": 0.5},
        "promoted": not student,
        "reason": "better",
        "p_value": 0.25,
    }
