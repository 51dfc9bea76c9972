"""The steps: by hand, in every harness, frozen where frozen, and the teacher left alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tlx import losses, optim, parallel, rng, steps, teachers
from tlx.errors import UserError
from tlx.models.apply import make_apply
from tlx.state import TrainState

PLAIN = lambda images, slots, key: images
SGD = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.3, "schedule": "constant"}
SELF_TRAIN = {"temperature": 2.0, "alpha": 1.0, "beta": 0.5, "consistency": 0.7, "labeled": 0.9}


def noisy(images, slots, key):
    """Noise by (key, slot), as real augmentation has it."""
    if key is None:
        return images
    draw = lambda slot: jax.random.normal(jax.random.fold_in(key, slot), images.shape[1:])
    return images + 0.1 * jax.vmap(draw)(slots)


def run(step, variables, tx, batch, *, mode="jit", count=3, teach=None, teacher=None, ema=False, seed=0):
    """`teach`, of `teacher`'s variables, is a program of its own before each step, as the recipe has it."""
    mesh, key = parallel.make_mesh(mode), jax.random.key(seed)
    compiled = parallel.parallelize(step, mode, mesh, args=("whole", "batch", "whole"))
    if teach:
        program = parallel.parallelize(teach, mode, mesh, args=("whole", "batch", "whole", "whole"), out="sharded")
    state = parallel.replicate(TrainState.create(variables=variables, tx=tx, ema=ema), mesh)
    for number in range(count):
        sharded = parallel.shard_batch(batch, mode, mesh)
        if teach:
            sharded |= program((teacher,), sharded, key, np.int32(number))
        state, metrics = compiled(state, sharded, key)
        jax.block_until_ready(metrics)  # as the loop does on virtual devices
    return state, jax.device_get(metrics)


