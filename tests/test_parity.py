"""Published ViTs and ResNets: the references' logits on weights made from their tensors' names, no tensor left over.

The golden values are of `experiments/parity/vit_resnet.py`.
"""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from experiments.parity import random_weights
from tlx import models
from tlx.pretrained import graft, resnet, vit

GOLDEN = {
    family: json.loads((pathlib.Path(__file__).parent / "data" / "parity" / f"{family}.json").read_text())
    for family in ("vit", "resnet")
}
FAMILIES = {"vit": vit, "resnet": resnet}
CASES = [(family, i) for family, golden in GOLDEN.items() for i in range(len(golden["cases"]))]
NAMES = ["-".join([case["model"], *case["logits"]]) for golden in GOLDEN.values() for case in golden["cases"]]


@functools.cache
def network(name, image_shape):
    """The shapes of a classifier's variables, and its compiled forward pass."""
    model = models.build(name, num_classes=16)
    x = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    target = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    return target, jax.jit(functools.partial(model.apply, train=False))


def load(family, case):
    """The variables of a case, every tensor used and every parameter filled, and the forward pass on its images."""
    target, apply = network(case["model"], tuple(case["image_shape"]))
    variables = FAMILIES[family].from_tensors(random_weights.fill_all(case["tensors"]))
    variables = graft(target, variables, reset=(), all_used=True).variables
    images = random_weights.images(case["image_shape"])
    return jax.device_put(variables), lambda variables: apply(variables, images)


def difference(found, expected):
    """The largest, relative to the logits' scale."""
    return np.max(np.abs(found - np.asarray(expected))) / np.max(np.abs(expected))


@pytest.mark.parametrize(("family", "i"), CASES, ids=NAMES)
def test_logits_are_the_references(family, i):
    case = GOLDEN[family]["cases"][i]
    variables, forward = load(family, case)
    found = forward(variables)
    for source, expected in case["logits"].items():
        assert difference(found, expected) < 1e-5, source  # measured: 1.5e-6 at most


@pytest.mark.parametrize(
    ("family", "names"),
    [("vit", ".*"), ("resnet", r"(conv1|bn1|layer2\.0|fc)\..*(?<!num_batches_tracked)")],  # all of it takes 30 s
    ids=["vit_ti16", "resnet18"],
)
def test_logits_depend_on_every_tensor(family, names):
    """So parity means that each is in its place."""
    case = GOLDEN[family]["cases"][0]
    variables, forward = load(family, case)
    (expected, *_) = case["logits"].values()
    flat = traverse_util.flatten_dict(variables)
    for name, shape in case["tensors"].items():
        if re.fullmatch(names, name):
            other = FAMILIES[family].from_tensors({name: random_weights.fill(f"other.{name}", shape)})
            changed = forward(traverse_util.unflatten_dict(flat | traverse_util.flatten_dict(other)))
            assert difference(changed, expected) > 1e-3, name
