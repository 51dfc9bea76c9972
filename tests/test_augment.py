import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tlx.data import augment as lib
from tlx.data.augment import RAND_OPS, make_augment, to_float
from tlx.errors import UserError

KEY = jax.random.key(0)
IMAGES = jax.random.uniform(jax.random.key(1), (64, 6, 7, 1))
SLOTS = jnp.arange(64)
EVERYTHING = {
    "shift": 1,
    "crop": 1,
    "flip": True,
    "rotate": 20.0,
    "scale": 0.2,
    "shear": 0.1,
    "translate": 0.5,
    "cutout": 2,
}
EVERYTHING |= {"noise": 0.1, "brightness": 0.2, "contrast": 0.2, "rand_augment": 2, "magnitude": 0.7}


def run(images=IMAGES, slots=None, key=KEY, **options):
    slots = jnp.arange(len(images)) if slots is None else slots
    return np.asarray(jax.jit(make_augment(**options))(key, images, slots))


@pytest.fixture(scope="module")
def everything():
    """All knobs at once, compiled once for a batch of 64, and what it makes of IMAGES."""
    function = jax.jit(make_augment(**EVERYTHING))
    return function, np.asarray(function(KEY, IMAGES, SLOTS))


def test_off_is_the_identity_without_an_operation():
    assert set(EVERYTHING) == set(inspect.signature(make_augment).parameters) - {"unknown", "dihedral"}  # not square
    for options in ({}, dict.fromkeys(EVERYTHING, 0), {"magnitude": 0.5}):
        assert not jax.make_jaxpr(make_augment(**options))(KEY, IMAGES, SLOTS).eqns


def test_everything_at_once(everything):
    _, result = everything
    assert result.shape == IMAGES.shape and result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 1 and (result != IMAGES).any((1, 2, 3)).all()


def test_the_same_key_and_slot_give_the_same_image(everything):
    function, result = everything
    np.testing.assert_array_equal(function(KEY, IMAGES, SLOTS), result)
    assert (np.asarray(function(jax.random.key(9), IMAGES, SLOTS)) != result).any((1, 2, 3)).all()


def test_the_result_does_not_depend_on_the_batch_that_an_example_lies_in(everything):
    function, result = everything
    halves = [run(IMAGES[part], SLOTS[part], **EVERYTHING) for part in (slice(32), slice(32, 64))]
    np.testing.assert_allclose(np.concatenate(halves), result, atol=1e-6)
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_allclose(function(KEY, IMAGES[order], SLOTS[order]), result[order], atol=1e-6)


@pytest.mark.four_devices
def test_the_result_does_not_depend_on_the_devices(everything):
    function, result = everything
    sharding = NamedSharding(Mesh(jax.devices(), ("data",)), P("data"))
    sharded = function(KEY, jax.device_put(IMAGES, sharding), jax.device_put(SLOTS, sharding))
    assert len(sharding.device_set) == 4 and sharded.sharding.is_equivalent_to(sharding, 4)
    np.testing.assert_allclose(sharded, result, atol=1e-6)


def test_switching_a_knob_on_leaves_the_others_draws():
    alone, both = run(shift=2), run(shift=2, flip=True)
    mirrored = run(IMAGES[:, :, ::-1], shift=2)
    same = np.isclose(both, alone).all((1, 2, 3))
    assert 16 < same.sum() < 48
    np.testing.assert_array_equal(both[~same], mirrored[~same])


