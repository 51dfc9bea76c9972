"""An exported network predicts what the run does, from one file, for any number of images; bad files are refused."""

import hashlib
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from flax import traverse_util

from tlx import compression, export, models
from tlx.checkpoint import Checkpoints
from tlx.errors import UserError
from tlx.pretrained import TrainedRun, load_run, weights
from tlx.pretrained.run import network_only
from tlx.state import TrainState
from tlx.workdir import read_json, write_json

FORMATS = pytest.mark.parametrize("format", export.FORMATS)


def made(name, shape, taken, dtype="float32", **options):
    """A run that never was: random weights and statistics, and a projector that training left behind."""
    model = models.build(name, num_classes=3, dtype=dtype, **options)
    rng = np.random.default_rng(0)
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, *taken)), train=False)
    shapes = jax.eval_shape(init)  # compiling the initialisation would take longer than all the rest
    statistics = shapes.get("batch_stats", {})
    variables = {
        "params": jax.tree.map(lambda x: rng.normal(0, x.size**-0.25, x.shape).astype(np.float32), shapes["params"]),
        "batch_stats": jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), statistics),
    }
    variables["params"]["projector"] = {"kernel": np.ones((2, 2), np.float32)}
    takes = {"shape": taken, "mean": (0.5,) * taken[2], "std": (0.25,) * taken[2]}
    selected = {"model": {"name": name, **options}, "takes": takes, "dtype": dtype, "digest": "abc"}
    result = {"selected": selected}
    return TrainedRun("made", model, variables, ("a", "b", "c"), shape, models.Input(**takes), result)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run's folder, without its training."""
    folder = tmp_path_factory.mktemp("export") / "run"
    run = made("mlp", (8, 8, 1), (8, 8, 1), widths=(16,))
    state = TrainState.create(variables=run.variables, tx=optax.identity())
    checkpoints = Checkpoints(folder / "checkpoints" / "train")
    checkpoints.save(4, state, {}, {"validation/accuracy": 1.0, "validation/loss": 0.0})
    checkpoints.close()
    selected = run.result["selected"] | {"phase": "train", "step": 4}
    write_json(folder / "config.json", {})
    write_json(folder / "task.json", {"class_names": run.class_names, "image_shape": run.image_shape}, seal=True)
    write_json(folder / "result.json", {"selected": selected}, seal=True)
    return load_run(folder)


def images_for(run, count):
    return np.random.default_rng(1).random((count, *run.image_shape), np.float32)


def predicted(run, images):
    return np.asarray(jax.jit(lambda v, x: run.make_apply()(v, x, train=False)[0])(run.variables, images))


def check_same(run, path, counts=(1, 7)):
    exported = export.load(path)
    for count in counts:
        images = images_for(run, count)
        logits = exported.predict(images)
        assert logits.dtype == np.float32
        expected = predicted(run, images)
        assert expected.std() > 0.1
        np.testing.assert_array_equal(logits, expected)
    return exported


@FORMATS
def test_the_command_exports_what_the_run_predicts(run, format, tmp_path, capsys):
    out = tmp_path / "there" / "net"
    assert export.main([str(run.path), f"--format={format}", f"--out={out}"]) == 0
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    exported = check_same(run, out)
    assert exported.class_names == run.class_names and exported.image_shape == (8, 8, 1)
    assert exported.digest == run.result["selected"]["digest"]
    images = np.round(255 * images_for(run, 3)).astype(np.uint8)
    np.testing.assert_allclose(exported.predict(images), predicted(run, images / np.float32(255)), rtol=1e-5)
    assert export.main([str(run.path), f"--format={format}", f"--out={out}"]) == 2
    assert f"{out} exists: delete it" in capsys.readouterr().err


@FORMATS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resizing_and_statistics_are_inside(format, dtype, tmp_path):
    run = made("resnet8", (6, 6, 1), (8, 8, 3), dtype, width=0.25)
    check_same(run, export.save(run, tmp_path / "net", format=format), counts=(2,))


def test_safetensors_take_the_bytes_that_the_compression_table_says(run, tmp_path):
    """All but the header: 8 bytes of its length, what each tensor is, and what `tlx.export` says of the network."""
    with_statistics = made("resnet8", (8, 8, 3), (8, 8, 3), width=0.25)
    export.save(with_statistics, tmp_path / "resnet8", format="safetensors")
    assert export.main([str(run.path), "--format=safetensors", f"--out={tmp_path / 'mlp'}"]) == 0
    for name, network in (("mlp", run), ("resnet8", with_statistics)):
        content = (tmp_path / name).read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        apply, variables = compression.ensemble([(network.make_apply(), network.variables)])
        size = compression.size(apply, variables, network.image_shape)
        assert len(content) - header == round(1e6 * size["megabytes"])
        # Measured: a name, type, shape and place take 87 to 102 bytes a tensor on average, and the network 358 to 383.
        assert header < 500 + 120 * len(jax.tree.leaves(variables))


