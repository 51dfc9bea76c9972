"""Each regime, on a real network: who is frozen, who waits, who learns how fast."""

import jax
import pytest
from flax import traverse_util

from tlx import models, optim
from tlx.errors import UserError
from tlx.regimes import REGIMES, regime

LEVELS = ("stem", "stage1", "stage2", "stage3")
RATES = {"backbone": {"learning_rate": 1e-4}, "head": {"learning_rate": 1e-2}}


@pytest.fixture(scope="module")
def shapes():
    model = models.build("resnet8", num_classes=4, width=0.25)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jax.numpy.zeros((1, 8, 8, 1)), train=False))


def made(shapes, name, **options):
    rules, groups = regime(name, levels=LEVELS, **RATES, **options)
    return optim.make_optimizer(
        shapes["params"],
        rules=rules,
        groups=groups,
        total_steps=80,
        levels=LEVELS,
        batch_stats=shapes["batch_stats"],
    )


def frozen_levels(stage):
    flat = traverse_util.flatten_dict(stage.frozen, sep="/")
    return {path.split("/")[1] for path, frozen in flat.items() if frozen}


@pytest.mark.parametrize("name", REGIMES)
def test_every_regime_fits_a_network(shapes, name):
    optimizer = made(shapes, name)
    assert optimizer.groups["head"]["learning_rate"] == 1e-2
    rates = {group["learning_rate"] for label, group in optimizer.groups.items() if label != "head"}
    assert all(rate <= 1e-4 for rate in rates) and bool(rates) == (name not in ("linear", "early", "scratch"))


def test_who_is_frozen(shapes):
    assert frozen_levels(made(shapes, "full").stages[0]) == set()
    assert frozen_levels(made(shapes, "scratch").stages[0]) == set()
    assert frozen_levels(made(shapes, "linear").stages[0]) == set(LEVELS)
    assert frozen_levels(made(shapes, "early", cut="stage1").stages[0]) == set(LEVELS)
    assert frozen_levels(made(shapes, "partial").stages[0]) == {"stem", "stage1"}
    assert frozen_levels(made(shapes, "partial", cut="stage2").stages[0]) == {"stem", "stage1", "stage2"}


def test_who_waits(shapes):
    first, second = made(shapes, "lp_ft").stages
    assert (frozen_levels(first), frozen_levels(second)) == (set(LEVELS), set()) and second.begin == 40
    assert all(norm.startswith("backbone/") for norm in first.frozen_norms) and not second.frozen_norms
    gradual = made(shapes, "gradual").stages
    assert [stage.begin for stage in gradual] == [0, 10, 20, 30, 40]
    assert [frozen_levels(stage) for stage in gradual] == [set(LEVELS[:awake]) for awake in (4, 3, 2, 1, 0)]


def test_lp_ft_goes_on_with_a_learnt_head_at_the_backbones_rate(shapes):
    head, backbone = (made(shapes, "lp_ft").schedules[name] for name in ("head", "backbone"))
    assert [float(head(step)) for step in (0, 40)] == pytest.approx([1e-2, 1e-4]) and head(39) < 1e-4
    assert all(float(head(step)) == pytest.approx(float(backbone(step))) for step in range(40, 80))


def test_layers_slow_down(shapes):
    groups = made(shapes, "layer_decay").groups
    assert groups["backbone@stage3"]["learning_rate"] == pytest.approx(0.75e-4)
    assert groups["backbone@stem"]["learning_rate"] == pytest.approx(0.75**4 * 1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ful", {}, r"regime 'ful' is unknown \(did you mean 'full'\?\)"),
        ("full", {"cut": "stage1"}, "only partial and early have a cut"),
        ("partial", {"cut": "stage3"}, "a level with others above it"),
        ("partial", {"cut": "stag1"}, r"did you mean 'stage1'\?"),
    ],
)
def test_bad_regimes(name, options, message):
    with pytest.raises(UserError, match=message):
        regime(name, levels=LEVELS, **RATES, **options)