def test_supervised_step_by_hand(tiny, batch):
    model, variables = tiny()
    step = steps.make_supervised_step(apply=make_apply(model), view=PLAIN, tx=optax.sgd(0.3))
    state, metrics = run(step, variables, optax.sgd(0.3), batch, count=1)
    labeled = batch["weight"] > 0

    def loss(params):
        logits = model.apply({"params": params}, batch["image"][labeled], train=False)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(5), batch["label"][labeled]])

    value, grads = jax.value_and_grad(loss)(variables["params"])
    chex.assert_trees_all_close(
        state.params, jax.tree.map(lambda p, g: p - 0.3 * g, variables["params"], grads), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(metrics["loss"][0], value, rtol=1e-5)
    assert metrics["accuracy"][1] == 5 and state.step == 1


def test_distill_step_by_hand_and_teacher_unchanged(tiny, batch):
    model, variables = tiny()
    teacher = jax.tree.map(lambda x: x + 0.3, variables)
    before = jax.device_get(teacher)
    step = steps.make_distill_step(
        apply=make_apply(model), teach=teachers.make_reader(num_classes=3), view=PLAIN, tx=optax.sgd(0.3),
        temperature=3.0, alpha=0.8, beta=0.2,
    )  # fmt: skip
    teach = teachers.make_teach(applies=[make_apply(model)], view=PLAIN)
    state, metrics = run(step, variables, optax.sgd(0.3), batch, count=1, teach=teach, teacher=teacher)
    labeled = batch["weight"] > 0

    def loss(params):
        logits = model.apply({"params": params}, batch["image"], train=False)
        soft = jax.nn.softmax(model.apply(teacher, batch["image"], train=False) / 3)
        kl = jnp.sum(soft * (jnp.log(soft) - jax.nn.log_softmax(logits / 3)), -1).mean()
        return 0.8 * 9 * kl + 0.2 * losses.cross_entropy(logits, batch["label"])[labeled].mean()

    value, grads = jax.value_and_grad(loss)(variables["params"])
    np.testing.assert_allclose(metrics["loss"][0], value, rtol=1e-5)
    chex.assert_trees_all_close(
        state.params, jax.tree.map(lambda p, g: p - 0.3 * g, variables["params"], grads), rtol=1e-4, atol=1e-6
    )
    chex.assert_trees_all_equal(jax.device_get(teacher), before)


TAUGHT_AT = 3.0
plain = lambda z, b: losses.distillation_kl(z, b["teacher_logits"], TAUGHT_AT)
labels = lambda z, b, smoothing=0.0: losses.cross_entropy(z, b["label"], smoothing)
partners = lambda z, b, smoothing=0.0: losses.cross_entropy(z, b["partner_label"], smoothing)
target = lambda b: jnp.where(b["weight"] > 0, b["label"], b["teacher_logits"].argmax(-1))
scores = lambda z, b: (losses.standardize(z), losses.standardize(b["teacher_logits"]))


def decoupled(student, teacher, b):
    return losses.decoupled_kd(student, teacher, target(b), TAUGHT_AT, target=1.5, non_target=0.25)


@pytest.mark.parametrize(
    ("options", "terms"),
    [
        ({"kind": "dkd", "dkd": (1.5, 0.25)}, {"distill": lambda z, b: decoupled(z, b["teacher_logits"], b)}),
        ({"kind": "hard"}, {"distill": lambda z, b: losses.hard_distillation(z, b["teacher_logits"])}),
        ({"standardize": True}, {"distill": lambda z, b: losses.distillation_kl(*scores(z, b), TAUGHT_AT)}),
        (
            {"kind": "dkd", "dkd": (1.5, 0.25), "standardize": True},
            {"distill": lambda z, b: decoupled(*scores(z, b), b)},
        ),
        # The teacher's class is the same by its scores, and the student's own logits are compared with it.
        (
            {"kind": "hard", "standardize": True},
            {"distill": lambda z, b: losses.hard_distillation(z, b["teacher_logits"])},
        ),
        ({"label_smoothing": 0.2}, {"cross_entropy": lambda z, b: labels(z, b, 0.2)}),
        (
            {"features": 0.6},
            {"features": lambda z, b: losses.feature_distance(2 * z[:, :2], b["teacher_features"])},
        ),
        (
            {"mixup": True, "label_smoothing": 0.2},
            {"cross_entropy": lambda z, b: b["share"] * labels(z, b, 0.2) + (1 - b["share"]) * partners(z, b, 0.2)},
        ),
    ],
    ids=["dkd", "hard", "standardize", "dkd-standardize", "hard-standardize", "smoothing", "features", "mixup"],
)
def test_distill_step_has_the_loss_that_is_asked_for(options, terms, tiny, batch):
    """Its value and its gradient, from the losses of `tlx.losses`, which are tested by hand."""
    (model, variables), draw = tiny(), np.random.default_rng(1)
    seen, known = batch["image"], batch["weight"] > 0
    if "features" in options:
        batch["teacher_features"] = draw.normal(size=(16, 2)).astype(np.float32)
    if "mixup" in options:
        batch["partner_image"] = draw.normal(size=seen.shape).astype(np.float32)
        batch["partner_label"] = draw.integers(0, 3, 16).astype(np.int32)
        batch["partner_weight"] = (np.arange(16) != 2).astype(np.float32)  # of one labelled image, it is not known
        batch["share"] = draw.uniform(0.1, 0.9, 16).astype(np.float32)
        share = batch["share"][:, None, None, None]
        seen, known = share * seen + (1 - share) * batch["partner_image"], known & (batch["partner_weight"] > 0)

    def apply(variables, images, *, train, key):
        logits = model.apply(variables, images, train=False)
        return ((logits, 2 * logits[:, :2]) if "features" in options else logits), {}

    step = steps.make_distill_step(
        apply=apply, teach=lambda batch, t: batch["teacher_logits"], view=PLAIN, tx=optax.sgd(0.3),
        temperature=TAUGHT_AT, alpha=0.8, beta=0.2, **options,
    )  # fmt: skip
    state, metrics = run(step, variables, optax.sgd(0.3), batch, count=1)
    weights = {"distill": 0.8, "cross_entropy": 0.2, "features": 0.6}

    @jax.jit
    def loss(params):
        logits = model.apply({"params": params}, seen, train=False)
        values = {
            name: term(logits, batch) for name, term in ({"distill": plain, "cross_entropy": labels} | terms).items()
        }
        means = {name: value[known if name == "cross_entropy" else ...].mean() for name, value in values.items()}
        return sum(weights[name] * mean for name, mean in means.items()), means

    (value, means), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    np.testing.assert_allclose(metrics["loss"][0], value, rtol=1e-5)
    for name, mean in means.items():
        total, count = metrics[f"loss/{name}"]
        np.testing.assert_allclose(total / count, mean, rtol=1e-5)
    chex.assert_trees_all_close(
        state.params, jax.tree.map(lambda p, g: p - 0.3 * g, variables["params"], grads), rtol=1e-4, atol=1e-6
    )


def test_self_train_step_by_hand(tiny, batch):
    model, variables = tiny()
    step = steps.make_self_train_step(apply=make_apply(model), view=noisy, tx=optax.sgd(0.3), **SELF_TRAIN)
    state, metrics = run(step, variables, optax.sgd(0.3), batch, count=1)
    key = rng.at_step(rng.stream(jax.random.key(0), "augment"), 0)
    noised = noisy(batch["image"], jnp.arange(16), key)
    confident, labeled = batch["teacher_weight"] > 0, batch["labeled"] > 0
    clean = jax.nn.softmax(model.apply(variables, batch["image"], train=False))

    def loss(params):
        logits = model.apply({"params": params}, noised, train=False)
        log_p = jax.nn.log_softmax(logits)
        soft = jax.nn.softmax(batch["teacher_logits"] / 2)
        kl = jnp.sum(soft * (jnp.log(soft) - jax.nn.log_softmax(logits / 2)), -1)[confident].mean()
        pseudo = -jnp.sum(jax.nn.softmax(batch["teacher_logits"]) * log_p, -1)[confident].mean()
        consistency = jnp.sum(clean * (jnp.log(clean) - log_p), -1)[~labeled].mean()
        cross_entropy = losses.cross_entropy(logits, batch["label"])[labeled].mean()
        return 4 * kl + 0.5 * pseudo + 0.7 * consistency + 0.9 * cross_entropy

    value, grads = jax.value_and_grad(loss)(variables["params"])
    np.testing.assert_allclose(metrics["loss"][0], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["mask_rate"], (9, 11))
    chex.assert_trees_all_close(
        state.params, jax.tree.map(lambda p, g: p - 0.3 * g, variables["params"], grads), rtol=1e-4, atol=1e-6
    )


def test_hard_pseudo_labels_are_the_argmax(tiny, batch):
    model, variables = tiny()
    weights = {"temperature": 1.0, "alpha": 0.0, "beta": 1.0, "consistency": 0.0, "labeled": 0.0}
    step = steps.make_self_train_step(apply=make_apply(model), view=PLAIN, tx=optax.sgd(0.1), hard=True, **weights)
    _, metrics = run(step, variables, optax.sgd(0.1), batch, count=1)
    logits = model.apply(variables, batch["image"], train=False)
    expected = losses.cross_entropy(logits, batch["teacher_logits"].argmax(-1))[7:].mean()
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-5)


