"""Preprocessing: the references' pixels, grey images, and images that are none."""

import json
import pathlib

import numpy as np
import pytest

from experiments.parity import random_weights
from tlx.errors import UserError
from tlx.pretrained import resnet, vit
from tlx.pretrained.preprocessing import Preprocessing, preprocess

GOLDEN = json.loads((pathlib.Path(__file__).parent / "data" / "parity" / "preprocessing.json").read_text())["cases"]
FAMILIES = {"vit": vit, "resnet": resnet}
SPEC = Preprocessing(8, 10, "bilinear", (0.5, 0.25, 0.0), (0.5, 1.0, 2.0))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['family']}-{case['origin']}")
def test_pixels_are_the_references(case):
    found = preprocess(random_weights.photograph(), FAMILIES[case["family"]].PREPROCESSING[case["origin"]])
    assert found.shape == (224, 224, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found[::45, ::45], case["pixels"], atol=2e-6)


def test_every_published_preprocessing_has_its_golden_pixels():
    published = {(name, origin) for name, family in FAMILIES.items() for origin in family.PREPROCESSING}
    assert published == {(case["family"], case["origin"]) for case in GOLDEN}


def test_grey_images_are_repeated_to_three_channels():
    grey = random_weights.photograph()[:, :, 0]
    found = preprocess(grey, SPEC)
    np.testing.assert_array_equal(found, preprocess(grey[:, :, None], SPEC))
    np.testing.assert_array_equal(found, preprocess(np.stack([grey] * 3, axis=-1), SPEC))


def test_crop_and_normalisation_by_hand():
    image = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)  # the shorter side is as wanted: only a crop
    expected = (image[2:10, 1:9] / 255 - [0.5, 0.25, 0.0]) / [0.5, 1.0, 2.0]
    np.testing.assert_allclose(preprocess(image, SPEC), expected, atol=1e-6)


def test_bad_images_and_specifications_are_named():
    for image in (np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8), np.uint8(3)):
        with pytest.raises(UserError, match=r"an image is (uint8|float64) \[.*\]: give uint8 \[H, W, 3\]"):
            preprocess(image, SPEC)
    with pytest.raises(UserError, match="resize=4: give a whole number >= 8"):
        Preprocessing(8, 4, "bilinear", (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(UserError, match=r"interpolation='bicbic'.*did you mean 'bicubic'"):
        Preprocessing(8, 8, "bicbic", (0.0,) * 3, (1.0,) * 3)
