"""Networks: one shape of tree, published sizes, and randomness and statistics only where asked for."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tlx import models
from tlx.errors import UserError
from tlx.models.efficientnet import round_width
from tlx.models.layers import StochasticDepth, max_pool_2x2, summarize
from tlx.models.resnet import Stem

KEY = jax.random.key(0, impl="rbg")  # initialisers compile four times as fast as with threefry
SMALL = {  # name -> options that make it quick
    "mlp": {"widths": (6, 5), "dropout": 0.5, "input_dropout": 0.2},
    "cnn": {"widths": (4, 6), "dense": 7, "dropout": 0.5, "norm": "batch"},
    "resnet8": {"width": 0.25, "dropout": 0.5, "stochastic_depth": 0.5, "zero_init_residual": False},
    "vit_ti16": {"blocks": 1, "width": 0.25, "patch": 4, "dropout": 0.5, "stochastic_depth": 0.5},
}


def images(batch=3, size=8, channels=1, seed=0):
    return jax.random.normal(jax.random.key(seed), (batch, size, size, channels))


@functools.cache
def shapes(name, image_shape, *, num_classes=10, **options):
    """The shapes of the variables, without running anything."""
    model = models.build(name, num_classes=num_classes, **options)
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(lambda key, x: model.init(key, x, train=False), KEY, x)


def modules(name, **options):
    """The modules that a forward pass calls, by path and in order."""
    found = {}

    def record(call, args, kwargs, context):
        found["/".join(context.module.path)] = context.module
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes.__wrapped__(name, (16, 16, 3), **options)
    return found


class Small(NamedTuple):
    """A quick model, compiled: without jit each operation of a network compiles on its own, at ten times the cost."""

    model: nn.Module
    variables: dict  # the same whatever the options given to `small`
    train: Callable  # (variables, key, x) -> (logits, {"batch_stats"})
    evaluate: Callable  # (variables, x) -> ((logits, levels), {"batch_stats"})


@functools.cache
def initialized(name, **options):
    model = models.build(name, num_classes=3, **(SMALL[name] | options))
    return jax.jit(lambda key: model.init(key, images(), train=False))(KEY)


@functools.cache
def small(name, **options):
    model = models.build(name, num_classes=3, **(SMALL[name] | options))
    return Small(
        model,
        initialized(name),
        jax.jit(lambda v, key, x: model.apply(v, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])),
        jax.jit(lambda v, x: model.apply(v, x, train=False, features=True, mutable=["batch_stats"])),
    )


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_is_a_backbone_and_a_head(name):
    variables = shapes(name, (32, 32, 3))
    assert set(variables["params"]) == {"backbone", "head"}
    assert set(variables["params"]["head"]) == {"kernel", "bias"}
    assert variables["params"]["head"]["kernel"].shape[1] == 10
    assert set(variables.get("batch_stats", {"backbone": ()})) == {"backbone"}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", models.MODELS)
def test_every_parameter_is_under_its_level_and_the_levels_are_in_order(name):
    names = models.levels(models.build(name, num_classes=10), (32, 32, 3))
    paths = traverse_util.flatten_dict(shapes(name, (32, 32, 3))["params"]["backbone"])
    assert {path[0] for path in paths} == set(names)
    expected = {"mlp": ("layer1", "layer2"), "cnn": ("stage1", "stage2", "dense")}
    expected |= {f"vit_{size}16": ("embed", *(f"block{i}" for i in range(1, 13)), "norm") for size in ("ti", "s", "b")}
    lite = ("stem", *(f"stage{i}" for i in range(1, 8)), "conv_head")
    expected |= {f"efficientnet_lite{i}": lite for i in range(3)}
    stages = 4 if name in ("resnet18", "resnet34", "resnet50") else 3
    assert names == expected.get(name, ("stem", *(f"stage{i}" for i in range(1, stages + 1))))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mlp", {"widths": (6, 5)}, {"layer1": (6,), "layer2": (5,), "pooled": (5,)}),
        (
            "cnn",
            {"widths": (4, 6), "dense": 7},
            {"stage1": (4, 5, 4), "stage2": (2, 2, 6), "dense": (7,), "pooled": (7,)},
        ),
        ("cnn", {"widths": (4, 6), "dense": 0}, {"stage1": (4, 5, 4), "stage2": (2, 2, 6), "pooled": (24,)}),
        (
            "resnet8",
            {"width": 0.5},
            {"stem": (8, 10, 8), "stage1": (8, 10, 8), "stage2": (4, 5, 16), "stage3": (2, 3, 32), "pooled": (32,)},
        ),
        (
            "efficientnet_lite0",
            {"width": 0.5},
            {"stem": (4, 5, 16), "stage1": (4, 5, 8), "stage2": (2, 3, 16), "stage3": (1, 2, 24), "stage4": (1, 1, 40)}
            | {"stage5": (1, 1, 56), "stage6": (1, 1, 96), "stage7": (1, 1, 160), "conv_head": (1, 1, 640)}
            | {"pooled": (640,)},
        ),
        (
            "vit_ti16",
            {"blocks": 2, "patch": 2, "width": 0.5},
            {"embed": (21, 128), "block1": (21, 128), "block2": (21, 128), "norm": (21, 128), "pooled": (128,)},
        ),
    ],
)
def test_levels_keep_their_order_and_shapes_through_jit(name, options, expected):
    model = models.build(name, num_classes=3, **options)
    x = jax.ShapeDtypeStruct((2, 8, 10, 1), jnp.float32)
    call = lambda key, x: model.init_with_output(key, x, train=False, features=True)[0]
    logits, levels = jax.eval_shape(call, KEY, x)
    assert logits.shape == (2, 3)
    assert [(name, level.shape) for name, level in levels.items()] == [(n, (2, *s)) for n, s in expected.items()]


def test_resnet50_levels_at_imagenet_size():
    model = models.build("resnet50", num_classes=1000)
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    call = lambda key, x: model.init_with_output(key, x, train=False, features=True)[0]
    _, levels = jax.eval_shape(call, KEY, x)
    sizes = {"stem": (56, 64), "stage1": (56, 256), "stage2": (28, 512), "stage3": (14, 1024), "stage4": (7, 2048)}
    assert {n: level.shape for n, level in levels.items()} == {"pooled": (2, 2048)} | {
        n: (2, size, size, channels) for n, (size, channels) in sizes.items()
    }


@pytest.mark.parametrize(
    ("name", "num_classes", "image_shape", "expected"),
    [
        # Stem 464; a block of c channels 2 * 9 c^2 + 4 c, the first of stage 2 and 3: 14,528 and 57,728 with its
        # projection; head 650. The paper's parameter-free shortcuts (option A) have 2,752 fewer: 269,722 in resnet20.
        ("resnet8", 10, (32, 32, 3), 464 + 4_672 + 14_528 + 57_728 + 650),
        ("resnet20", 10, (32, 32, 3), 272_474),
        ("resnet56", 10, (32, 32, 3), 855_770),
        ("resnet18", 1000, (32, 32, 3), 11_689_512),  # torchvision's
        ("resnet34", 1000, (32, 32, 3), 21_797_672),  # torchvision's
        ("resnet50", 1000, (32, 32, 3), 25_557_032),  # torchvision's
        ("efficientnet_lite0", 1000, (32, 32, 3), 4_652_008),  # the published weights', as the next two
        ("efficientnet_lite1", 1000, (32, 32, 3), 5_416_680),
        ("efficientnet_lite2", 1000, (32, 32, 3), 6_092_072),
        ("vit_ti16", 1000, (224, 224, 3), 5_717_416),  # timm's, as the next two
        ("vit_s16", 1000, (224, 224, 3), 22_050_664),
        ("vit_b16", 1000, (224, 224, 3), 86_567_656),
        ("mlp", 10, (28, 28, 1), 784 * 800 + 800 + 800 * 800 + 800 + 800 * 10 + 10),
        ("cnn", 10, (8, 8, 1), 9 * 32 + 32 + 9 * 32 * 64 + 64 + 2 * 2 * 64 * 128 + 128 + 128 * 10 + 10),
    ],
)
def test_parameter_counts_are_the_published_ones(name, num_classes, image_shape, expected):
    variables = shapes(name, image_shape, num_classes=num_classes)
    assert models.parameter_count(variables["params"]) == expected


def test_paths_name_stage_block_and_layer():
    paths = traverse_util.flatten_dict(shapes("resnet50", (32, 32, 3)), sep="/")
    for path in (
        "params/backbone/stem/conv/kernel",
        "params/backbone/stage1/block1/shortcut_conv/kernel",
        "params/backbone/stage4/block3/conv3/kernel",
        "batch_stats/backbone/stage4/block3/norm3/var",
    ):
        assert path in paths
    assert "params/backbone/stage1/block2/shortcut_conv/kernel" not in paths


def test_resnet50_strides_its_3x3_as_torchvision_does():
    convs = {path: module for path, module in modules("resnet50").items() if isinstance(module, nn.Conv)}
    strided = {path.removeprefix("backbone/") for path, conv in convs.items() if conv.strides == (2, 2)}
    assert strided == {"stem/conv"} | {
        f"stage{i}/block1/{layer}" for i in (2, 3, 4) for layer in ("conv2", "shortcut_conv")
    }
    assert convs["backbone/stage2/block1/conv2"].kernel_size == (3, 3)


@pytest.mark.parametrize(("name", "count"), [("cnn", 2), ("resnet8", 1 + 3 * 2 + 2)])
def test_every_batch_norm_gets_the_axis_and_the_published_constants(name, count):
    options = {"norm": "batch"} if name == "cnn" else {}
    called = modules(name, axis_name="data", dtype=jnp.bfloat16, **options).values()
    norms = [module for module in called if isinstance(module, nn.BatchNorm)]
    assert len(norms) == count
    assert {(n.axis_name, n.momentum, n.epsilon, jnp.dtype(n.dtype).name) for n in norms} == {
        ("data", 0.9, 1e-5, "bfloat16")
    }


def test_strided_layers_pad_as_torch_does():
    x = np.abs(np.asarray(images(1, 16)))  # positive, so that the ReLU passes it
    stem = Stem(1, small_images=False, dtype=jnp.float32, axis_name=None)
    variables = stem.init(KEY, x, train=False)
    center = jnp.zeros((7, 7, 1, 1)).at[3, 3].set(1.0)
    params = variables["params"] | {"conv": {"kernel": center}}
    found = stem.apply(variables | {"params": params}, x, train=False)[0, :, :, 0]
    strided = np.pad(x[0, ::2, ::2, 0], 1)  # symmetric padding centers the windows on 0, 2, 4, ...; "SAME" on 1, 3, ...
    expected = [[strided[i : i + 3, j : j + 3].max() for j in range(0, 8, 2)] for i in range(0, 8, 2)]
    np.testing.assert_allclose(found, np.asarray(expected) / np.sqrt(1 + 1e-5), rtol=1e-6)


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_batch_stats_move_in_training_only(name):
    net = small(name)
    old = net.variables["batch_stats"]
    _, mutated = net.train(net.variables, KEY, images())
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), old, mutated["batch_stats"])
    assert all(jax.tree.leaves(moved))
    _, mutated = net.evaluate(net.variables, images())
    jax.tree.map(np.testing.assert_array_equal, mutated["batch_stats"], old)


def test_batch_norm_momentum_and_axis_name():
    whole, split = small("cnn", dropout=0.0), small("cnn", dropout=0.0, axis_name="data")
    x = images(8)
    logits, mutated = jax.vmap(split.train, (None, None, 0), axis_name="data")(
        whole.variables, KEY, x.reshape(4, 2, 8, 8, 1)
    )
    expected_logits, expected = whole.train(whole.variables, KEY, x)
    np.testing.assert_allclose(logits.reshape(8, 3), expected_logits, atol=1e-5)
    for found, wanted in zip(jax.tree.leaves(mutated), jax.tree.leaves(expected)):
        np.testing.assert_allclose(found, np.broadcast_to(wanted, found.shape), atol=1e-6)
    conv = nn.Conv(4, (3, 3), use_bias=False)
    first = conv.apply({"params": whole.variables["params"]["backbone"]["stage1"]["conv"]}, x)
    mean = expected["batch_stats"]["backbone"]["stage1"]["norm"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * np.mean(first, (0, 1, 2)), atol=1e-6)  # 0.9 * 0 + 0.1 * mean


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_batch_norm_is_told_at_call_time_so_that_an_interceptor_can_freeze_it(name):
    net, told = small(name), []

    def rest(call, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            told.append(kwargs)
            kwargs = kwargs | {"use_running_average": True}
        return call(*args, **kwargs)

    run = lambda v, key, x: net.model.apply(v, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
    with nn.intercept_methods(rest):
        _, mutated = jax.jit(run)(net.variables, KEY, images())
    assert told == [{"use_running_average": False}] * {"cnn": 2, "resnet8": 9}[name]
    jax.tree.map(np.testing.assert_array_equal, mutated["batch_stats"], net.variables["batch_stats"])


@pytest.mark.parametrize("name", SMALL)
def test_a_network_goes_on_from_each_of_its_levels(name):
    """The logits from a level's activation are those from the images: clean, and in training with the same keys."""
    net, x = small(name), images()
    names = (*models.levels(net.model, x.shape[1:]), "pooled")

    def go_on(variables, key, x, train, starts):
        run = functools.partial(net.model.apply, variables, train=train, rngs={"dropout": key}, mutable=["batch_stats"])
        (logits, levels), mutated = run(x, features=True)
        if name != "vit_ti16":  # before the dropout of the head's input
            last = levels[names[-2]]
            levels["pooled"] = last.mean((1, 2)) if last.ndim == 4 else last
        return logits, mutated, {level: run(levels[level], start=level) for level in starts}

    shapes = jax.eval_shape(functools.partial(go_on, train=True, starts=names), net.variables, KEY, x)
    assert {logits.shape for logits, _ in shapes[2].values()} == {(3, 3)}
    starts, modes = names, (False, True)
    if name == "efficientnet_lite0":  # ten levels in two modes take a minute to compile
        starts, modes = ("stage7", "conv_head", "pooled"), (True,)
    for train in modes:
        logits, mutated, found = jax.jit(go_on, static_argnums=(3, 4))(net.variables, KEY, x, train, starts)
        old, new = (traverse_util.flatten_dict(v.get("batch_stats", {}), sep="/") for v in (net.variables, mutated))
        for level, (from_level, left) in found.items():
            np.testing.assert_allclose(from_level, logits, rtol=1e-5, atol=1e-6, err_msg=level)
            below = tuple(f"backbone/{name}/" for name in names[: names.index(level) + 1])
            for path, value in traverse_util.flatten_dict(left.get("batch_stats", {}), sep="/").items():
                expected = (old if path.startswith(below) else new)[path]
                np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6, err_msg=f"{level}: {path}")


