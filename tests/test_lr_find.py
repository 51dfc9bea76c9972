"""The range test: a rate of divergence known in closed form, groups, the smoothing by hand, and nothing left behind."""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tlx import config as config_lib
from tlx import lr_find, optim, ramp
from tlx.errors import UserError
from tlx.recipes import distill, self_train, supervised
from tlx.recipes.learner import digest

ROOT = pathlib.Path(__file__).parent.parent


def small(recipe=supervised, **changes):
    config = recipe.default_config()
    config.name = "small"
    config.data.update(labels_per_class=20, validation=50)
    config.model = {"name": "mlp", "widths": (16,), "dropout": 0.2}
    config.optim = config_lib.optim(
        rules=(("backbone/.*", "body"), ("head/kernel", "head"), ("head/bias", "frozen")),
        body={"optimizer": "sgd", "learning_rate": 0.02, "warmup": 0.5},
        head={"optimizer": "sgd", "learning_rate": 0.1, "start": 0.5},
    )
    config.train.update(steps=6, batch_size=16, eval_every=3)
    config.update_from_flattened_dict(changes)
    return config


def watch(monkeypatch, recipe):
    """The learners that the recipe builds, each with its parameters before and after each step."""
    build, seen = recipe.build, []

    def watched(run, *args):
        learner, given = build(run, *args)
        params = [jax.device_get(given["variables"]["params"])]

        def step(number):
            def call(*arguments):
                state, metrics = learner.step(number)(*arguments)
                params.append(jax.device_get(state.params))
                return state, metrics

            return call

        seen.append((learner, params))
        return dataclasses.replace(learner, step=step), given

    monkeypatch.setattr(recipe, "build", watched)
    return seen


def test_sgd_on_a_quadratic_turns_at_two_over_its_curvature():
    """Loss L p^2 / 2 shrinks under every rate below 2 / L and grows above it."""
    curvature, rate, steps, low, high = 50.0, 0.1, 200, 1e-4, 1e3
    rising = lambda step: low * (high / low) ** (step / (steps - 1))
    groups = {"all": {"optimizer": "sgd", "momentum": 0.0, "learning_rate": rate}}
    params = {"p": jnp.array([1.0])}
    tx = optim.make_optimizer(params, rules=((".*", "all"),), groups=groups, total_steps=steps, ramp=rising).tx

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda q: 0.5 * curvature * jnp.sum(q["p"] ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def losses(params):
        state = tx.init(params)
        while True:
            params, state, loss = step(params, state)
            yield float(loss)

    factors = np.geomspace(low, high, steps)
    found = ramp.follow(losses(params), factors, {"all": rate})
    diverges = 2 / curvature / rate  # as a factor: 0.4
    # The loss is least before the first update with too large a rate.
    assert np.argmin(found.losses) == np.searchsorted(factors, diverges)
    assert diverges < found.factors[-1] < high and found.advice == ""  # stopped early
    assert max(found.suggestions.values()) < diverges
    assert abs(np.log(10 * found.suggestions["conservative"] / diverges)) < 3 * np.log(factors[1] / factors[0])
    assert found.scaled(0.1234) == {"all": 0.012}


def test_smoothing_by_hand():
    np.testing.assert_allclose(list(ramp.smooth([1.0, 4.0, 2.0], 0.5)), [1, (1 * 1 + 2 * 4) / 3, (1 + 8 + 8) / 7])
    assert list(ramp.smooth([3.0, 5.0], 0.0)) == [3, 5]


def test_a_straight_descent_is_left_in_place_by_the_smoothing():
    factors = np.geomspace(1e-3, 1e3, 100)
    line = 5 - np.log(factors) / 3
    found = ramp.follow(iter(line), factors, {})
    np.testing.assert_allclose(found.smoothed, 5 - np.log(found.centers) / 3, rtol=1e-12)
    assert "raise --high to see where it breaks" in found.advice


def test_suggestions_of_a_known_curve():
    """A logistic fall centred on 0.01, and a wall from 1 on."""
    factors = np.geomspace(1e-4, 1e3, 200)
    x = np.log10(factors)
    losses = 0.5 + 2 / (1 + np.exp(4 * (x + 2))) + np.exp(np.clip(8 * (x - 0.5), -50, 50))
    found = ramp.follow(iter(losses), factors, {"all": 1.0})
    memory = 0.1 * 7  # decades
    assert -memory / 2 < np.log10(found.suggestions["steepest"] / 0.01) <= 0
    assert abs(np.log10(10 * found.suggestions["conservative"] / factors[np.argmin(losses)])) < memory / 2
    assert found.smoothed[-1] > 4 * found.smoothed.min() >= found.smoothed[-2]


@pytest.mark.parametrize(
    ("losses", "steps", "advice"),
    [
        (lambda n: np.full(n, 2.0), 100, "no descent beyond the noise: raise --high"),
        (lambda n: 2 + 0.3 * np.random.default_rng(0).normal(size=n), 100, "no descent beyond the noise: raise --high"),
        (lambda n: np.geomspace(1, 1e4, n), 90, "no descent beyond the noise: lower --low"),
        (lambda n: np.linspace(1, 3, n), 100, "no descent beyond the noise: lower --low"),
        (lambda n: np.geomspace(1, 1e30, n), 10, "the loss broke at once; lower --low"),
        (lambda n: np.where(np.arange(n) < 40, 2.0 - 0.01 * np.arange(n), np.nan), 40, ""),
        (lambda n: np.full(n, np.inf), 0, "the first loss is not finite"),
    ],
)
def test_ramps_without_a_whole_descent(losses, steps, advice):
    found = ramp.follow(iter(losses(100)), np.geomspace(1e-4, 1e3, 100), {"all": 0.1})
    assert len(found.losses) == len(found.factors) == len(found.smoothed) == len(found.centers) <= steps
    assert np.isfinite(found.losses).all()
    assert advice in found.advice and bool(found.suggestions) == (advice == "")
    assert lr_find.draw(found).axes and advice in lr_find.describe(found)[-1]


def test_ratios_are_kept_and_frozen_is_frozen(monkeypatch):
    seen = watch(monkeypatch, supervised)
    found = lr_find.find(small(), steps=12, low=1e-3, high=1e-1)
    ((learner, params),) = seen
    assert len(learner.optimizer.stages) == 1  # `start` is set aside
    for group, rate in {"body": 0.02, "head": 0.1}.items():
        rates = [float(learner.optimizer.schedules[group](step)) for step in range(12)]
        np.testing.assert_allclose(rates, rate * np.geomspace(1e-3, 1e-1, 12), rtol=1e-5)
    assert found.learning_rates == {"body": 0.02, "head": 0.1} and len(params) == 13
    np.testing.assert_array_equal(params[0]["head"]["bias"], params[-1]["head"]["bias"])
    assert (params[0]["head"]["kernel"] != params[1]["head"]["kernel"]).any()
    np.testing.assert_allclose(found.factors, np.geomspace(1e-3, 1e-1, 12))


def test_a_loss_that_is_not_finite_ends_the_ramp_and_not_the_tool():
    found = lr_find.find(small(), steps=20, low=1e-2, high=1e30)
    assert np.isfinite(found.losses).all() and len(found.losses) < 20


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    """The same config gives the same weights, bit for bit, whether the test ran before or not."""
    monkeypatch.chdir(tmp_path)
    config = small()
    before = supervised.run(config, tmp_path / "before")
    files = sorted(tmp_path.rglob("*"))
    seen, given = watch(monkeypatch, supervised), config.to_dict()
    lr_find.find(config, steps=10)
    assert sorted(tmp_path.rglob("*")) == files and config.to_dict() == given
    assert digest(seen[0][1][0]) != digest(seen[0][1][-1])  # it did train
    after = supervised.run(config, tmp_path / "after")
    assert after["selected"]["digest"] == before["selected"]["digest"] and after["figures"] == before["figures"]
    student = small(distill, **{"teacher.run": str(tmp_path / "before")})
    assert len(lr_find.find(student, steps=10, high=1.0).losses) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 9}, "steps is 9"),
        ({"low": 1.0, "high": 1.0}, "low is 1 and high 1: they must be finite, and 0 < low < high"),
        ({"low": 0.0}, "low is 0"),
        ({"high": float("inf")}, "high inf"),
        ({"config": self_train.default_config()}, "recipe is 'self_train', which trains several networks"),
        ({"config": {"recipe": "superb"}}, "recipe is 'superb': use one of"),
        pytest.param(
            {"config": small(**{"train.batch_size": 10})},
            "train.batch_size is 10, which does not divide",
            marks=pytest.mark.four_devices,
        ),
    ],
)
def test_bad_input_before_any_compilation(arguments, message, monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *a, **k: pytest.fail("compiled"))
    with pytest.raises(UserError, match=message):
        lr_find.find(**{"config": small()} | arguments)


