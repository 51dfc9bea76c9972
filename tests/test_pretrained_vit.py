"""Reading published ViTs and ResNets: both namings, other sizes, and files of other models refused."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from experiments.parity import random_weights
from tlx import models
from tlx.errors import UserError
from tlx.pretrained import graft, resnet, vit

PARITY = pathlib.Path(__file__).parent / "data" / "parity"
VIT, RESNET = (json.loads((PARITY / f"{family}.json").read_text()) for family in ("vit", "resnet"))


def zeros(golden, name, *, source="timm"):
    """A file with the names and shapes of a published model."""
    case = next(c for c in golden["cases"] if c["model"] == name and source in c["logits"])
    return {name: np.zeros(shape, np.float32) for name, shape in case["tensors"].items()}


def target(name, image_shape=(64, 48, 3), **options):
    model = models.build(name, num_classes=16, **options)
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)


def test_qkv_is_split_in_this_order():
    split = vit.split_qkv({"blocks.0.attn.qkv.bias": np.arange(6), "blocks.0.attn.proj.bias": np.arange(2)})
    assert {name.removeprefix("blocks.0.attn."): list(tensor) for name, tensor in split.items()} == {
        "query.bias": [0, 1],
        "key.bias": [2, 3],
        "value.bias": [4, 5],
        "proj.bias": [0, 1],
    }
    with pytest.raises(UserError, match=r"'blocks.0.attn.qkv.bias' is of shape \[4\]: not three of a kind"):
        vit.split_qkv({"blocks.0.attn.qkv.bias": np.arange(4)})


def test_a_hugging_face_backbone_without_head_and_prefix_is_read_and_its_pooler_is_not():
    tensors = zeros(VIT, "vit_ti16", source="huggingface")
    whole = vit.from_tensors(tensors)
    bare = {name.removeprefix("vit."): tensor for name, tensor in tensors.items() if "classifier" not in name}
    bare |= {"pooler.dense.weight": np.zeros((192, 192)), "embeddings.mask_token": np.zeros((1, 1, 192))}
    backbone = vit.from_tensors(bare)
    assert set(backbone["params"]) == {"backbone"} and set(whole["params"]) == {"backbone", "head"}
    paths = lambda variables: set(traverse_util.flatten_dict(variables["params"]["backbone"]))
    assert paths(backbone) == paths(whole)
    assert graft(target("vit_ti16"), backbone, all_used=True).reset == ("head/bias", "head/kernel")


@pytest.mark.parametrize(("old", "new"), [((4, 4), (6, 5)), ((7, 7), (3, 4))])
def test_positions_are_resized_as_timm_does(old, new):
    golden = next(p for p in VIT["positions"] if p["old"] == list(old) and p["new"] == list(new))
    positions = random_weights.fill("pos_embed", (1, 1 + old[0] * old[1], 2))
    resized = vit.resize_positions(positions, old, new)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, golden["positions"], atol=2e-6)
    np.testing.assert_array_equal(vit.resize_positions(positions, old, old), positions)
    with pytest.raises(UserError, match=r"positions of shape \[1, \d+, 2\] are not of a class token and 5x5 patches"):
        vit.resize_positions(positions, (5, 5), new)


def test_weights_are_read_for_images_of_another_size():
    tensors = zeros(VIT, "vit_ti16")  # of 4x3 patches
    tensors["pos_embed"] = random_weights.fill("pos_embed", (1, 1 + 14 * 14, 192))
    read = lambda tensors, *size: vit.from_tensors(tensors, image_shape=(*size, 3))
    assert graft(target("vit_ti16", (96, 64, 3)), read(tensors, 96, 64), reset=(), all_used=True).reset == ()
    positions = read(tensors, 96, 64)["params"]["backbone"]["embed"]["positions"]
    np.testing.assert_array_equal(positions, vit.resize_positions(tensors["pos_embed"], (14, 14), (6, 4)))
    square = read(tensors, 112, 448)["params"]["backbone"]["embed"]["positions"]  # as many patches, in other places
    assert not np.allclose(square, tensors["pos_embed"])

    oblong = zeros(VIT, "vit_ti16")
    assert read(oblong, 64, 48)["params"]["backbone"]["embed"]["positions"].shape == (1, 13, 192)
    with pytest.raises(UserError, match=r"positions are of shape \[1, 13, 192\].* cannot be resized to 4x4 patches"):
        read(oblong, 64, 64)


@pytest.mark.parametrize(
    ("file", "name", "options", "message"),
    [
        ("vit_ti16", "vit_s16", {}, r"'backbone/block1/attention/key/bias' is of shape \[192\] in .* and \[384\] in"),
        (
            "vit_ti16",
            "vit_ti16",
            {"patch": 8},
            r"embed/patch/kernel' is of shape \[16, 16, 3, 192\] .*\[8, 8, 3, 192\]",
        ),
        ("vit_ti16", "vit_ti16", {"blocks": 11}, r"has params 'backbone/block12/attention/out/bias', of shape \[192\]"),
        ("vit_ti16", "vit_ti16", {"blocks": 13}, r"has no params 'backbone/block13/.*/key/bias', of shape \[192\] in"),
        ("resnet34", "resnet18", {}, r"has params 'backbone/stage1/block3/norm1/bias', of shape \[64\], and this one"),
        (
            "resnet18",
            "resnet34",
            {},
            r"has no params '.*/stage1/block3/conv1/kernel', of shape \[3, 3, 64, 64\] in this",
        ),
        ("resnet50", "resnet34", {}, r"stage1/block1/conv1/kernel' is of shape \[1, 1, 64, 64\] .*\[3, 3, 64, 64\]"),
        (
            "resnet18",
            "resnet18",
            {"width": 0.5},
            r"block1/conv1/kernel' is of shape \[3, 3, 64, 64\] .*\[3, 3, 32, 32\]",
        ),
    ],
)
def test_a_file_of_another_network_is_refused_with_the_first_difference(file, name, options, message):
    golden, family = (VIT, vit) if file.startswith("vit") else (RESNET, resnet)
    with pytest.raises(UserError, match=message):
        graft(target(name, **options), family.from_tensors(zeros(golden, file)), all_used=True)


def test_a_file_of_another_family_is_refused():
    with pytest.raises(UserError, match=r"tensor 'bn1.bias' has no place in this network"):
        vit.from_tensors(zeros(RESNET, "resnet18"))
    with pytest.raises(UserError, match=r"tensor 'blocks.0.attn.proj.bias' has no place in this network"):
        resnet.from_tensors(zeros(VIT, "vit_ti16"))
    distilled = zeros(VIT, "vit_ti16") | {"dist_token": np.zeros((1, 1, 192))}
    with pytest.raises(UserError, match=r"tensor 'dist_token' has no place in this network"):
        vit.from_tensors(distilled)