@pytest.mark.parametrize("name", SMALL)
def test_a_head_on_an_earlier_level_reads_what_is_there_and_leaves_out_the_rest(name):
    net, x = small(name), images()
    level = models.levels(net.model, x.shape[1:])[-2]
    low = models.build(name, num_classes=3, head_level=level, **SMALL[name])
    variables = jax.jit(lambda key: low.init(key, x, train=False))(KEY)
    full = traverse_util.flatten_dict(net.variables["params"]["backbone"], sep="/")
    kept = traverse_util.flatten_dict(variables["params"]["backbone"], sep="/")
    names = models.levels(low, x.shape[1:])
    assert names[-1] == level and set(kept) == {path for path in full if path.split("/")[0] in names}
    assert all(np.array_equal(kept[path], full[path]) for path in kept)  # the same keys: no level moves another's

    (logits, _), _ = jax.jit(lambda v, x: low.apply(v, x, train=False, features=True, mutable=["batch_stats"]))(
        variables, x
    )
    (_, levels), _ = net.evaluate(net.variables, x)
    head = variables["params"]["head"]
    np.testing.assert_allclose(logits, levels[level].reshape(3, -1) @ head["kernel"] + head["bias"], atol=1e-5)


def test_a_map_too_large_to_read_is_averaged():
    x = jax.random.normal(KEY, (2, 8, 8, 65))
    np.testing.assert_allclose(summarize(x), x.mean((1, 2)), atol=1e-6)
    assert summarize(x[..., :64]).shape == (2, 4096) and summarize(x[:, 0]).shape == (2, 520)