def test_the_command_writes_one_new_figure(tmp_path, monkeypatch, capsys):
    def command(*args):
        monkeypatch.setattr(sys, "argv", ["lr_find", *args])  # where ml_collections looks for --config.key
        code = lr_find.main(sys.argv)
        return code, *capsys.readouterr()

    config, out = f"--config={ROOT}/configs/digits_scratch.py:runlocal", tmp_path / "rates.png"
    code, said, _ = command(
        config, f"--out={out}", "--steps=10", "--low=1", "--high=10", "--config.optim.groups.all.learning_rate=1e-4"
    )
    assert code == 0 and f"figure: {out}" in said and out.read_bytes().startswith(b"\x89PNG")
    assert "learning rates now: all 0.0001; ramp: x 1 to x 10 in 10 steps" in said
    assert [path.name for path in tmp_path.iterdir()] == ["rates.png"]
    for args, message in (
        ((config, f"--out={out}"), "exists: choose another --out"),
        ((config, f"--out={tmp_path}/new.png", "--steps=3"), "steps is 3"),
        ((config, "--low=one"), "one"),
        ((config, "--workdir=runs/x"), "workdir"),
        ((config, "extra"), "unknown argument 'extra': flags begin with --, as in --config=configs/x.py"),
    ):
        code, _, error = command(*args)
        assert code == 2 and error.startswith("error: ") and message in error and error.count("\n") == 1


def test_the_figure_gets_a_free_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_lr.png").touch()
    assert lr_find._figure_path(None, "digits") == pathlib.Path("digits_lr_2.png")
    for out, message in (("x.pdf", "must end with .png"), ("nowhere/x.png", "does not exist or is not writable")):
        with pytest.raises(UserError, match=message):
            lr_find._figure_path(out, "digits")
