"""Distillation: kept teachers equal live ones bit for bit, all teachers and transfer sets, and what is refused."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from test_recipes import curves, figures, interrupt_at

from experiments.parity import random_weights
from tlx import calibration, ensemble, report, teachers
from tlx import config as config_lib
from tlx.checkpoint import restore_variables
from tlx.data import source, splits
from tlx.errors import UserError
from tlx.predict import predict
from tlx.preemption import Preempted
from tlx.pretrained import load_run
from tlx.recipes import distill, supervised

NOISE = {"translate": 1.0, "noise": 0.1}


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(report, "write", lambda workdir: workdir)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Two finished runs of networks of different kinds, and one that tells other classes apart."""
    root, kept = tmp_path_factory.mktemp("teachers"), report.write
    report.write = lambda workdir: workdir
    for seed, name in enumerate(("cnn", "mlp", "other")):
        config = supervised.default_config()
        config.seed = seed
        config.data.validation = 100
        config.model = {"name": "cnn", "widths": (4, 6)} if name == "cnn" else {"name": "mlp", "widths": (16,)}
        config.optim = config_lib.optim(all={"learning_rate": 1e-2})
        config.train.update(steps=30, batch_size=32, eval_every=30)
        if name == "other":
            config.data.classes = (0, 1, 2)
        supervised.run(config, root / name)
    report.write = kept
    return root


def small(teacher, **changes):
    """Six steps of a small MLP."""
    config = distill.default_config()
    config.data.update(labels_per_class=5, validation=100)
    config.model = {"name": "mlp", "widths": (8,), "dropout": 0.2}
    config.train.update(steps=6, batch_size=16, eval_every=3)
    config.optim = config_lib.optim(all={"learning_rate": 1e-2})
    if teacher:
        config.teacher.run = str(teacher)
    for name, value in changes.items():
        if name in ("augment", "loss.schedules"):
            section = config if name == "augment" else config.loss
            section[name.rpartition(".")[2]] = value
        else:
            config.update_from_flattened_dict({name: value})
    return config


def final(folder, step=6):
    return restore_variables(folder / "checkpoints" / "train", step)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment": NOISE, "cache.views": 3},
        {"augment": NOISE, "cache.views": 2, "transfer.mixup": 0.5, "loss.beta": 0.5},
        {"augment": NOISE, "teacher.sees": "clean"},
        {"loss.features": 0.5, "features.teacher_level": "stage1"},
        {"augment": NOISE, "cache.views": 2, "parallel": "pmap"},
    ],
    ids=["plain", "views", "mixup", "clean", "features", "pmap"],
)
def test_a_kept_teacher_is_the_live_one_bit_for_bit(changes, taught, tmp_path):
    results = {}
    for kept in (False, True):
        config = small(taught / "cnn", **changes, **{"cache.teacher": kept})
        results[kept] = distill.run(config, tmp_path / str(kept))
        assert (tmp_path / str(kept) / "teacher" / "train.npy").exists() == kept
    jax.tree.map(np.testing.assert_array_equal, final(tmp_path / "True"), final(tmp_path / "False"))
    assert curves(tmp_path / "True") == curves(tmp_path / "False")
    assert figures(results[True]) == figures(results[False])


def test_an_ensemble_that_is_kept_is_the_live_one_and_its_row_is_of_all(taught, tmp_path):
    runs = tuple(str(taught / name) for name in ("cnn", "mlp"))
    for kept in (False, True):
        config = small("", **{"teacher.runs": runs, "teacher.weights": (1.0, 3.0), "cache.teacher": kept})
        result = distill.run(config, tmp_path / str(kept))
    jax.tree.map(np.testing.assert_array_equal, final(tmp_path / "True"), final(tmp_path / "False"))
    said = np.load(tmp_path / "True" / "teacher" / "train.npy")["teacher_logits"]
    assert said.shape[1:] == (2, 10)
    teacher, student = result["compression"]
    one, two = (load_run(path) for path in runs)
    images = source.load("digits").test
    joint = (predict(one, images.images) + 3 * predict(two, images.images)) / 4
    assert teacher["accuracy"] == pytest.approx(np.mean(joint.argmax(-1) == images.labels))
    assert teacher["parameters"] == sum(r.result["selected"]["parameters"] for r in (one, two))
    assert student["accuracy"] == result["figures"]["test_accuracy"] and student["kl_to_teacher"] > 0