@pytest.mark.parametrize(("end", "start"), [("stage3", ""), ("stage1", "stage2")])
def test_levels_out_of_reach_are_refused(end, start):
    model = models.build("cnn", num_classes=3, head_level=end)
    with pytest.raises(UserError, match="did you mean 'stage2'|cannot go on from 'stage2'"):
        jax.eval_shape(lambda x: model.init(KEY, x, train=False, start=start), images())


def test_an_unknown_level_is_named():
    net = small("cnn")
    with pytest.raises(UserError, match=r"no level 'stage3' \(did you mean 'stage2'\?\): it has stage1, stage2, dense"):
        net.model.apply(net.variables, images(), train=False, start="stage3")


@pytest.mark.parametrize("name", SMALL)
def test_training_is_random_and_evaluation_is_not(name):
    net, x = small(name), images()
    first, second = (net.train(net.variables, key, x)[0] for key in (KEY, jax.random.fold_in(KEY, 1)))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(first, net.train(net.variables, KEY, x)[0])
    assert net.evaluate(net.variables, x)[0][0].shape == (3, 3)  # there is no rng to use
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        jax.eval_shape(lambda v: net.model.apply(v, x, train=True, mutable=["batch_stats"]), net.variables)


@pytest.mark.parametrize("name", SMALL)
def test_without_noise_training_needs_no_rng(name):
    rates = {option: 0.0 for option in SMALL[name] if "drop" in option or "depth" in option}
    model = models.build(name, num_classes=3, **(SMALL[name] | rates))
    call = lambda v: model.apply(v, images(), train=True, mutable=["batch_stats"])
    assert jax.eval_shape(call, small(name).variables)[0].shape == (3, 3)