def test_efficientnet_lite(tmp_path):
    """Its depthwise convolution has a program for CPU and another for the rest: all are in the file."""
    run = made("efficientnet_lite0", (16, 16, 3), (16, 16, 3), width=0.1)
    path = export.save(run, tmp_path / "net.stablehlo", format="stablehlo")
    check_same(run, path, counts=(2,))
    with open(path, "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    groups = "feature_group_count = 8"  # the narrowest block's channels
    assert groups in program.mlir_module() and "stablehlo.while" in program.mlir_module()


def test_jax_alone_runs_the_program(run, tmp_path):
    path = export.save(run, tmp_path / "net.stablehlo", format="stablehlo")
    np.save(tmp_path / "images.npy", images_for(run, 2))
    script = (
        "import sys, jax.export, numpy as np\n"
        "program = jax.export.deserialize(bytearray(open(sys.argv[1], 'rb').read()))\n"
        "np.save(sys.argv[3], program.call(np.load(sys.argv[2])))\n"
        "assert 'tlx' not in sys.modules and 'flax' not in sys.modules\n"
    )
    arguments = [path, tmp_path / "images.npy", tmp_path / "logits.npy"]
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), predicted(run, images_for(run, 2)))
    about = json.loads((tmp_path / "net.json").read_text())
    assert about["class_names"] == list(run.class_names) and about["image_shape"] == [8, 8, 1]
    assert about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors_hold_the_weights_by_their_paths(tmp_path):
    run = made("resnet8", (8, 8, 1), (8, 8, 1), width=0.25)
    tensors = weights.read(export.save(run, tmp_path / "net", format="safetensors"))
    expected = traverse_util.flatten_dict(network_only(run.variables), sep="/")
    assert tensors.keys() == expected.keys() and not any("projector" in name for name in tensors)
    assert {"params/head/bias", "batch_stats/backbone/stem/norm/mean"} <= tensors.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(tensors[name], value)


@FORMATS
@pytest.mark.parametrize("size", [0, 5, 0.5, -1])
def test_a_file_that_was_cut_off(run, format, size, tmp_path):
    path = export.save(run, tmp_path / "net", format=format)
    content = path.read_bytes()
    path.write_bytes(content[: int(size * len(content)) if 0 < size < 1 else size])
    with pytest.raises(UserError, match=str(path)):
        export.load(path)


def test_files_of_somebody_else(run, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        export.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a folder: name the exported file"):
        export.load(tmp_path)
    safetensors.numpy.save_file({"a": np.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="was not written by tlx.export"):
        export.load(tmp_path / "other.safetensors")
    path = export.save(run, tmp_path / "net.stablehlo", format="stablehlo")
    about = json.loads((tmp_path / "net.json").read_text())
    (tmp_path / "net.json").write_text(json.dumps(about | {"platforms": ["tpu"]}))
    with pytest.raises(UserError, match="is for tpu, not for cpu"):
        export.load(path)
    (tmp_path / "net.json").unlink()
    with pytest.raises(UserError, match="is no exported network, or net.json, which was beside it, is missing"):
        export.load(path)


def changed(record, change):
    """With the innermost values of `change`."""
    if not isinstance(change, dict) or not isinstance(record, dict):
        return change
    return record | {key: changed(record.get(key), value) for key, value in change.items()}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("result.json", {"selected": None}, "'NoneType' object is not subscriptable"),
        ("result.json", {"selected": {"model": {"name": "mlp", "widths": [9]}}}, "ScopeParamShapeError"),
        ("result.json", {"selected": {"model": {"name": "mlp", "widths": 9}}}, "widths=9: give a non-empty tuple"),
        ("result.json", {"selected": {"takes": {"shape": [8, "x", 1]}}}, r"images are \[8, 'x', 1\]: give \[H, W, C\]"),
        ("task.json", {"image_shape": [8, -8, 1]}, r"image_shape is \[8, -8, 1\], not \[H, W, C\]"),
        ("task.json", {"class_names": {"a": 1}}, "class_names is {'a': 1}, no list of names"),
        ("task.json", {"class_names": ["a", "b"]}, "ScopeParamShapeError"),
    ],
)
def test_a_run_whose_records_are_damaged(run, tmp_path, name, change, message):
    folder = shutil.copytree(run.path, tmp_path / "run")
    record = read_json(folder / name, seal=True)
    write_json(folder / name, changed(record, change), seal=True)  # by somebody who seals it, too
    with pytest.raises(UserError, match=f"{folder}.*{message}"):
        load_run(folder)


def test_an_export_that_says_something_else_of_itself(run, tmp_path):
    path = export.save(run, tmp_path / "net.stablehlo", format="stablehlo")
    about = json.loads((tmp_path / "net.json").read_text())
    for change, message in (
        ({"class_names": None}, "class_names is None, no list of names"),
        ({"class_names": ["a"]}, "1 names of classes for logits"),
        ({"image_shape": [8, 9, 1]}, "cannot be read"),
        ({"image_shape": [8, 8, 0.5]}, "image_shape is"),
    ):
        (tmp_path / "net.json").write_text(json.dumps(about | change))
        with pytest.raises(UserError, match=f"{path}.*{message}.*: export the run again"):
            export.load(path)


def test_wrong_images(run, tmp_path):
    exported = export.load(export.save(run, tmp_path / "net", format="safetensors"))
    for images, message in (
        (np.zeros((2, 9, 8, 1), np.uint8), r"takes images \[8, 8, 1\], these are \[9, 8, 1\]"),
        (np.zeros((8, 8, 1), np.uint8), "must be"),
        (np.full((1, 8, 8, 1), 2.0), "finite values in"),
    ):
        with pytest.raises(UserError, match=message):
            exported.predict(images)


def test_mistakes_of_the_command(run, tmp_path, capsys):
    unfinished = shutil.copytree(run.path, tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    (tmp_path / "file").write_text("")
    cases = [
        ([str(unfinished)], "is unfinished"),
        ([str(tmp_path)], "is not the folder of a tlx run"),
        ([str(run.path), "--format=safetensor"], "did you mean 'safetensors'?"),
        ([str(run.path), f"--out={tmp_path / 'file' / 'net'}"], "--out"),
    ]
    for arguments, message in cases:
        assert export.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_the_default_file_lies_in_the_run_and_goes_with_it(run, tmp_path):
    folder = shutil.copytree(run.path, tmp_path / "run")
    assert export.main([str(folder), "--format=safetensors"]) == 0
    check_same(run, folder / "export" / "model.safetensors", counts=(1,))
