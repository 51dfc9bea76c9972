"""Learning from unlabelled images: whole runs in small, what they are drawn from, and what is refused."""

import json

import numpy as np
import pytest
from test_recipes import curves, figures, interrupt_at, small_self_train

from tlx.errors import UserError
from tlx.preemption import Preempted
from tlx.recipes import self_train, semi_supervised, unlabeled
from tlx.recipes.run import prepare

MEAN_TEACHER = {
    "train.ema_decay": 0.9,
    "consistency.kind": "mse",
    "consistency.target": "ema",
    "consistency.sees": "noised",
    "loss.schedules": {"consistency": {"to": 5.0, "shape": "sigmoid", "end": 0.5}},
    "mixup": 0.5,
}


def small(**changes):
    config = semi_supervised.default_config()
    config.data.update(labels_per_class=5, validation=50)
    config.model = {"name": "mlp", "widths": (16,), "dropout": 0.2}
    config.train.update(steps=6, batch_size=8, eval_every=2)
    config.unlabeled_ratio = 2.0
    config.augment = {"shift": 1}
    # Not update_from_flattened_dict: a section of options may be replaced as a whole.
    for key, value in changes.items():
        *path, last = key.split(".")
        section = config
        for name in path:
            section = section[name]
        section[last] = value
    return config


def test_a_run_goes_on_exactly(tmp_path, monkeypatch):
    """With an average as the teacher, a ramp, and partners: all that a step may depend on beside its weights."""
    config = small(**MEAN_TEACHER, weak={"shift": 1})
    whole = semi_supervised.run(config, tmp_path / "whole")
    assert whole["selected"]["phase"] == "train" and 0 <= whole["figures"]["test_accuracy"] <= 1
    assert "train/loss/consistency" in curves(tmp_path / "whole")[-1]
    interrupt_at(monkeypatch, "train", 4)
    with pytest.raises(Preempted):
        semi_supervised.run(config, tmp_path / "parts")
    assert figures(semi_supervised.run(config, tmp_path / "parts")) == figures(whole)
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")
    views = np.load(tmp_path / "parts" / "gallery.npz")
    assert {name: views[name].shape for name in views} == {
        "student_view_images": (20, 8, 8, 1),
        "weak_view_images": (20, 8, 8, 1),
    }
    assert "What the student sees" in (tmp_path / "parts" / "report.html").read_text()


def test_the_pool(monkeypatch):
    """A part of the unlabelled images, the same for the same seed; and other data's, whose truth nobody knows."""
    run = prepare(small(**{"unlabeled.most": 40, "unlabeled.data.name": "digits"}))
    made, again = unlabeled.pool(run), unlabeled.pool(run)
    count = len(run.dataset.train)
    assert len(made.unlabeled) == 40 and len(made.examples) == 2 * count
    np.testing.assert_array_equal(made.unlabeled, again.unlabeled)
    assert set(made.unlabeled) <= set(run.splits.unlabeled) | set(range(count, 2 * count))
    np.testing.assert_array_equal(made.truth, np.r_[run.dataset.train.labels, np.full(count, -1)])
    shown = np.zeros(2 * count, np.int32)
    shown[run.splits.labeled] = run.dataset.train.labels[run.splits.labeled]
    np.testing.assert_array_equal(made.examples.labels, shown)
    np.testing.assert_array_equal(made.examples.images[count:], run.dataset.train.images)
    assert made.fingerprint != run.fingerprint
    everything = unlabeled.pool(prepare(small()))
    np.testing.assert_array_equal(everything.unlabeled, run.splits.unlabeled)


def test_images_of_no_known_class_are_dropped(tmp_path):
    """The digits 5 to 9, unlabelled, among 0 to 4: what the teacher is least sure of is left out, and counted."""
    options = {"data.classes": (0, 1, 2, 3, 4), "data.labels_per_class": 20, "rounds": 1, "teacher.train.steps": 60}
    config = small_self_train(**options)
    config.unlabeled.data.name = "digits"
    config.teacher.augment = {}
    config.teacher.optim.groups = {"all": {"learning_rate": 1e-2}}
    config.pseudo_label.drop_below = 0.9
    result = self_train.run(config, tmp_path)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    counts = json.loads((tmp_path / "pseudo_labels" / "round_1.json").read_text())["counts"]
    assert ledger[1]["data"]["drawn"] == counts["drawn"] == counts["unlabeled"] - counts["dropped"]
    assert 0 < counts["dropped"] < counts["unlabeled"] and counts["known"] < counts["unlabeled"]
    assert result["rounds"][1]["pseudo_labels"] == counts["used"]


def test_a_warm_start(tmp_path):
    """A student that starts from its teacher, and learns nothing, is its teacher."""
    config = small_self_train(**{"student.start": "teacher", "rounds": 1})
    config.student.optim.groups = {"all": {"learning_rate": 1e-30, "weight_decay": 0.0}}
    result = self_train.run(config, tmp_path)
    teacher, student = result["rounds"]
    assert student["digest"] == teacher["digest"] and "as many right" in student["reason"]
    assert not student["promoted"]


def test_a_noised_teacher_says_other_things(tmp_path):
    said = []
    for noised in (False, True):
        config = small_self_train(**{"pseudo_label.noised": noised, "rounds": 1})
        self_train.run(config, tmp_path / str(len(said)))
        with np.load(tmp_path / str(len(said)) / "pseudo_labels" / "round_1.npz") as arrays:
            said.append(arrays["logits"])
    assert np.abs(said[0] - said[1]).max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unlabeled_ratio": 0.0}, "unlabeled_ratio is 0.0"),
        ({"mixup": -1.0}, "mixup is -1.0"),
        ({"labeled_sees": "clean"}, "labeled_sees='clean'"),
        ({"weak": {"shfit": 1}}, "augment has no option 'shfit'"),
        ({"consistency.kind": "l2"}, "consistency.kind is 'l2'"),
        ({"consistency.target": "ema"}, "train.ema_decay is 0: set it"),
        ({"consistency.temperature": 0.0}, "consistency.temperature is 0.0"),
        ({"consistency.hard": True, "consistency.temperature": 0.5}, "which no temperature changes"),
        ({"loss.consistency": 0.0, "loss.labeled": 0.0}, "are all 0"),
        ({"loss.schedules": {"alpha": {"to": 1.0}}}, "loss.schedules has 'alpha'"),
        ({"loss.schedules": {"consistency": {"to": -1.0}}}, "consistency is -1.0"),
        ({"data.labels_per_class": 0}, "nothing is unlabelled"),
        ({"unlabeled.most": 10_000}, "unlabeled.most is 10000: it must be 0 .all. to 1197"),
        pytest.param({"train.batch_size": 6}, "does not divide by 4 devices", marks=pytest.mark.four_devices),
    ],
)
def test_bad_input(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        semi_supervised.run(small(**changes), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