def test_what_is_kept_belongs_to_its_teacher(taught, tmp_path, capsys):
    """Another teacher at the same place: computed again before training begins, refused after."""
    shutil.copytree(taught / "cnn", tmp_path / "teacher")
    config = small(tmp_path / "teacher", **{"cache.teacher": True})
    with pytest.MonkeyPatch.context() as patched:
        interrupt_at(patched, "train", 3)
        with pytest.raises(Preempted):
            distill.run(config, tmp_path / "student")
    kept = tmp_path / "student" / "teacher" / "train.npy"
    before = np.load(kept)["teacher_logits"]
    shutil.rmtree(tmp_path / "teacher")
    shutil.copytree(taught / "mlp", tmp_path / "teacher")
    with pytest.raises(UserError, match=r"train.npy is of other teacher, and so is the training so far"):
        distill.run(config, tmp_path / "student")
    shutil.rmtree(tmp_path / "student" / "checkpoints")
    capsys.readouterr()
    distill.run(config, tmp_path / "student")
    assert "is of other teacher: computed again" in capsys.readouterr().out.replace("\n", " ")
    assert not np.allclose(before, np.load(kept)["teacher_logits"])


def test_a_live_teacher_that_changed_is_refused(taught, tmp_path):
    """Half a student would be taught by the one, half by the other."""
    shutil.copytree(taught / "cnn", tmp_path / "teacher")
    with pytest.MonkeyPatch.context() as patched:
        interrupt_at(patched, "train", 3)
        with pytest.raises(Preempted):
            distill.run(small(tmp_path / "teacher"), tmp_path / "student")
    shutil.rmtree(tmp_path / "teacher")
    shutil.copytree(taught / "mlp", tmp_path / "teacher")
    with pytest.raises(UserError, match=r"train.npy is of other teacher, and so is the training so far"):
        distill.run(small(tmp_path / "teacher"), tmp_path / "student")


def test_a_chain_resumes_and_its_generations_are_told(taught, tmp_path):
    config = small(taught / "cnn", generations=2, baseline=True)
    config.assistants = ({"name": "mlp", "widths": (12,)},)
    whole = distill.run(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patched:
        interrupt_at(patched, "generation_1", 3)
        with pytest.raises(Preempted):
            distill.run(config, tmp_path / "parts")
    parts = distill.run(config, tmp_path / "parts")
    assert figures(parts) == figures(whole) and curves(tmp_path / "parts") == curves(tmp_path / "whole")
    assert parts["students"] == whole["students"] and parts["ensemble"] == whole["ensemble"]
    assert [row["phase"] for row in whole["students"]] == ["assistant_1", "generation_1", "train"]
    assert [row["parameters"] for row in whole["students"]] == [64 * 12 + 12 + 130, 610, 610]
    roles = ["teacher", "assistant 1", "generation 1", "student", "student without a teacher"]
    assert [row["role"] for row in whole["compression"]] == roles and set(whole["reliability"]) == set(roles)
    assert whole["ensemble"]["members"] == 2
    # The student without a teacher begins where the student does.
    meta = [json.loads((tmp_path / "whole" / "phases" / f"{p}.json").read_text()) for p in ("train", "baseline")]
    assert meta[0]["digest"] != meta[1]["digest"]


def test_features_are_matched_and_the_projector_stays_behind(taught, tmp_path):
    config = small(taught / "other", **{"loss.alpha": 0.0, "loss.beta": 0.5, "loss.features": 1.0})
    result = distill.run(config, tmp_path)  # a teacher of other classes may teach features
    projector = final(tmp_path)["params"]["projector"]
    assert projector["kernel"].shape == (8, 16)
    run = load_run(tmp_path)
    assert set(run.variables["params"]) == {"backbone", "head"}
    assert result["selected"]["parameters"] == 64 * 8 + 8 + 90
    assert [row["role"] for row in result["compression"]] == ["student"]
    test = source.load("digits").test
    assert np.mean(predict(run, test.images).argmax(-1) == test.labels) == result["figures"]["test_accuracy"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["train/loss/features"]) for line in lines)


