"""The LP-FT experiment: its shifts by hand-made arrays, its choice of a rate, and what its configs say."""

import numpy as np
import pytest

from experiments.lp_ft import shifts, sweep
from tlx import config as config_lib
from tlx import optim
from tlx.errors import UserError
from tlx.recipes import supervised
from tlx.sweep import load_config, make_config

CORNER = np.zeros((1, 4, 4, 1), np.float32)
CORNER[0, 0, 1] = 1


def test_rotation_is_counter_clockwise_about_the_centre():
    turned = shifts.rotate(CORNER, 90.0)
    np.testing.assert_allclose(turned[0, :, :, 0], np.rot90(CORNER[0, :, :, 0]), atol=1e-6)
    assert turned.dtype == np.float32 and turned.shape == CORNER.shape


def test_rotation_brings_in_black_and_mixes_neighbours():
    white = np.ones((1, 5, 5, 1), np.float32)
    turned = shifts.rotate(white, 45.0)[0, :, :, 0]
    # The corner (-2, -2) shows what lies 2 sqrt(2) from the centre, outside; the centre stays.
    assert turned[0, 0] == 0 and turned[2, 2] == pytest.approx(1)


def test_inversion_and_noise():
    images = np.array([0.0, 0.25, 1.0], np.float32).reshape(3, 1, 1, 1)
    assert shifts.invert(images).ravel().tolist() == [1.0, 0.75, 0.0]
    grey = np.full((200, 10, 10, 1), 0.5, np.float32)
    noised = shifts.add_noise(grey, std=0.1)
    assert noised.std() == pytest.approx(0.1, rel=0.02) and noised.mean() == pytest.approx(0.5, abs=0.005)
    assert (noised == shifts.add_noise(grey, std=0.1)).all() and (noised != shifts.add_noise(grey, 0.1, seed=1)).any()
    strong = shifts.add_noise(grey, std=1.0)
    assert strong.dtype == np.float32 and (strong.min(), strong.max()) == (0.0, 1.0)


def test_the_sets_that_are_evaluated():
    sets = shifts.with_shifts(np.full((2, 4, 4, 1), 51, np.uint8))
    assert list(sets) == ["clean", "rotated", "noised", "inverted"]
    assert sets["clean"].dtype == np.float32
    assert sets["clean"].max() == pytest.approx(0.2) and sets["inverted"].min() == pytest.approx(0.8)


def test_features_move_by_the_mean_relative_distance():
    before = np.array([[3.0, 4.0], [0.0, 2.0]])
    after = np.array([[3.0, 4.0], [0.0, 1.0]])
    assert shifts.feature_change(before, after) == pytest.approx((0 / 5 + 1 / 2) / 2)


def test_a_rate_is_chosen_on_validation_alone():
    variants = sweep.adapted("robust", "full")
    low, middle, high, *_ = variants
    figures = {  # rate -> (validation, validation loss, test) of two seeds
        low: [(0.90, 0.3, 0.99), (0.90, 0.3, 0.99)],
        middle: [(0.94, 0.4, 0.1), (0.90, 0.4, 0.1)],
        high: [(0.92, 0.2, 0.0), (0.92, 0.2, 0.0)],
    }
    results = [
        {"variant": variants[rate].label, "figures": dict(zip(("validation", "validation loss", "test"), values))}
        for rate, runs in figures.items()
        for values in runs
    ]
    assert shifts.choose(results, {rate: variants[rate] for rate in figures}) == high


def test_the_tables_hold_the_means_and_the_paired_differences():
    def run(source, regime, seed, clean, shifted, change=None):
        accuracy = {"clean": clean} | dict.fromkeys(shifts.SHIFTS, shifted)
        return {"source": source, "regime": regime, "rate": 0.1, "seed": seed, "accuracy": accuracy} | (
            {"change": {"clean": change} | dict.fromkeys(shifts.SHIFTS, change)} if change is not None else {}
        )

    runs = [run("", "scratch", seed, 0.5, 0.25) for seed in (0, 1)]
    for source in ("robust", "plain"):
        runs += [run(source, "full", seed, 0.9, 0.5, 1.0) for seed in (0, 1)]
        runs += [run(source, "linear", seed, 0.8 + seed / 10, 0.75, 0.0) for seed in (0, 1)]
        runs += [run(source, "lp_ft", seed, 0.9, 0.75, 0.25) for seed in (0, 1)]
    text = shifts.tables({"sources": {"robust": {}, "plain": {}}, "runs": runs})
    assert "| - | scratch | 0.1 | 0.5000 ± 0.0000 |" in text
    assert "| ID: full - linear | +0.02 | 0.0500 ± 0.0707 | 0.0500 ± 0.0707 |" in text
    assert "| OOD: full - linear | -0.07 | -0.2500 ± 0.0000 |" in text
    assert "| OOD: lp_ft - full | +0.10 | 0.2500 ± 0.0000 |" in text


def test_every_config_of_the_sweep_builds():
    for variant in sweep.VARIANTS:
        config = config_lib.resolve(make_config(variant, seed=3), supervised.default_config())
        assert config.seed == 3 and config.data.name == "idx"
        assert bool(config.augment) == ("source=robust" in variant.args)


def test_only_lp_ft_has_two_stages_and_it_has_them_as_long_as_the_others():
    heads, backbones = {}, {}
    for regime in ("full", "linear", "lp_ft"):
        variant = sweep.adapted("plain", regime)[0.01]
        config = make_config(variant, seed=0)
        shapes = {"backbone": {"stage1": {"conv": {"kernel": np.zeros(1)}}}, "head": {"kernel": np.zeros(1)}}
        made = optim.make_optimizer(
            shapes, rules=config.optim.rules, groups=config.optim.groups.to_dict(), total_steps=config.train.steps
        )
        rate = lambda group, step, made=made: float(made.schedules[group](step)) if group in made.schedules else 0.0
        heads[regime] = [rate("head", step) for step in range(config.train.steps)]
        backbones[regime] = [rate("backbone", step) for step in range(config.train.steps)]
    steps = len(heads["full"])
    assert len(heads["lp_ft"]) == 2 * steps and heads["full"] == backbones["full"]
    assert not any(backbones["linear"]) and not any(backbones["lp_ft"][:steps])
    np.testing.assert_allclose(heads["lp_ft"][steps:], heads["full"], rtol=1e-5)
    np.testing.assert_allclose(backbones["lp_ft"][steps:], backbones["full"], rtol=1e-5)
    assert heads["lp_ft"][0] == pytest.approx(sweep.PROBE_RATE["plain"])


@pytest.mark.parametrize(
    ("arg", "message"),
    [("regime=lpft", r"regime is 'lpft' \(did you mean 'lp_ft'\?\)"), ("source=plan", r"did you mean 'plain'")],
)
def test_bad_arguments(arg, message):
    with pytest.raises(UserError, match=message):
        load_config(sweep.CONFIG, arg)