def test_shift_moves_by_whole_pixels_and_fills_with_zeros():
    result = run(shift=2)
    padded = np.pad(np.asarray(IMAGES), ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for image, moved in zip(padded, result):
        places = [(r, c) for r in range(5) for c in range(5) if (image[r : r + 6, c : c + 7] == moved).all()]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 15  # of 25


def test_shift_in_the_warp_is_the_shift_as_a_slice():
    # A scale this small makes a warp necessary, and moves nothing by a visible amount.
    np.testing.assert_allclose(run(shift=2, scale=1e-7), run(shift=2), atol=1e-5)


def test_translate_moves_by_fractions_of_a_pixel():
    row, column = np.meshgrid(np.arange(9), np.arange(9), indexing="ij")
    slopes = jnp.asarray(np.stack([0.1 * row, 0.1 * column], -1), jnp.float32)  # how far it moved can be read off
    moved = run(jnp.stack([slopes] * 64), translate=1.5)
    moves = np.asarray(moved - slopes)[:, 2:7, 2:7] / 0.1  # [64, 5, 5, 2], away from the edges
    np.testing.assert_allclose(moves, moves[:, :1, :1] * np.ones((5, 5, 1)), atol=1e-4)
    assert 1.3 < np.abs(moves).max() <= 1.5001 and np.abs(moves - np.round(moves)).mean() > 0.2


def test_crop_is_a_window_of_the_reflected_image():
    result = run(crop=2)
    padded = np.pad(np.asarray(IMAGES), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    for image, cropped in zip(padded, result):
        assert any((image[r : r + 6, c : c + 7] == cropped).all() for r in range(5) for c in range(5))


def test_flip_mirrors_half():
    result, images = run(flip=True), np.asarray(IMAGES)
    mirrored = (result == images[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(result[~mirrored], images[~mirrored])
    assert 16 < mirrored.sum() < 48


def test_dihedral_shows_each_symmetry_of_the_square_as_often():
    square = np.arange(1, 17, dtype=np.float32).reshape(4, 4, 1) / 16
    symmetries = np.stack([np.rot90(side, turns) for side in (square, square[::-1]) for turns in range(4)])
    result = run(jnp.tile(square, (400, 1, 1, 1)), dihedral=True)
    which = (result[:, None] == symmetries).all((2, 3, 4))  # [400, 8]
    assert (which.sum(1) == 1).all() and (30 < which.sum(0)).all() and (which.sum(0) < 75).all()


SQUARE = np.arange(1, 17, dtype=np.float32).reshape(4, 4, 1) / 16


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        ({}, SQUARE),
        ({"angle": np.pi / 2}, np.rot90(SQUARE, -1)),
        ({"angle": np.pi}, SQUARE[::-1, ::-1]),
        ({"translate": (1, 0)}, np.pad(SQUARE, ((0, 1), (0, 0), (0, 0)))[1:]),
        ({"translate": (0, 0.5)}, (SQUARE + np.pad(SQUARE, ((0, 0), (0, 1), (0, 0)))[:, 1:]) / 2),
        # By a quarter of a pixel for each pixel from the centre: of row 0, the second pixel's place is (-.25, 1).
        ({"zoom": 2.0}, None),
    ],
)
def test_warp(affine, expected):
    result = np.asarray(lib._warp(jnp.asarray(SQUARE), lib._affine(**affine)))
    if expected is None:  # twice as large: row and column i show the places 0.75, 1.25, 1.75, 2.25
        plane = lambda row, column: (1 + 4 * row + column) / 16
        places = np.array([0.75, 1.25, 1.75, 2.25])
        expected = plane(places[:, None], places)[..., None]
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_shear_moves_rows_against_each_other():
    image = np.zeros((3, 5, 1), np.float32)
    image[:, 2] = 1  # a vertical line
    result = np.asarray(lib._warp(jnp.asarray(image), lib._affine(shears=(0.0, 1.0))))[..., 0]
    np.testing.assert_allclose(result, np.eye(3, 5)[::-1][:, [4, 0, 1, 2, 3]], atol=1e-6)


def test_transforms_compose_in_order():
    """First a quarter turn, then a shift: what two warps do one after the other."""
    turn, move = lib._affine(angle=np.pi / 2), lib._affine(translate=(1.0, 0.0))
    image = jnp.asarray(SQUARE)
    np.testing.assert_allclose(
        lib._warp(image, lib._compose(turn, move)), lib._warp(lib._warp(image, turn), move), atol=1e-5
    )


def test_cutout_is_one_square_that_may_leave_the_image():
    result = run(jnp.ones((256, 8, 9, 1)), cutout=3)[..., 0]
    rows, columns = (result == 0).any(2), (result == 0).any(1)
    np.testing.assert_array_equal(result == 0, rows[:, :, None] & columns[:, None, :])
    assert set(rows.sum(1)) == {2, 3} or set(rows.sum(1)) == {1, 2, 3}
    assert ((rows.sum(1) == 3) & (columns.sum(1) == 3)).mean() > 0.4
    assert rows.any(0).all() and columns.any(0).all()  # everywhere


def test_noise_has_its_standard_deviation():
    noise = run(jnp.full((64, 8, 8, 1), 0.5), noise=0.05) - 0.5
    assert abs(noise.std() - 0.05) < 0.002 and abs(noise.mean()) < 0.002


def test_brightness_adds_one_value_to_each_image():
    added = run(jnp.full((64, 2, 2, 1), 0.5), brightness=0.3) - 0.5
    assert np.ptp(added, axis=(1, 2, 3)).max() < 1e-6
    assert added.min() < -0.2 and added.max() > 0.2 and abs(added).max() <= 0.3


def test_contrast_keeps_the_mean():
    images = 0.4 + 0.2 * IMAGES
    result = run(images, contrast=0.5)
    np.testing.assert_allclose(result.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-5)
    factor = result.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.5 <= factor.min() < 0.7 and 1.3 < factor.max() <= 1.5


color_op = jax.jit(lib._color_op, static_argnames="magnitude")
RGB = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize("factor", [0.4, 1.6])
@pytest.mark.parametrize(
    "name", ["brightness", "contrast", "color", "sharpness", "solarize", "posterize", "autocontrast"]
)
def test_color_ops_are_pillow_s(name, factor):
    from PIL import Image, ImageEnhance, ImageOps

    image = Image.fromarray(RGB)
    expected = {
        "solarize": lambda: ImageOps.solarize(image, 128),
        "posterize": lambda: ImageOps.posterize(image, 6),
        "autocontrast": lambda: ImageOps.autocontrast(image),
    }.get(name, lambda: getattr(ImageEnhance, name.capitalize())(image).enhance(factor))()
    result = color_op(lib.COLOR_OPS.index(name), to_float(jnp.asarray(RGB)), factor, magnitude=0.5)
    assert np.abs(np.asarray(result) * 255 - np.asarray(expected, np.float32)).max() <= 1.5  # Pillow rounds


def test_color_ops_of_a_grey_or_flat_image():
    flat = jnp.full((3, 3, 1), 0.5)
    for name in ("identity", "autocontrast", "contrast", "color", "sharpness"):
        np.testing.assert_allclose(color_op(lib.COLOR_OPS.index(name), flat, 1.9, magnitude=1.0), flat, atol=1e-6)


def test_rand_augment_draws_every_op_and_the_magnitude_scales_it():
    images = jnp.broadcast_to(jax.random.uniform(KEY, (12, 12, 3)) * 0.8 + 0.1, (256, 12, 12, 3))
    strong, none = (run(images, rand_augment=1, magnitude=magnitude) for magnitude in (1.0, 0.0))
    change = lambda result: np.abs(result - images).mean((1, 2, 3))
    # Each op has one result or, with a sign, two; of the 13 all but identity show.
    kinds = len(np.unique(strong.reshape(256, -1).round(4), axis=0))
    signed = set(RAND_OPS) - {"identity", "autocontrast", "solarize", "posterize"}
    assert kinds == len(RAND_OPS) + len(signed)
    assert np.median(change(strong)) > 0.1
    # Rounded to 8 bits by posterize, stretched by autocontrast; else untouched.
    assert np.median(change(none)) < 1e-6


def test_to_float():
    image = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(to_float(image).ravel(), [0, 0.2, 1], atol=1e-7)
    assert to_float(np.float64([0.25])).dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shfit": 1}, r"no option 'shfit' \(did you mean 'shift'\?\); the options are shift, crop, "),
        ({"shift": -1}, "augment.shift is -1: it must be a whole number >= 0"),
        ({"crop": 1.5}, "augment.crop is 1.5: it must be a whole number"),
        ({"rand_augment": True}, "augment.rand_augment is True"),
        ({"rotate": "15"}, "augment.rotate is '15': it must be in 0..180"),
        ({"noise": -0.1}, "augment.noise is -0.1"),
        ({"scale": 1.0}, "augment.scale is 1.0: it must be in 0..0.9"),
        ({"magnitude": 1.1}, "augment.magnitude is 1.1: it must be in 0..1"),
        ({"brightness": float("nan")}, "augment.brightness is nan"),
        ({"flip": "yes"}, "augment.flip is 'yes'"),
        ({"dihedral": 2}, "augment.dihedral is 2"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        make_augment(**options)


@pytest.mark.parametrize("name", ["shift", "crop", "cutout"])
def test_options_too_large_for_the_images(name):
    with pytest.raises(UserError, match=f"augment.{name} is 6: images of 6x7 need less"):
        run(**{name: 6})


def test_quarter_turns_need_squares():
    with pytest.raises(UserError, match=r"turns images by 90 degrees: \[64, 6, 7, 1\] are not square"):
        run(dihedral=True)


def test_wrong_images():
    augment = make_augment(shift=1)
    for images, slots in ((jnp.zeros((2, 3, 3, 1), jnp.uint8), 2), (jnp.zeros((2, 3, 3)), 2), (IMAGES, 2)):
        with pytest.raises(UserError, match="takes floating images"):
            augment(KEY, images, jnp.arange(slots))