def test_omitted_classes_get_their_bias_from_validation_images(taught, tmp_path, capsys):
    changes = {"data.labels_per_class": 0, "transfer.classes": (0, 1, 2, 4, 5, 6, 7, 8, 9), "loss.beta": 0.5}
    config = small(taught / "cnn", **changes, **{"train.steps": 150, "train.eval_every": 150})
    result = distill.run(config, tmp_path)
    found, offset = result["figures"], result["bias_correction"]["offset"]
    assert result["bias_correction"]["omitted"] == ["3"] and offset != 0
    assert found["validation_accuracy"] >= found["validation_accuracy_uncorrected"]
    assert f"bias of 3: {offset:+.3g}" in capsys.readouterr().out.replace("\n", " ")
    test = source.load("digits").test
    assert np.mean(predict(load_run(tmp_path), test.images).argmax(-1) == test.labels) == found["test_accuracy"]
    assert np.trace(result["confusion"]) == round(found["test_accuracy"] * len(test))
    bias = restore_variables(tmp_path / "checkpoints" / "train", result["selected"]["step"])["params"]["head"]["bias"]
    np.testing.assert_allclose(
        load_run(tmp_path).variables["params"]["head"]["bias"] - bias, offset * (np.arange(10) == 3), atol=1e-6
    )
    task = json.loads((tmp_path / "task.json").read_text())
    assert task["counts"]["unlabeled"] == 0


def test_a_file_of_logits_teaches_as_its_network_does(taught, tmp_path):
    config = small(taught / "cnn")
    distill.run(config, tmp_path / "network")
    data, run = source.load("digits"), load_run(taught / "cnn")
    apply = jax.jit(lambda v, x: run.make_apply()(v, x, train=False)[0])
    logits = np.asarray(apply(run.variables, data.train.images / np.float32(255)))
    fingerprint = source.fingerprint(data)
    teachers.save_logits(tmp_path / "named.npz", logits, fingerprint=fingerprint)
    np.save(tmp_path / "plain.npy", logits)
    for name in ("named.npz", "plain.npy"):
        config = small("", **{"teacher.logits": str(tmp_path / name)})
        result = distill.run(config, tmp_path / name.replace(".", "_"))
        assert [row["role"] for row in result["compression"]] == ["student"]
        near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        jax.tree.map(near, final(tmp_path / name.replace(".", "_")), final(tmp_path / "network"))

    twice = np.stack([logits, logits], 1)  # an ensemble of two, of which the second does not count
    twice[:, 1] += np.arange(10)
    np.save(tmp_path / "two.npy", twice)
    distill.run(
        small("", **{"teacher.logits": str(tmp_path / "two.npy"), "teacher.weights": (1.0, 0.0)}), tmp_path / "two"
    )
    jax.tree.map(near, final(tmp_path / "two"), final(tmp_path / "network"))

    wrong = {"length": logits[:-1], "order": logits[::-1], "nan": np.where(np.arange(10) == 3, np.nan, logits)}
    messages = {
        "length": r"need floats \[1297, 10\], or for an ensemble of M \[1297, M, 10\]",
        "order": "in a random order",
        "nan": "not finite in row 0",
    }
    for name, array in wrong.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(UserError, match=messages[name]):
            distill.run(small("", **{"teacher.logits": str(tmp_path / f"{name}.npy")}), tmp_path / "refused")
    teachers.save_logits(tmp_path / "others.npz", logits, fingerprint="0" * 16)
    with pytest.raises(UserError, match="made for other data, or for another order"):
        distill.run(small("", **{"teacher.logits": str(tmp_path / "others.npz")}), tmp_path / "refused")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "plain.npy").read_bytes()[:60])
    with pytest.raises(UserError, match=r"cut.npy is no file of logits"):
        distill.run(small("", **{"teacher.logits": str(tmp_path / "cut.npy")}), tmp_path / "refused")
    assert not (tmp_path / "refused" / "checkpoints").exists()