def test_stochastic_depth_keeps_the_expectation_and_drops_whole_examples():
    count, rate = 20_000, 0.25
    weights = jnp.array([[1.0, 2.0], [-3.0, 0.5]])
    x = jnp.tile(jnp.array([[0.7, -0.4]]), (count, 1))
    layer = StochasticDepth(rate)
    net = jax.jit(
        lambda x, train: x + layer.apply({}, x @ weights, train=train, rngs={"dropout": KEY}), static_argnums=1
    )
    deterministic, noisy = net(x, False), net(x, True)
    np.testing.assert_array_equal(deterministic, x + x @ weights)
    branch = np.asarray((noisy - x) / (x @ weights))
    np.testing.assert_allclose(branch[:, 0], branch[:, 1], atol=1e-5)  # one draw for the whole example
    np.testing.assert_allclose(np.unique(branch.round(3)), [0, 1.333])
    error = 5 * np.abs(x[0] @ weights) * np.sqrt(rate / (1 - rate) / count)  # five standard errors
    assert np.all(np.abs(noisy.mean(0) - deterministic[0]) < error)


def test_stochastic_depth_of_zero_is_the_identity():
    x = images()
    np.testing.assert_array_equal(StochasticDepth(0.0).apply({}, x, train=True), x)


def test_stochastic_depth_grows_linearly_over_the_blocks():
    called = modules("resnet20", stochastic_depth=0.9)
    rates = [module.rate for module in called.values() if isinstance(module, StochasticDepth)]
    np.testing.assert_allclose(rates, np.arange(1, 10) / 10)


