"""Feature caching: the same training bit for bit, whole caches or none, and errors before anything is compiled."""

import json
import os
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest
from processes import say
from test_recipes import curves, figures, interrupt_at

from tlx import config as config_lib
from tlx import feature_cache, kept, lr_find, models, optim, report, rng
from tlx.checkpoint import restore_variables
from tlx.data import source, splits
from tlx.data.augment import make_augment, to_float
from tlx.errors import UserError
from tlx.predict import predict
from tlx.preemption import Preempted
from tlx.pretrained import load_run
from tlx.recipes import supervised

MODELS = {
    "cnn": {"name": "cnn", "widths": (4, 6), "dense": 8, "norm": "batch", "dropout": 0.3},
    "resnet8": {"name": "resnet8", "width": 0.25, "dropout": 0.2, "stochastic_depth": 0.0},
}
FROZEN = r"backbone/.*"


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(report, "write", lambda workdir: workdir)


def small(model="cnn", *, frozen=FROZEN, **changes):
    """Six steps; what no rule freezes learns."""
    config = supervised.default_config()
    config.data.update(labels_per_class=5, validation=50)
    config.model = MODELS[model]
    config.train.update(steps=6, batch_size=16, eval_every=3)
    config.optim = config_lib.optim(rules=((frozen, "frozen"), (".*", "head")), head={"learning_rate": 1e-2})
    config.cache.features = True
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("model", ["cnn", "resnet8"])
def test_training_on_features_is_bit_for_bit_training_on_images(model, tmp_path):
    assert_trained_alike(model, FROZEN, "pooled", tmp_path)


def test_above_a_level_whose_features_are_kept_batchnorms_learn_alike(tmp_path):
    """On the batches. Statistics of two programs are equal to the bit only if their fusions are made as users' are."""
    arguments = "resnet8", r"backbone/(stem|stage1)/.*", "stage1", str(tmp_path)
    code = f"import test_feature_cache as t; t.assert_trained_alike(*{arguments!r}); print('alike')"
    assert say(code, "--xla_backend_optimization_level=0") == "alike"


def assert_trained_alike(model, frozen, level, folder):
    """On kept features and on images."""
    folder = pathlib.Path(folder)
    config = small(model, frozen=frozen)
    cached = supervised.run(config, folder / "cached")
    assert json.loads((folder / "cached" / "features" / "labeled.json").read_text())["key"]["level"] == level
    config.cache.features = False
    recomputed = supervised.run(config, folder / "recomputed")
    assert not (folder / "recomputed" / "features").exists()
    final = [restore_variables(folder / name / "checkpoints" / "train", 6) for name in ("cached", "recomputed")]
    jax.tree.map(np.testing.assert_array_equal, *final)
    assert figures(cached) == figures(recomputed)
    if model == "cnn":  # what was trained on features is a network of images
        test = source.load("digits").test
        hits = np.argmax(predict(load_run(folder / "cached"), test.images), -1) == test.labels
        assert hits.mean() == pytest.approx(cached["figures"]["test_accuracy"])


def test_resuming_while_features_are_computed_and_after(tmp_path, monkeypatch, capsys):
    config = small(eval_batch_size=16)
    whole = supervised.run(config, tmp_path / "whole")
    parts, labeled = tmp_path / "parts", tmp_path / "parts" / "features" / "labeled.npy"

    with monkeypatch.context() as patched:
        cast, parts_done = kept.cast, []

        def interrupting(*args, **kwargs):
            parts_done.append(True)
            if len(parts_done) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return cast(*args, **kwargs)

        patched.setattr(kept, "cast", interrupting)
        with pytest.raises(Preempted):
            supervised.run(config, parts)
    assert list((parts / "features").iterdir()) == []

    with monkeypatch.context() as patched:
        interrupt_at(patched, "train", 3)
        with pytest.raises(Preempted):
            supervised.run(config, parts)
    shutil.copytree(parts, tmp_path / "other")
    before = labeled.stat().st_mtime_ns
    assert figures(supervised.run(config, parts)) == figures(whole)
    assert curves(parts) == curves(tmp_path / "whole")
    assert labeled.stat().st_mtime_ns == before

    # The weights that the run began from are others by now.
    monkeypatch.setattr(feature_cache, "digest", lambda *args: "another")
    with pytest.raises(UserError, match=r"labeled.npy is of other weights, and so is the training so far: .*overwrite"):
        supervised.run(config, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "checkpoints")
    capsys.readouterr()
    assert figures(supervised.run(config, tmp_path / "other")) == figures(whole)
    assert "features/labeled.npy is of other weights: computed again" in "".join(capsys.readouterr().out.split("\n"))