def test_a_batch_without_labels_or_confident_teachers_is_no_nan(tiny, batch):
    model, variables = tiny()
    step = steps.make_self_train_step(apply=make_apply(model), view=PLAIN, tx=optax.sgd(0.1), **SELF_TRAIN)
    none = batch | {"teacher_weight": np.zeros(16, np.float32), "weight": np.zeros(16, np.float32)}
    state, metrics = run(step, variables, optax.sgd(0.1), none)
    chex.assert_tree_all_finite(state.params)
    np.testing.assert_allclose(metrics["loss/distill"], (0, 0))


@pytest.mark.parametrize("method", ["supervised", "distill", "self_train"])
def test_three_harnesses_and_accumulation_agree(tiny, batch, method):
    """Masks are uneven over devices, BatchNorm is synchronised, and plain SGD would show a factor in the gradient."""
    _, variables = tiny(norm=True)

    def final(mode, accumulate=1):
        model, _ = tiny(norm=accumulate == 1, axis_name=parallel.axis_name(mode))
        shared = {"apply": make_apply(model), "view": noisy, "tx": optax.sgd(0.3), "accumulate": accumulate}
        shared["axis_name"] = parallel.axis_name(mode)
        teach = None
        if method == "supervised":
            step = steps.make_supervised_step(**shared)
        elif method == "distill":
            teach = teachers.make_teach(applies=[make_apply(model)], view=noisy)
            reader = teachers.make_reader(num_classes=3)
            step = steps.make_distill_step(teach=reader, temperature=2.0, alpha=0.5, beta=0.5, **shared)
        else:
            step = steps.make_self_train_step(**SELF_TRAIN, **shared)
        start = variables if accumulate == 1 else {"params": tiny()[1]["params"]}
        teacher = jax.tree.map(lambda x: x + 0.2, start)
        return run(step, start, optax.sgd(0.3), batch, mode=mode, teach=teach, teacher=teacher)

    state, metrics = final("jit")
    for mode in ("pmap", "shard_map"):
        other, other_metrics = final(mode)
        chex.assert_trees_all_close(other.params, state.params, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(other.batch_stats, state.batch_stats, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(other_metrics, metrics, rtol=1e-4, atol=1e-5)
    # Micro-batches change BatchNorm's statistics, so accumulation is compared on a net without it.
    whole, whole_metrics = final("jit", accumulate=2)
    for mode, parts in (("jit", 4), ("shard_map", 2)):
        other, other_metrics = final(mode, accumulate=parts)
        chex.assert_trees_all_close(other.params, whole.params, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(other_metrics, whole_metrics, rtol=1e-4, atol=1e-5)


def test_accumulation_equals_one_batch(tiny, batch):
    model, variables = tiny()
    make = lambda n: steps.make_self_train_step(
        apply=make_apply(model), view=noisy, tx=optax.sgd(0.3), accumulate=n, **SELF_TRAIN
    )
    whole, _ = run(make(1), variables, optax.sgd(0.3), batch)
    parts, _ = run(make(4), variables, optax.sgd(0.3), batch)
    chex.assert_trees_all_close(parts.params, whole.params, rtol=1e-5, atol=1e-6)


def test_frozen_leaves_are_bit_identical(tiny, batch):
    """With weight decay, clipping, Adam and BatchNorm in training mode, nothing frozen moves, statistics included."""
    model, variables = tiny(norm=True, dropout=0.2)
    made = optim.make_optimizer(
        variables["params"],
        rules=((r"backbone/.*", "frozen"), (".*", "head")),
        groups={"head": {"weight_decay": 0.1, "clip": 1.0, "learning_rate": 0.1}},
        total_steps=5,
        batch_stats=variables["batch_stats"],
    )
    apply = make_apply(model, frozen_norms=made.stages[0].frozen_norms)
    step = steps.make_supervised_step(apply=apply, view=PLAIN, tx=made.tx, frozen=made.stages[0].frozen, ema_decay=0.7)
    state, _ = run(step, variables, made.tx, batch, count=5, ema=True)
    chex.assert_trees_all_equal(state.params["backbone"], variables["params"]["backbone"])
    chex.assert_trees_all_equal(state.ema_params["backbone"], variables["params"]["backbone"])
    chex.assert_trees_all_equal(state.batch_stats, variables["batch_stats"])
    assert not np.allclose(state.params["head"]["kernel"], variables["params"]["head"]["kernel"])


def test_unfrozen_batch_statistics_move(tiny, batch):
    model, variables = tiny(norm=True)
    step = steps.make_supervised_step(apply=make_apply(model), view=PLAIN, tx=optax.sgd(0.1))
    state, _ = run(step, variables, optax.sgd(0.1), batch, count=1)
    mean = state.batch_stats["backbone"]["norm1"]["mean"]
    inputs = variables["params"]["backbone"]["layer1"]
    hidden = batch["image"].reshape(16, -1) @ inputs["kernel"] + inputs["bias"]
    np.testing.assert_allclose(mean, 0.01 * hidden.mean(0), rtol=1e-4, atol=1e-6)  # linen's momentum is 0.99


def test_frozen_backbone_is_not_differentiated(tiny, batch):
    model, variables = tiny()
    frozen = {"backbone": True, "head": False}
    frozen = {k: jax.tree.map(lambda _, k=k: frozen[k], v) for k, v in variables["params"].items()}
    make = lambda frozen: steps.make_supervised_step(
        apply=make_apply(model), view=PLAIN, tx=optax.sgd(0.1), frozen=frozen
    )
    state = TrainState.create(variables=variables, tx=optax.sgd(0.1))
    count = lambda step: str(jax.make_jaxpr(step)(state, batch, jax.random.key(0))).count("dot_general")
    # Three layers: 3 forward, 3 for the weights, 2 for the activations; frozen: 3 forward and the head's weights.
    assert count(make(None)) == 8 and count(make(frozen)) == 4


def test_ema_by_hand(tiny, batch):
    model, variables = tiny()
    step = steps.make_supervised_step(apply=make_apply(model), view=PLAIN, tx=optax.sgd(0.3), ema_decay=0.999)
    state, _ = run(step, variables, optax.sgd(0.3), batch, count=1, ema=True)
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, variables["params"], state.params)  # (1+0)/(10+0)
    chex.assert_trees_all_close(state.ema_params, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(state.variables()["params"], state.ema_params)
    chex.assert_trees_all_equal(state.variables(ema=False)["params"], state.params)


def test_same_seed_same_bits_other_seed_other_bits(tiny, batch):
    model, variables = tiny(dropout=0.5)
    step = steps.make_supervised_step(apply=make_apply(model), view=noisy, tx=optax.sgd(0.3))
    first, second, other = (run(step, variables, optax.sgd(0.3), batch, seed=seed)[0] for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first.params, second.params)
    assert not np.array_equal(first.params["head"]["kernel"], other.params["head"]["kernel"])


@pytest.mark.parametrize("mode", parallel.MODES)
def test_padded_evaluation_equals_numpy(tiny, batch, mode):
    model, variables = tiny(norm=True)
    mesh = parallel.make_mesh(mode)
    step = steps.make_eval_step(apply=make_apply(model), view=PLAIN, axis_name=parallel.axis_name(mode))
    compiled = parallel.parallelize(step, mode, mesh, args=("whole", "batch"), out=("whole", "batch"))
    metrics, logits = compiled(variables, parallel.shard_batch(batch, mode, mesh))
    expected = np.asarray(model.apply(variables, batch["image"], train=False))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    log_p = expected[:5] - np.log(np.exp(expected[:5]).sum(-1, keepdims=True))
    np.testing.assert_allclose(metrics["loss"], (-log_p[np.arange(5), batch["label"][:5]].sum(), 5), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], ((expected[:5].argmax(-1) == batch["label"][:5]).sum(), 5))


def test_bad_options(tiny):
    model, _ = tiny()
    shared = {"apply": make_apply(model), "view": PLAIN, "tx": optax.sgd(0.1)}
    with pytest.raises(UserError, match="temperature is 0"):
        steps.make_self_train_step(**shared, **(SELF_TRAIN | {"temperature": 0.0}))
    with pytest.raises(UserError, match="consistency is -1"):
        steps.make_self_train_step(**shared, **(SELF_TRAIN | {"consistency": -1.0}))
    with pytest.raises(UserError, match="ema_decay is 1"):
        steps.make_supervised_step(**shared, ema_decay=1.0)
    with pytest.raises(UserError, match="accumulate is 0"):
        steps.make_supervised_step(**shared, accumulate=0)
    with pytest.raises(UserError, match="does not divide by 4 devices: use 8 or 12"):
        parallel.check_batch(10, 4)
    with pytest.raises(UserError, match="parallel is 'gpu'"):
        parallel.check_mode("gpu")