def test_other_data_teaches_without_labels(taught, tmp_path):
    other = {"transfer.data.name": "digits", "loss.beta": 0.0}
    result = distill.run(small(taught / "cnn", **other, **{"cache.teacher": True}), tmp_path / "a")
    said = np.load(tmp_path / "a" / "teacher" / "train.npy")
    assert len(said) == len(source.load("digits").train)
    assert "loss/cross_entropy" not in " ".join(curves(tmp_path / "a")[0]) and np.isfinite(
        result["figures"]["test_loss"]
    )
    with pytest.raises(UserError, match=r"loss.beta is 0.1, but the images of transfer.data have no labels"):
        distill.run(small(taught / "cnn", **{"transfer.data.name": "digits"}), tmp_path / "b")


@pytest.mark.parametrize("images", ["labeled", "unlabeled"])
def test_a_part_of_the_images_teaches(images, taught, tmp_path):
    """What is kept is what the teacher says of those, and labels teach where there are any."""
    distill.run(small(taught / "cnn", **{"transfer.images": images, "cache.teacher": True}), tmp_path)
    parts, train = splits.load(tmp_path / "splits.json"), source.load("digits").train
    places = getattr(parts, images)
    assert len(places) == {"labeled": 50, "unlabeled": len(train) - 150}[images]
    said = np.load(tmp_path / "teacher" / "train.npy")["teacher_logits"][:, 0]
    expected = predict(load_run(taught / "cnn"), train.images[places])
    np.testing.assert_allclose(jax.nn.softmax(said), expected, rtol=1e-4, atol=1e-6)
    for line in curves(tmp_path):
        by_labels = 0.1 * line["train/loss/cross_entropy"] if images == "labeled" else 0.0
        assert line["train/loss"] == pytest.approx(0.9 * line["train/loss/distill"] + by_labels, rel=1e-5)
        assert by_labels or not line.get("train/loss/cross_entropy")


def test_an_ensemble_by_logits_teaches_their_weighted_mean(taught, tmp_path):
    """Live, kept, and from a file of what `ensemble.combine_teachers` makes of what was kept."""
    runs, weights = tuple(str(taught / name) for name in ("cnn", "mlp")), (1.0, 3.0)
    for kept in (False, True):
        options = {"teacher.runs": runs, "teacher.weights": weights, "teacher.combine": "logits"}
        result = distill.run(small("", **options, **{"cache.teacher": kept}), tmp_path / str(kept))
    jax.tree.map(np.testing.assert_array_equal, final(tmp_path / "True"), final(tmp_path / "False"))
    data, parts = source.load("digits"), splits.load(tmp_path / "True" / "splits.json")
    said = np.load(tmp_path / "True" / "teacher" / "train.npy")["teacher_logits"]
    joint = np.zeros((len(data.train), 10), np.float32)
    taught_on = np.concatenate([parts.labeled, parts.unlabeled])
    joint[taught_on] = ensemble.combine_teachers(said, 4.0, weights=weights, by="logits")
    teachers.save_logits(tmp_path / "joint.npz", joint, fingerprint=source.fingerprint(data))
    distill.run(small("", **{"teacher.logits": str(tmp_path / "joint.npz")}), tmp_path / "file")
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(near, final(tmp_path / "file"), final(tmp_path / "True"))
    # The table's teacher is the same ensemble: a mean of logits is one of log probabilities, but for a shift.
    one, two = (np.log(predict(load_run(path), data.test.images)) for path in runs)
    nll = calibration.negative_log_likelihood((one + 3 * two) / 4, data.test.labels)
    assert result["compression"][0]["nll"] == pytest.approx(nll, rel=1e-4)