def test_views_are_those_of_the_image_and_the_number_of_the_view(tmp_path):
    """Each activation is the network's on the image, augmented with the documented keys, whatever batch it was in."""
    config = small(**{"cache.views": 3, "eval_batch_size": 16, "parallel": "pmap"})
    config.augment = {"shift": 1, "noise": 0.1}
    supervised.run(config, tmp_path)
    run, images = load_run(tmp_path), source.load("digits").train.images
    index = splits.load(tmp_path / "splits.json").labeled
    found = np.load(tmp_path / "features" / "labeled.npy").reshape(3, len(index), -1)
    key, augment = rng.stream(jax.random.key(config.seed), "views"), make_augment(**config.augment)
    features = jax.jit(lambda x: run.model.apply(run.variables, run.takes(x), train=False, features=True)[1]["pooled"])
    for view in range(3):
        seen = augment(jax.random.fold_in(key, view), to_float(images[index]), index.astype(np.int32))
        np.testing.assert_allclose(found[view], features(seen), rtol=1e-5, atol=1e-6)
    assert not np.allclose(found[0], found[1])
    held_out = images[splits.load(tmp_path / "splits.json").validation]
    clean = np.load(tmp_path / "features" / "validation.npy")
    np.testing.assert_allclose(clean, features(to_float(held_out)), rtol=1e-5, atol=1e-6)


def cut(*rules, level="", model="cnn", **groups):
    network = models.build(**MODELS[model], num_classes=3)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32), train=False))
    made = optim.make_optimizer(
        shapes["params"], rules=rules, groups=groups or {"all": {}}, total_steps=6, batch_stats=shapes["batch_stats"]
    )
    levels = models.level_shapes(network, (8, 8, 1))
    return feature_cache.cut(list(levels), made, batch_stats=shapes["batch_stats"], level=level)


def test_a_range_test_keeps_nothing():
    found = lr_find.find(small(), steps=20, low=1e-3, high=1.0)
    assert np.isfinite(found.losses).all()


def test_noise_below_the_cut_is_named():
    network = models.build("resnet8", width=0.25, stochastic_depth=0.5, dropout=0.5, num_classes=3)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32), train=False))
    shapes = models.level_shapes(network, (8, 8, 1)) | {"": (8, 8, 1)}
    dropped = [f"backbone/stage{i}/block1/StochasticDepth_0" for i in (1, 2, 3)]
    for level, count in (("stem", 0), ("stage1", 1), ("stage2", 2), ("pooled", 3)):  # the head's input is dropped above
        assert feature_cache.noise_below(network, variables, shapes, level) == dropped[:count]


def test_the_cut_is_the_highest_that_stays_frozen():
    rest = (".*", "all")
    assert cut((FROZEN, "frozen"), rest) == "pooled"
    assert cut(("backbone/stage.*", "frozen"), rest) == "stage2"
    assert cut(("backbone/(stage1|dense)/.*", "frozen"), rest) == "stage1"
    assert cut((FROZEN, "frozen"), rest, level="stage1") == "stage1"
    later = {"all": {}, "late": {"start": 0.5}}
    assert cut(("backbone/stage1/.*", "frozen"), (FROZEN, "late"), rest, **later) == "stage1"


@pytest.mark.parametrize(
    ("rules", "level", "message"),
    [
        ((), "", r"'backbone/stage1/conv/kernel', which level 'stage1' depends on, learns \(group 'all'\): freeze the"),
        (((".*stage2.*", "frozen"),), "", "'backbone/stage1/conv/kernel'"),
        ((("backbone/stage1/.*", "frozen"),), "dense", r"'backbone/stage2/.*'dense' depends on, .*level to 'stage1'"),
        (
            ((FROZEN, "frozen"),),
            "stage3",
            r"cache.level is 'stage3' \(did you mean 'stage2'\?\): the levels are",
        ),
        (((FROZEN, "late"),), "", r"learns \(group 'late', from start=0.5 on\)"),
        ((("backbone/stage1/conv/.*", "frozen"),), "", "'backbone/stage1/norm/"),
    ],
)
def test_nothing_that_learns_is_below_the_cut(rules, level, message):
    groups = {"all": {}} | ({"late": {"start": 0.5}} if "late" in dict(rules).values() else {})
    with pytest.raises(UserError, match=message):
        cut(*rules, (".*", "all"), level=level, **groups)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache.views": 0}, "cache.views is 0"),
        ({"cache.views": 2}, "cache.views is 2, but nothing is augmented"),
        ({"cache.dtype": "float64"}, "cache.dtype is 'float64'"),
        ({"cache.level": "stage3"}, "cache.level is 'stage3'"),
    ],
)
def test_bad_options_before_any_compilation(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *a, **k: pytest.fail("compiled"))
    with pytest.raises(UserError, match=message):
        supervised.run(small(**changes), tmp_path)
    assert not (tmp_path / "config.json").exists()
