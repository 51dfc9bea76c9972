"""The step of a student that sees unlabelled images: each method's loss by hand, on views with real noise."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_steps import noisy, run

from tlx import losses, parallel, rng, steps
from tlx.consistency import make_consistency
from tlx.data.mixup import make_mix
from tlx.errors import UserError
from tlx.models.apply import make_apply
from tlx.state import TrainState

KEY = jax.random.key(0)
SLOTS = jnp.arange(16)
METHODS = {
    "pi-model": {"compare": make_consistency(kind="mse"), "target_sees": "noised"},
    "mean teacher": {
        "compare": make_consistency(kind="mse"),
        "target": "ema",
        "target_sees": "noised",
        "ema_decay": 0.5,
    },
    "uda": {"compare": make_consistency(kind="kl", temperature=0.4, threshold=0.4)},
    "fixmatch": {
        "compare": make_consistency(kind="ce", hard=True, threshold=0.4),
        "labeled_sees": "weak",
        "weak": lambda images, slots, key: noisy(images, slots, key) * 0.9,
    },
}


def augment_keys(step=0):
    """Of the noised view, and of the second draw."""
    key = rng.at_step(rng.stream(KEY, "augment"), step)
    return key, rng.stream(key, "target")


@functools.partial(jax.jit, static_argnums=(0, 1))
def by_hand(method, model, params, same, ema, batch, step=0):
    """The loss from the methods' definitions: of `params`, with targets by `same`, equal to them, or by `ema`."""
    strong_key, second_key = augment_keys(step)
    strong, second = (noisy(batch["image"], SLOTS, key) for key in (strong_key, second_key))
    weak = second * 0.9 if method == "fixmatch" else batch["image"]
    labeled = batch["labeled"] > 0
    predict = lambda p, images: model.apply({"params": p}, images, train=False)
    seen = jnp.where(labeled[:, None, None, None], weak, strong) if method == "fixmatch" else strong
    logits = predict(params, seen)
    target_images = second if method in ("pi-model", "mean teacher") else weak
    target = jax.nn.softmax(predict(ema if method == "mean teacher" else same, target_images))
    log_p = jax.nn.log_softmax(logits)
    if method in ("pi-model", "mean teacher"):
        unsupervised = jnp.mean((jnp.exp(log_p) - target) ** 2, -1)
    else:
        sharp = target**2.5 / (target**2.5).sum(-1, keepdims=True)
        values = {
            "uda": (sharp * (jnp.log(sharp) - log_p)).sum(-1),
            "fixmatch": -log_p[jnp.arange(16), target.argmax(-1)],
        }[method]
        unsupervised = jnp.where(target.max(-1) >= 0.4, values, 0)
    supervised = losses.cross_entropy(logits, batch["label"])[:5].mean()  # the labelled come first
    return supervised + 0.7 * unsupervised[5:].mean()


@pytest.mark.parametrize("method", METHODS)
def test_methods_by_hand(tiny, batch, method):
    """The loss of the second step, where the average of the weights is no longer the weights."""
    model, variables = tiny()
    step = steps.make_self_train_step(
        apply=make_apply(model), view=noisy, tx=optax.sgd(0.3), consistency=0.7, **METHODS[method]
    )
    ema = method == "mean teacher"
    before, _ = run(step, variables, optax.sgd(0.3), batch, count=1, ema=ema)
    _, metrics = run(step, variables, optax.sgd(0.3), batch, count=2, ema=ema)
    expected = by_hand(method, model, before.params, before.params, before.ema_params, batch, step=1)
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-5)
    if ema:
        wrong = by_hand(method, model, before.params, before.params, before.params, batch, step=1)
        assert abs(float(wrong - expected)) > 3e-5 * expected
    if method in ("uda", "fixmatch"):
        passed, count = metrics["consistency_mask_rate"]
        assert count == 11 and 0 < passed < 11


@pytest.mark.parametrize("method", METHODS)
def test_no_gradient_flows_through_the_target(tiny, batch, method):
    """The update is that of the loss by hand, differentiated with the target held still."""
    model, variables = tiny()
    step = steps.make_self_train_step(
        apply=make_apply(model), view=noisy, tx=optax.sgd(1.0), consistency=0.7, **METHODS[method]
    )
    start = variables["params"]
    state, _ = run(step, variables, optax.sgd(1.0), batch, count=1, ema=method == "mean teacher")
    gradient = jax.grad(lambda params: by_hand(method, model, params, start, start, batch))(start)
    expected = jax.tree.map(lambda p, g: p - g, start, gradient)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-4, atol=1e-6)