def test_half_precision_is_half_the_file_and_teaches_the_same(taught, tmp_path):
    for dtype in ("float32", "float16"):
        distill.run(small(taught / "cnn", **{"cache.teacher": True, "cache.dtype": dtype}), tmp_path / dtype)
    whole, half = (np.load(tmp_path / dtype / "teacher" / "train.npy") for dtype in ("float32", "float16"))
    assert half.dtype["teacher_logits"].base == np.float16 and 2 * half.nbytes == whole.nbytes
    np.testing.assert_array_equal(half["teacher_logits"], whole["teacher_logits"].astype(np.float16))
    # Each logit is right to 2^-11 of itself.
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    jax.tree.map(near, final(tmp_path / "float16"), final(tmp_path / "float32"))
    assert curves(tmp_path / "float16") != curves(tmp_path / "float32")


def test_schedules_reach_the_step(taught, tmp_path):
    """At the end of a step-shaped change, alpha is 0 and the loss is beta's term alone."""
    schedules = {"alpha": {"to": 0.0, "shape": "step", "begin": 0.5}, "temperature": {"to": 1.0}}
    distill.run(small(taught / "cnn", **{"loss.schedules": schedules, "data.labels_per_class": 0}), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = lines
    assert last["train/loss"] == pytest.approx(0.1 * last["train/loss/cross_entropy"], rel=1e-5)
    assert first["train/loss"] > 0.5 * first["train/loss/distill"]
    assert (first["train/alpha"], last["train/alpha"]) == (pytest.approx(0.9), 0.0)
    assert first["train/temperature"] > last["train/temperature"] > 1


@pytest.mark.parametrize(("kind", "standardize"), [("dkd", False), ("dkd", True), ("hard", False), ("kl", True)])
def test_other_soft_terms_train(kind, standardize, taught, tmp_path):
    result = distill.run(
        small(taught / "cnn", **{"loss.kind": kind, "loss.standardize": standardize, "loss.label_smoothing": 0.1}),
        tmp_path,
    )
    assert np.isfinite(result["figures"]["test_loss"])


def test_top_k_keeps_the_largest_and_the_mass_of_the_rest():
    logits = np.random.default_rng(0).normal(size=(5, 2, 6)).astype(np.float32) * 3
    shapes = {"teacher_logits": jax.ShapeDtypeStruct((1, 2, 6), np.float32)}
    for k in (1, 3, 5):
        dtype = teachers.record_dtype(shapes, dtype="float32", top_k=k)
        packed = teachers.pack({"teacher_logits": logits}, dtype)
        assert packed.dtype["teacher_index"].shape == (2, k)
        batch = {name: np.asarray(packed[name][:, :1]) for name in dtype.names}
        read = np.asarray(jax.jit(teachers.make_reader(num_classes=6))(batch, 1.0))
        true, found = (np.asarray(jax.nn.softmax(x, -1)) for x in (logits[:, 0], read))
        order = np.argsort(-true, -1)
        kept = np.take_along_axis(true, order[:, :k], -1)
        np.testing.assert_allclose(np.take_along_axis(found, order[:, :k], -1), kept, rtol=1e-5)
        rest = np.take_along_axis(found, order[:, k:], -1)
        np.testing.assert_allclose(rest, np.broadcast_to(rest[:, :1], rest.shape), rtol=1e-5)  # shared alike
        np.testing.assert_allclose(rest.sum(-1), np.take_along_axis(true, order[:, k:], -1).sum(-1), rtol=1e-5)
    for k in (0, 6):  # all classes
        assert teachers.record_dtype(shapes, dtype="float16", top_k=k).names == ("teacher_logits",)


def test_half_precision_holds_logits_up_to_its_largest():
    logits = np.random.default_rng(0).normal(size=(5, 2, 6)).astype(np.float32) * 3
    columns = {"teacher_logits": logits, "teacher_features": 10 * logits[:, 0]}
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in columns.items()}
    dtype = teachers.record_dtype(shapes, dtype="float16", top_k=0)
    packed = teachers.pack(columns, dtype)
    for name, values in columns.items():
        np.testing.assert_array_equal(packed[name], values.astype(np.float16))
    assert packed.nbytes == 2 * sum(x.size for x in columns.values())
    few = teachers.pack(columns, teachers.record_dtype(shapes, dtype="float16", top_k=2))
    assert {few.dtype[name].base for name in ("teacher_logits", "teacher_rest", "teacher_features")} == {np.dtype("f2")}
    np.testing.assert_array_equal(few["teacher_logits"], np.sort(logits, -1)[..., :-3:-1].astype(np.float16))
    logits[3, 1, 2] = -70_000
    with pytest.raises(UserError, match="teacher's logits reach 70000, which cache.dtype=float16 cannot hold: set it"):
        teachers.pack(columns, dtype)