def test_zero_init_makes_every_block_start_as_the_identity():
    variables = initialized("resnet8", zero_init_residual=True)
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    zero = {path for path, value in params.items() if path.endswith("scale") and not np.any(value)}
    assert zero == {f"backbone/stage{i}/block1/norm2/scale" for i in (1, 2, 3)}
    (_, levels), _ = small("resnet8").evaluate(variables, images())
    np.testing.assert_array_equal(levels["stage1"], levels["stem"])


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computes_in_bfloat16_between_float32_ends(name):
    exact, half = small(name), small(name, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.variables)} == {jnp.dtype("float32")}
    (logits, levels), mutated = half.evaluate(exact.variables, images())
    assert logits.dtype == jnp.float32
    assert {level.dtype for level in levels.values()} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(logits, exact.evaluate(exact.variables, images())[0][0], atol=0.05)
    logits, mutated = jax.eval_shape(half.train, half.variables, KEY, images())
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, mutated))} == {jnp.dtype("float32")}


def test_a_transformer_pools_its_token_or_its_patches():
    for pool, read in (("token", lambda x: x[:, 0]), ("mean", lambda x: x[:, 1:].mean(axis=1))):
        (_, levels), _ = small("vit_ti16", pool=pool).evaluate(initialized("vit_ti16"), images())
        assert levels["norm"].shape == (3, 1 + 2 * 2, 64)
        np.testing.assert_allclose(levels["pooled"], read(levels["norm"]), atol=1e-6)