def test_mixup_by_hand(tiny, batch):
    """Images, labels and what the teacher says are mixed by the same shares, each part within itself."""
    model, variables = tiny()
    mix = make_mix(0.5, seed=3, parts=(5, 11))
    partner, share = mix(np.arange(16))
    np.testing.assert_array_equal(partner, [4, 0, 1, 2, 3, 15, *range(5, 15)])
    share = share.astype(np.float32)
    mixed = batch | {f"partner_{name}": batch[name][partner] for name in
                     ("image", "label", "weight", "teacher_logits", "teacher_weight")}  # fmt: skip
    plain = lambda images, slots, key: images
    step = steps.make_self_train_step(
        apply=make_apply(model), view=plain, tx=optax.sgd(0.1), temperature=2.0, alpha=1.0, beta=0.5, mixup=True
    )
    _, metrics = run(step, variables, optax.sgd(0.1), mixed | {"share": share}, count=1)
    blend = lambda rows: (
        share.reshape(-1, *[1] * (rows.ndim - 1)) * rows
        + (1 - share.reshape(-1, *[1] * (rows.ndim - 1))) * rows[partner]
    )
    logits = model.apply(variables, blend(batch["image"]), train=False)
    log_p, at_2 = jax.nn.log_softmax(logits), jax.nn.log_softmax(logits / 2)
    soft, soft_2 = (blend(np.asarray(jax.nn.softmax(batch["teacher_logits"] / t))) for t in (1, 2))
    counts = (batch["teacher_weight"] * batch["teacher_weight"][partner]) > 0
    labels = blend(np.eye(3, dtype=np.float32)[batch["label"]])
    expected = (
        4 * (soft_2 * (np.log(soft_2) - at_2)).sum(-1)[counts].mean()
        - 0.5 * (soft * log_p).sum(-1)[counts].mean()
        - (labels * log_p).sum(-1)[:5].mean()
    )
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-5)
    assert metrics["teacher_agreement"][1] == counts.sum() < batch["teacher_weight"].sum()


def test_one_forward_pass(tiny, batch):
    """Labelled and unlabelled images go through the network together; a target costs one more pass."""
    model, variables = tiny()
    state = TrainState.create(variables=variables, tx=optax.sgd(0.1))

    def products(**options):
        step = steps.make_self_train_step(apply=make_apply(model), view=noisy, tx=optax.sgd(0.1), **options)
        return jax.jit(step).lower(state, batch, KEY).as_text().count("dot_general")

    supervised = steps.make_supervised_step(apply=make_apply(model), view=noisy, tx=optax.sgd(0.1))
    plain = jax.jit(supervised).lower(state, batch, KEY).as_text().count("dot_general")
    assert products(alpha=1.0) == plain and products(consistency=1.0) == plain + 3


@pytest.mark.parametrize("method", ["mean teacher", "fixmatch"])  # between them, all that the others have
def test_harnesses_agree(tiny, batch, method):
    """Masks are uneven over devices, and BatchNorm is synchronised."""
    _, variables = tiny(norm=True)

    def final(mode):
        model, _ = tiny(norm=True, axis_name=parallel.axis_name(mode))
        options = {"axis_name": parallel.axis_name(mode), "consistency": 0.7} | METHODS[method]
        step = steps.make_self_train_step(apply=make_apply(model), view=noisy, tx=optax.sgd(0.3), **options)
        return run(step, variables, optax.sgd(0.3), batch, mode=mode, ema="ema_decay" in options)

    state, metrics = final("jit")
    for mode in ("pmap", "shard_map"):
        chex.assert_trees_all_close(final(mode), (state, metrics), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consistency": 1.0, "target": "ema"}, "no average is kept: set train.ema_decay"),
        ({"consistency": 1.0, "target": "teacher"}, "consistency.target='teacher'"),
        ({"target_sees": "strong"}, "consistency.sees='strong'"),
        ({"labeled_sees": "clean"}, "labeled_sees='clean'"),
        ({"labeled": 0.0}, "alpha and beta and consistency and labeled are all 0"),
    ],
)
def test_bad_options(tiny, options, message):
    model, _ = tiny()
    with pytest.raises(UserError, match=message):
        steps.make_self_train_step(apply=make_apply(model), view=noisy, tx=optax.sgd(0.1), **options)