def test_top_k_of_all_but_one_class_trains_as_all_do(taught, tmp_path):
    for k in (0, 9):  # what one class is left with, is known
        config = small(taught / "cnn", **{"cache.teacher": True, "cache.top_k": k})
        distill.run(config, tmp_path / str(k))
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    jax.tree.map(near, final(tmp_path / "0"), final(tmp_path / "9"))


def test_published_weights_teach(tmp_path, capsys):
    """A ResNet-18 of 3 classes in torchvision's names, that sees 32x32 in colour of the digits' 8x8 in grey."""
    cases = json.loads((pathlib.Path(__file__).parent / "data" / "parity" / "resnet.json").read_text())["cases"]
    shapes = next(c["tensors"] for c in cases if c["model"] == "resnet18" and "torchvision" in c["logits"])
    shapes |= {"fc.weight": [3, 512], "fc.bias": [3]}
    safetensors.numpy.save_file(random_weights.fill_all(shapes), tmp_path / "resnet18.safetensors")
    published = {"name": "resnet18", "weights": str(tmp_path / "resnet18.safetensors"), "image_size": 32}
    config = small("", **{f"teacher.published.{name}": value for name, value in published.items()})
    config.data.update(classes=(0, 1, 2), validation=20)
    config.train.update(steps=2, eval_every=2)
    result = distill.run(config, tmp_path / "run")
    said = "; for it, images are 8x8 resized to 32x32, grey repeated to 3 channels"
    assert said in capsys.readouterr().out.replace("\n", " ")
    teacher, student = result["compression"]
    assert teacher["parameters"] == 11_689_512 - 997 * 513 and student["parameters"] == 64 * 8 + 8 + 27
    assert np.isfinite(student["kl_to_teacher"]) and 0 <= student["agreement_1"] <= 1
    config.data.classes = ()
    with pytest.raises(UserError, match=r"resnet18.* tells 3 classes apart, the data have 10: a teacher must have its"):
        distill.run(config, tmp_path / "refused")
    assert not (tmp_path / "refused" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.temperature": 0.0}, "temperature is 0"),
        ({"loss.schedules": {"temperature": {"to": 0.0}}}, "at the end of temperature's change: temperature is 0"),
        ({"loss.schedules": {"alpha": {"to": -1.0}}}, "at the end of alpha's change: alpha is -1"),
        ({"loss.beta": -1.0}, "beta is -1.0: a loss weight must be finite and >= 0"),
        ({"loss.schedules": {"beta": {"to": -1.0}}}, "at the end of beta's change: beta is -1"),
        ({"loss.schedules": {"beta": {"too": 1.0}}}, "unknown key 'too'"),
        ({"loss.schedules": {"gamma": {"to": 1.0}}}, "loss.schedules has 'gamma'"),
        ({"loss.alpha": 0.0, "loss.beta": 0.0}, "are all 0"),
        ({"loss.kind": "klb"}, "loss.kind is 'klb'.*did you mean 'kl'|loss.kind is 'klb'"),
        ({"loss.features": -1.0}, "loss.features is -1"),
        ({"loss.features": 1.0, "features.teacher_level": "stage9"}, "features.teacher_level is 'stage9'"),
        ({"loss.features": 1.0, "features.level": "layer9"}, "no level 'layer9'"),
        ({"cache.teacher": True, "cache.top_k": 11, "baseline": True}, "cache.top_k is 11: with 10 classes"),
        ({"cache.teacher": True, "cache.dtype": "int8", "baseline": True}, "cache.dtype is 'int8'"),
        ({"cache.teacher": True, "augment": NOISE}, "set cache.views"),
        ({"cache.views": 2}, "cache.views is 2, but nothing is augmented"),
        ({"cache.views": -1}, "cache.views is -1"),
        ({"cache.top_k": 3}, "cache.top_k is 3, but cache.teacher is off"),
        ({"loss.kind": "hard", "loss.standardize": True}, "loss.standardize is on, but"),
        ({"teacher.run": "", "teacher.logits": "x.npy", "augment": NOISE}, "set teacher.sees to clean"),
        ({"teacher.sees": "nothing"}, "teacher.sees is 'nothing'"),
        ({"teacher.sees": "clean", "transfer.mixup": 1.0}, "it must see the mixture"),
        ({"teacher.weights": (1.0, 2.0)}, "weights"),
        ({"teacher.combine": "votes"}, "votes"),
        (
            {"teacher.logits": "x.npy"},
            r"teacher.run and teacher.logits are set: keep one, and clear the other, as --config.teacher.run= does",
        ),
        ({"transfer.images": "none"}, "transfer.images is 'none'"),
        ({"transfer.classes": (0, 1)}, "have no label to choose by"),
        ({"transfer.images": "labeled", "transfer.classes": (11,)}, "transfer.classes has 11"),
        ({"data.labels_per_class": 0, "transfer.images": "unlabeled"}, "there are none"),
        ({"generations": 0}, "generations is 0"),
        ({"assistants": ("mlp",)}, "assistants has 'mlp': each is the options of a model"),
    ],
)
def test_bad_input_before_any_training(changes, message, taught, tmp_path):
    with pytest.raises(UserError, match=message):
        distill.run(small(taught / "cnn", **changes), tmp_path / "student")
    assert not (tmp_path / "student" / "checkpoints").exists()