@pytest.mark.parametrize(("factor", "heads"), [(0.1, 1), (0.5, 2), (2**0.5, 4), (2, 6)])
def test_a_wider_transformer_has_more_heads_of_64_channels(factor, heads):
    options = models.scale({"name": "vit_ti16", "patch": 8}, factor)
    params = shapes(**options, image_shape=(16, 16, 3))["params"]["backbone"]
    assert params["block1"]["attention"]["query"]["kernel"].shape == (64 * heads, 64 * heads)
    assert models.build(**options, num_classes=3).backbone.heads == heads


def test_lite_block_names_strides_and_constants():
    called = modules("efficientnet_lite0", axis_name="data", dtype=jnp.bfloat16)
    norms = [module for module in called.values() if isinstance(module, nn.BatchNorm)]
    assert len(norms) == 49
    assert {(n.axis_name, n.momentum, n.epsilon, jnp.dtype(n.dtype).name) for n in norms} == {
        ("data", 0.99, 1e-3, "bfloat16")
    }
    assert "backbone/stage1/block1/expand" not in called and "backbone/stage6/block4/expand/norm" in called
    filters = {
        path.removeprefix("backbone/").removesuffix("/depthwise/conv"): (module.kernel, module.stride)
        for path, module in called.items()
        if path.endswith("depthwise/conv")
    }
    assert len(filters) == 16
    assert {path for path, (_, stride) in filters.items() if stride == 2} == {f"stage{i}/block1" for i in (2, 3, 4, 6)}
    assert {path[:6] for path, (kernel, _) in filters.items() if kernel == 5} == {"stage3", "stage5", "stage6"}


def test_lite_stochastic_depth_grows_from_nothing_to_less_than_its_rate():
    called = modules("efficientnet_lite0", stochastic_depth=0.8)
    rates = [module.rate for module in called.values() if isinstance(module, StochasticDepth)]
    # The blocks with a shortcut are the third, fifth, ... of 16: the first of a stage has none.
    np.testing.assert_allclose(rates, 0.8 * np.array([2, 4, 6, 7, 9, 10, 12, 13, 14]) / 16)


def test_lite_training_needs_a_key_moves_statistics_and_lets_an_interceptor_freeze_them():
    """By its shapes only: to compile sixteen blocks for a test takes too long."""
    model = models.build("efficientnet_lite0", num_classes=3, dropout=0.5, stochastic_depth=0.5)
    variables = shapes("efficientnet_lite0", (32, 32, 3), num_classes=3)
    x, told = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32), []

    def record(call, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            told.append(("/".join(context.module.path), kwargs))
        return call(*args, **kwargs)

    def train(variables, x, rngs):
        return model.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])

    with nn.intercept_methods(record):
        logits, updated = jax.eval_shape(train, variables, x, {"dropout": KEY})
    assert logits.shape == (2, 3)
    assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
    assert len(told) == 49 and all(kwargs == {"use_running_average": False} for _, kwargs in told)
    assert told[0][0] == "backbone/stem/norm"
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        jax.eval_shape(train, variables, x, {})


