"""Rules, groups and freezing: what moves, by how much, and which mistakes are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from tlx import models, optim
from tlx.errors import UserError

PARAMS = {
    "backbone": {
        "stem": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)},
        "stage1": {"kernel": jnp.ones((3, 3))},
    },
    "head": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)},
}
SGD = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant"}
BOTH = ((r"backbone/.*", "body"), (r"head/.*", "head"))


def make(rules=BOTH, groups=None, **kwargs):
    groups = groups if groups is not None else {"body": SGD | {"learning_rate": 0.1}, "head": SGD}
    return optim.make_optimizer(PARAMS, rules=rules, groups=groups, total_steps=10, **kwargs)


def updates(tx, grads, params=PARAMS):
    return jax.jit(tx.update)(grads, tx.init(params), params)[0]


def test_update_ratio_is_the_learning_rate_ratio():
    tx = make(groups={"body": SGD | {"learning_rate": 0.01}, "head": SGD | {"learning_rate": 0.5}}).tx
    got = updates(tx, jax.tree.map(jnp.ones_like, PARAMS))
    np.testing.assert_allclose(got["backbone"]["stem"]["kernel"], -0.01, rtol=1e-6)
    np.testing.assert_allclose(got["head"]["kernel"], -0.5, rtol=1e-6)


def test_first_matching_rule_decides():
    rules = ((r"backbone/stem/.*", "frozen"), (r"backbone/.*", "body"), (r".*", "head"))
    labels = traverse_util.flatten_dict(make(rules).labels, sep="/")
    assert labels == {
        "backbone/stem/kernel": "frozen",
        "backbone/stem/bias": "frozen",
        "backbone/stage1/kernel": "body",
        "head/kernel": "head",
        "head/bias": "head",
    }


def test_frozen_group_has_no_state_and_zero_updates():
    adam = {"head": {"optimizer": "adam", "weight_decay": 0.1, "clip": 1.0}}
    made = make(rules=((r"backbone/.*", "frozen"), (r"head/.*", "head")), groups=adam)
    sizes = [leaf.size for leaf in jax.tree.leaves(made.tx.init(PARAMS))]
    assert sum(sizes) == 2 * (12 + 4) + 2  # Adam's two moments of the head, and two step counters
    got = updates(made.tx, jax.tree.map(lambda p: 1e6 * jnp.ones_like(p), PARAMS))
    for leaf in jax.tree.leaves(got["backbone"]):
        np.testing.assert_array_equal(leaf, 0)


def test_clip_does_not_see_other_groups():
    groups = {"body": SGD | {"learning_rate": 1.0}, "head": SGD | {"learning_rate": 1.0, "clip": 2.0}}
    grads = {"backbone": jax.tree.map(lambda p: 1e3 * jnp.ones_like(p), PARAMS["backbone"])}
    grads["head"] = jax.tree.map(jnp.ones_like, PARAMS["head"])
    got = updates(make(groups=groups).tx, grads)
    np.testing.assert_allclose(optax.tree.norm(got["head"]), 2.0, rtol=1e-5)  # its own norm was sqrt(16) = 4


def test_decay_is_decoupled_and_on_kernels_only():
    groups = {"body": SGD, "head": SGD | {"learning_rate": 0.5, "weight_decay": 0.1}}
    params = PARAMS | {"head": {"kernel": 2 * jnp.ones((3, 4)), "bias": jnp.ones(4)}}
    got = updates(make(groups=groups).tx, jax.tree.map(jnp.zeros_like, params), params)
    np.testing.assert_allclose(got["head"]["kernel"], -0.5 * 0.1 * 2, rtol=1e-6)
    np.testing.assert_array_equal(got["head"]["bias"], 0)


def test_l2_sp_pulls_to_the_start_by_hand():
    rate, strength = 0.5, 0.1
    made = make(groups={"body": SGD | {"learning_rate": rate, "l2_sp": strength}, "head": SGD})
    params, state = PARAMS, made.tx.init(PARAMS)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    for _ in range(3):
        got, state = jax.jit(made.tx.update)(grads, state, params)
        params = optax.apply_updates(params, got)
    # d = p - p0 obeys d <- d - rate (1 + strength d)
    d = 0.0
    for _ in range(3):
        d -= rate * (1 + strength * d)
    for new, old in zip(jax.tree.leaves(params["backbone"]), jax.tree.leaves(PARAMS["backbone"]), strict=True):
        np.testing.assert_allclose(new, old + d, rtol=1e-6)


def test_max_norm_bounds_each_units_incoming_weights():
    groups = {"body": SGD, "head": SGD | {"learning_rate": 1.0, "max_norm": 1.5}}
    grads = jax.tree.map(jnp.zeros_like, PARAMS)
    grads["head"]["kernel"] = grads["head"]["kernel"].at[:, 0].set(-9.0).at[:, 1].set(0.9)
    new = optax.apply_updates(PARAMS, updates(make(groups=groups).tx, grads))["head"]["kernel"]
    norms = jnp.linalg.norm(new, axis=0)
    np.testing.assert_allclose(norms[0], 1.5, rtol=1e-6)  # 10 each -> norm 17, brought to the limit
    np.testing.assert_allclose(new[:, 1], 0.1, rtol=1e-5)  # within it: left alone
    np.testing.assert_allclose(norms[2:], 1.5, rtol=1e-6)  # no gradient, but sqrt(3) was over the limit


def run(groups, params, grads, steps, rules=BOTH):
    """The parameters after `steps` updates with the same gradients."""
    tx = optim.make_optimizer(params, rules=rules, groups=groups, total_steps=10).tx
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(steps):
        got, state = update(grads, state, params)
        params = optax.apply_updates(params, got)
    return params


def normal(seed, shapes):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), shapes)


def test_max_norm_of_a_convolution_is_over_all_that_enters_a_channel():
    params = {"head": {"kernel": jnp.ones((2, 2, 3, 2)).at[..., 1].set(0.1), "bias": jnp.full(2, 9.0)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    new = run({"head": SGD | {"max_norm": 1.0}}, params, zeros, 1, rules=((".*", "head"),))["head"]
    np.testing.assert_allclose(new["kernel"][..., 0], 1 / np.sqrt(12), rtol=1e-6)
    np.testing.assert_array_equal(new["kernel"][..., 1], params["head"]["kernel"][..., 1])
    np.testing.assert_array_equal(new["bias"], 9)


def test_max_norm_holds_after_every_step_and_changes_nothing_within():
    params, grads = normal(0, PARAMS), normal(1, PARAMS)
    for optimizer in ("sgd", "adam"):
        group = {"optimizer": optimizer, "learning_rate": 0.3, "weight_decay": 0.1}
        free = run({"body": group, "head": group}, params, grads, 5)
        bound = run({"body": group, "head": group | {"max_norm": 1.0}}, params, grads, 5)
        assert jnp.linalg.norm(free["head"]["kernel"], axis=0).max() > 1.1
        assert jnp.linalg.norm(bound["head"]["kernel"], axis=0).max() <= 1 + 1e-6
        loose = run({"body": group, "head": group | {"max_norm": 100.0}}, params, grads, 5)
        jax.tree.map(np.testing.assert_array_equal, loose, free)
        jax.tree.map(np.testing.assert_array_equal, bound["backbone"], free["backbone"])
        np.testing.assert_array_equal(bound["head"]["bias"], free["head"]["bias"])


def test_max_norm_comes_after_the_decay():
    """A column of norm 3 decays to 1.5 and stays; one of norm 8 decays to 4 and is brought to 2."""
    params = PARAMS | {"head": {"kernel": jnp.zeros((3, 4)).at[0, 0].set(3.0).at[1, 1].set(-8.0), "bias": jnp.ones(4)}}
    groups = {"body": SGD, "head": SGD | {"learning_rate": 1.0, "weight_decay": 0.5, "max_norm": 2.0}}
    new = run(groups, params, jax.tree.map(jnp.zeros_like, params), 1)["head"]["kernel"]
    np.testing.assert_allclose(new, jnp.zeros((3, 4)).at[0, 0].set(1.5).at[1, 1].set(-2.0), rtol=1e-6)


def test_max_norm_leaves_the_frozen_the_resting_and_what_is_no_kernel():
    big = jax.tree.map(lambda p: 9 * jnp.ones_like(p), PARAMS)
    big["head"]["positions"] = 9 * jnp.ones((1, 3, 4))
    tight = SGD | {"learning_rate": 1e-3, "max_norm": 1.0}
    rules = ((r"backbone/stem/.*", "frozen"), (r"backbone/.*", "late"), (".*", "head"))
    new = run({"late": tight | {"start": 0.5}, "head": tight}, big, jax.tree.map(jnp.zeros_like, big), 5, rules=rules)
    jax.tree.map(np.testing.assert_array_equal, new["backbone"], big["backbone"])
    np.testing.assert_array_equal(new["head"]["positions"], 9)
    np.testing.assert_allclose(jnp.linalg.norm(new["head"]["kernel"], axis=0), 1, rtol=1e-6)
    after = run({"late": tight | {"start": 0.5}, "head": tight}, big, jax.tree.map(jnp.zeros_like, big), 6, rules=rules)
    np.testing.assert_allclose(jnp.linalg.norm(after["backbone"]["stage1"]["kernel"], axis=0), 1, rtol=1e-6)


def test_layer_decay_multiplies_level_by_level():
    groups = {"all": SGD | {"learning_rate": 1.0, "layer_decay": 0.5}}
    made = make(rules=((".*", "all"),), groups=groups, levels=("stem", "stage1"))
    got = updates(made.tx, jax.tree.map(jnp.ones_like, PARAMS))
    np.testing.assert_allclose(got["head"]["kernel"], -1.0)
    np.testing.assert_allclose(got["backbone"]["stage1"]["kernel"], -0.5)
    np.testing.assert_allclose(got["backbone"]["stem"]["kernel"], -0.25)
    rates = {row["group"]: row["learning_rate"] for row in optim.group_table(PARAMS, made)}
    assert rates == {"all@stem": 0.25, "all@stage1": 0.5, "all@head": 1.0}


def test_a_transformers_levels_slow_down_and_only_its_kernels_decay():
    model = models.build("vit_ti16", num_classes=3, blocks=2, width=0.3, patch=4)
    init = lambda key: model.init(key, jnp.zeros((1, 8, 8, 1)), train=False)["params"]
    params = jax.tree.map(lambda p: jnp.ones(p.shape), jax.eval_shape(init, jax.random.key(0)))
    groups = {"all": SGD | {"learning_rate": 1.0, "layer_decay": 0.5, "weight_decay": 0.25}}
    levels = models.levels(model, (8, 8, 1))
    made = optim.make_optimizer(params, rules=((".*", "all"),), groups=groups, total_steps=10, levels=levels)
    got = updates(made.tx, jax.tree.map(jnp.zeros_like, params), params)
    depth = {"embed": 4, "block1": 3, "block2": 2, "norm": 1}  # levels below the head
    for path, update in traverse_util.flatten_dict(got).items():
        rate = 0.5 ** depth[path[1]] if path[0] == "backbone" else 1.0
        np.testing.assert_array_equal(update, -0.25 * rate if path[-1] == "kernel" else 0.0, err_msg="/".join(path))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0, 0.5, 1, 1, 1]), ("linear", [0, 0.5, 1, 0.5, 0]), ("cosine", [0, 0.5, 1, 0.5, 0])],
)
def test_schedules(schedule, expected):
    group = optim.GROUP_DEFAULTS | {"learning_rate": 1.0, "schedule": schedule, "warmup": 0.2}
    rate = optim.make_schedule(group, 20)
    np.testing.assert_allclose([rate(step) for step in (0, 2, 4, 12, 20)], expected, atol=1e-6)


def test_group_table_counts():
    rows = optim.group_table(PARAMS, make(rules=((r"backbone/.*", "frozen"), (".*", "head")), groups={"head": SGD}))
    assert [(r["group"], r["tensors"], r["parameters"]) for r in rows] == [("frozen", 3, 18), ("head", 2, 16)]


def test_stop_frozen_leaves_the_backward_pass_out():
    """Of the two matrix products' four possible gradient products, only the trainable one's is traced."""
    loss = lambda p, x, frozen: (x @ optim.stop_frozen(p, frozen)["a"] @ optim.stop_frozen(p, frozen)["b"]).sum()
    params, x = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 4))}, jnp.ones((5, 2))
    count = lambda frozen: str(jax.make_jaxpr(jax.grad(lambda p: loss(p, x, frozen)))(params)).count("dot_general")
    assert count({"a": True, "b": False}) == count(None) - 2


def test_a_group_with_a_start_rests_until_then_and_begins_as_if_new():
    body = {"optimizer": "adam", "learning_rate": 0.1, "weight_decay": 0.1, "clip": 1.0, "schedule": "linear"}
    late = make(groups={"body": body | {"start": 0.4}, "head": SGD})
    assert [stage.begin for stage in late.stages] == [0, 4]
    for stage, frozen in zip(late.stages, (True, False), strict=True):
        assert set(jax.tree.leaves(stage.frozen["backbone"])) == {frozen}
        assert set(jax.tree.leaves(stage.frozen["head"])) == {False}
    assert [float(late.schedules["body"](step)) for step in (0, 3, 4, 7)] == pytest.approx([0, 0, 0.1, 0.05])

    params, state, update = PARAMS, late.tx.init(PARAMS), jax.jit(late.tx.update)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    for _ in range(4):
        got, state = update(grads, state, params)
        params = optax.apply_updates(params, got)
        jax.tree.map(np.testing.assert_array_equal, params["backbone"], PARAMS["backbone"])
        assert not np.array_equal(params["head"]["bias"], PARAMS["head"]["bias"])
    # From there on as a run of its own, of the 6 steps that are left: fresh moments, its own schedule.
    fresh = optim.make_optimizer(PARAMS, rules=BOTH, groups={"body": body, "head": SGD}, total_steps=6).tx
    fresh_params, fresh_state = PARAMS, fresh.init(PARAMS)
    for _ in range(6):
        got, state = update(grads, state, params)
        params = optax.apply_updates(params, got)
        got, fresh_state = jax.jit(fresh.update)(grads, fresh_state, fresh_params)
        fresh_params = optax.apply_updates(fresh_params, got)
    for a, b in zip(jax.tree.leaves(params["backbone"]), jax.tree.leaves(fresh_params["backbone"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    rows = {row["group"]: row for row in optim.group_table(PARAMS, late)}
    assert rows["body"]["from_step"] == 4 and rows["head"]["from_step"] == 0


def test_a_resting_groups_norms_rest_with_it():
    params = {"backbone": {"norm1": {"scale": jnp.ones(2)}}, "head": {"kernel": jnp.ones((2, 2))}}
    stats = {"backbone": {"norm1": {"mean": jnp.zeros(2)}}}
    groups = {"body": SGD | {"start": 0.5, "layer_decay": 0.5}, "head": SGD}
    made = optim.make_optimizer(params, rules=BOTH, groups=groups, total_steps=10, levels=("norm1",), batch_stats=stats)
    assert [(stage.begin, set(stage.frozen_norms)) for stage in made.stages] == [(0, {"backbone/norm1"}), (5, set())]


def test_frozen_norms_follow_their_parameters():
    params = {
        "backbone": {"norm1": {"scale": jnp.ones(2)}, "norm2": {"scale": jnp.ones(2)}, "norm3": {}},
        "head": {"k": jnp.ones(2)},
    }
    stats = {"backbone": {name: {"mean": jnp.ones(2), "var": jnp.ones(2)} for name in ("norm1", "norm2", "norm3")}}
    rules = ((r"backbone/norm[13]/.*", "frozen"), (".*", "rest"))
    made = optim.make_optimizer(params, rules=rules, groups={"rest": SGD}, total_steps=1, batch_stats=stats)
    assert made.stages[0].frozen_norms == {"backbone/norm1", "backbone/norm3"}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rules": ((r"backbone/.*", "body"),)}, "no rule matches the parameter 'head/"),
        ({"rules": ((r"trunk/.*", "body"), *BOTH)}, r"'trunk/\.\*', 'body'\) decides nothing: it matches no parameter"),
        ({"rules": (*BOTH, (r"head/kernel", "body"))}, "decides nothing: every parameter it matches was taken"),
        ({"rules": ((r"backbone/.*", "boddy"), (".*", "head"))}, "did you mean 'body'"),
        ({"rules": ((r"backbone/(", "body"), (".*", "head"))}, "not a regular expression"),
        ({"rules": (".*", "head")}, r"optim.rules has '.\*': each of them is two texts"),
        ({"rules": (3,)}, "optim.rules has 3: each of them"),
        ({"rules": ((".*", "head", "body"),)}, "optim.rules has .* each of them"),
        ({"rules": ((".*", "head"),)}, "group 'body' is used by no rule"),
        ({"rules": ((".*", "frozen"),), "groups": {}}, "every parameter is frozen"),
        ({"groups": {"body": {"lr": 1}, "head": {}}}, "unknown option 'lr'"),
        ({"groups": {"body": {"learning_rat": 1}, "head": {}}}, "did you mean 'learning_rate'"),
        ({"groups": {"body": {"learning_rate": -1}, "head": {}}}, "learning_rate is -1"),
        ({"groups": {"body": {"learning_rate": 0}, "head": {}}}, "group 'frozen' instead"),
        ({"groups": {"body": {"optimizer": "adamm"}, "head": {}}}, "optimizer is 'adamm'"),
        ({"groups": {"body": {"warmup": 2.0}, "head": {}}}, "warmup is 2.0"),
        ({"groups": {"body": {"max_norm": -1.0}, "head": {}}}, "max_norm is -1.0"),
        ({"groups": {"body": {"max_norm": float("inf")}, "head": {}}}, "max_norm is inf"),
        ({"groups": {"body": {"layer_decay": 0.5}, "head": {}}}, "none of the model's levels"),
        ({"groups": {"body": {"start": 0.5}, "head": {"start": 0.3}}}, "no group learns before"),
        ({"groups": {"body": {"start": 1.5}, "head": {}}}, "start is 1.5"),
        ({"groups": {"body": {"restart": 0.5}, "head": {}}}, "give both a restart after the start and its rate"),
        ({"groups": {"body": {"start": 0.5, "restart": 0.5, "restart_rate": 1.0}, "head": {}}}, "a restart after the"),
    ],
)
def test_mistakes_are_named(kwargs, message):
    with pytest.raises(UserError, match=message):
        make(**kwargs)