def test_teachers_that_do_not_fit(taught, tmp_path):
    with pytest.raises(UserError, match="no teacher is named: set one of teacher.run"):
        distill.run(small(""), tmp_path / "a")
    with pytest.raises(UserError, match="a teacher must have its student's classes"):
        distill.run(small(taught / "other"), tmp_path / "b")
    shutil.copytree(taught / "cnn", tmp_path / "unfinished")
    (tmp_path / "unfinished" / "result.json").unlink()
    with pytest.raises(UserError, match="is unfinished"):
        distill.run(small(tmp_path / "unfinished"), tmp_path / "c")
    with pytest.raises(UserError, match="teacher.published.name is ''"):
        distill.run(small("", **{"teacher.published.weights": "none.pth"}), tmp_path / "d")
    published = {"teacher.published.name": "resnet18", "teacher.published.weights": str(tmp_path / "none.pth")}
    with pytest.raises(UserError, match=r"none.pth"):
        distill.run(small("", **published), tmp_path / "d")
    (cnn,) = teachers.load(run=str(taught / "cnn"), runs=(), published={"weights": ""})
    with pytest.raises(UserError, match="the teacher .*cnn takes 1 channels and the images have 3: convert them"):
        cnn.check(image_shape=(8, 8, 3), class_names=cnn.class_names, logits=True)