@pytest.mark.parametrize(
    ("width", "rounded"),
    [(1.0, 8), (11.9, 16), (12.0, 16), (17.6, 16), (26.4, 24), (88.0, 88), (123.2, 120), (211.2, 208), (352.0, 352)],
)
def test_lite_widths_are_multiples_of_eight(width, rounded):
    assert round_width(width) == rounded


def test_max_pool_is_linens_and_its_gradient_too():
    x = images(2, 7, 3)  # odd: the last row and column are left out
    pooled = lambda pool: jax.value_and_grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x)
    found, expected = pooled(max_pool_2x2), pooled(lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet21", {}, r"model 'resnet21' is unknown \(did you mean 'resnet20'\?\).*mlp, cnn, resnet8"),
        ("mlp", {"dropuot": 0.1}, r"has no option 'dropuot' \(did you mean 'dropout'\?\).*widths, dropout, input_drop"),
        ("mlp", {"stochastic_depth": 0.1}, "has no option 'stochastic_depth'"),
        ("mlp", {"num_classes": 1}, r"num_classes=1: give a whole number >= 2"),
        ("mlp", {"num_classes": 10.0}, r"num_classes=10.0"),
        ("mlp", {"dropout": 1.0}, r"dropout=1.0: give a number in \[0, 1\)"),
        ("mlp", {"input_dropout": "half"}, "input_dropout='half'"),
        ("cnn", {"dropout": float("nan")}, "dropout=nan"),
        ("resnet8", {"stochastic_depth": -0.1}, "stochastic_depth=-0.1"),
        ("mlp", {"widths": ()}, r"widths=\(\): give a non-empty tuple"),
        ("mlp", {"widths": 800}, "widths=800: give a non-empty tuple"),
        ("cnn", {"widths": (32, 0)}, r"widths\[1\]=0"),
        ("cnn", {"dense": -1}, "dense=-1"),
        ("cnn", {"norm": "bacth"}, r"norm='bacth': use one of 'none', 'batch' \(did you mean 'batch'\?\)"),
        ("resnet8", {"width": 0}, "width=0"),
        ("efficientnet_lite0", {"width": -1.0}, "width=-1.0: give a number > 0"),
        ("efficientnet_lite1", {"depth": 2}, "model 'efficientnet_lite1' has no option 'depth'"),
        ("vit_ti16", {"width": float("inf")}, "width=inf: give a number > 0"),
        ("vit_ti16", {"patch": 0}, "patch=0: give a whole number >= 1"),
        ("vit_ti16", {"blocks": 1.5}, "blocks=1.5"),
        ("vit_ti16", {"pool": "avg"}, "pool='avg': use one of 'token', 'mean'"),
        ("resnet8", {"zero_init_residual": "no"}, "zero_init_residual='no'"),
        ("mlp", {"dtype": "floaty"}, "dtype='floaty'"),
        ("mlp", {"dtype": jnp.int32}, "dtype='int32'"),
    ],
)
def test_bad_values_are_named(name, options, message):
    with pytest.raises(UserError, match=message):
        models.build(name, **({"num_classes": 3} | options))


def test_bad_images_are_named():
    with pytest.raises(UserError, match=r"images of 8x8 are too small for widths=\(4, 4, 4, 4\)"):
        shapes("cnn", (8, 8, 1), widths=(4, 4, 4, 4))
    vit = r"images of 28x42 cannot be cut into patches of 16x16: resize them to 32x48, or give the model patch=14"
    with pytest.raises(UserError, match=vit):
        shapes("vit_ti16", (28, 42, 1))
    with pytest.raises(UserError, match=r"images of 7x3 .*: resize them to 8x4(\n|$)"):
        shapes("vit_ti16", (7, 3, 1), patch=4)
    mlp = models.build("mlp", num_classes=3)
    with pytest.raises(UserError, match=r"images are uint8 \[3, 8, 8, 1\]: give normalized floats"):
        mlp.init(KEY, jnp.zeros((3, 8, 8, 1), jnp.uint8), train=False)
    with pytest.raises(UserError, match=r"images are float32 \[3, 64\]"):
        mlp.init(KEY, jnp.zeros((3, 64)), train=False)
