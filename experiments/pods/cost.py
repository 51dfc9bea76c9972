"""What a training step costs on a slice of TPU v5e, on paper: arithmetic, the gradients' all-reduce, BatchNorm's sums.

    python -m experiments.pods.cost

prints the table, and rewrites it and one case's arithmetic in this folder's page. Parameters and multiply-adds are
counted by tlx on its own networks, the chip's figures are its makers', and nothing here was measured on a TPU.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

# Google, docs.cloud.google.com/tpu/docs/v5e (read): 197 TFLOPs in bf16; 400 GBps of inter-chip bandwidth in both
# directions together, over 4 ports; 8 chips a host.
PEAK_FLOPS = 197e12  # FLOP/s of a chip
PORT_BYTES = 400e9 / 4 / 2  # bytes/s out of one port of a chip
HOST_CHIPS = 8
# "How to Scale Your Model", github.com/jax-ml/scaling-book, sharding.md (read): a hop takes typically around 1 us; a
# gather on v5e that should take 560 us was seen to take 680.
HOP_SECONDS = 1e-6
LINK_FRACTION = 0.8  # of PORT_BYTES that is reached: 560 / 680, rounded
# ASSUMED, read nowhere for these networks: the arithmetic's share of the peak. A slower chip would wait less.
COMPUTE_FRACTION = 0.4
# Google, as above: the shapes of slices. scaling-book, tpus.md (read): only an axis of 16 is closed to a ring.
TOPOLOGY = {8: (2, 4), 32: (4, 8), 256: (16, 16)}
WRAPPED = 16

PASSES = 3  # a step in forward passes: the backward one takes the gradients by activations and by weights
# All-reduces of a BatchNorm layer, of its statistics and in its gradient: counted in flax's, compiled for four devices.
NORM_SUMS = 2
GRADIENT_BYTES = 4  # float32, whatever the dtype of the computation
START = (8, 512)  # chips, images: where both scalings start
SIZE = 224
NETWORKS = {"ResNet-50": "resnet50", "EfficientNet-Lite0": "efficientnet_lite0", "ViT-B/16": "vit_b16"}

PAGE = pathlib.Path(__file__).with_name("README.md")
TABLE, ARITHMETIC = (f"<!-- {what}: made by experiments.pods.cost -->" for what in ("table", "arithmetic"))


@dataclasses.dataclass(frozen=True)
class Network:
    """What the model knows of one: parameters, multiply-adds of an image's forward pass, BatchNorm layers."""

    name: str
    parameters: int
    multiply_adds: int
    norms: int


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a global batch of `batch` images on `chips` chips; times in seconds, sizes in bytes, a chip."""

    network: Network
    chips: int
    batch: int

    @property
    def flops(self) -> float:
        """Of all chips together: a multiply-add is two."""
        return PASSES * 2 * self.network.multiply_adds * self.batch

    @property
    def compute(self) -> float:
        return self.flops / self.chips / (COMPUTE_FRACTION * PEAK_FLOPS)

    @property
    def sent(self) -> float:
        """Bytes that a chip sends in a ring all-reduce: N - 1 parts of 1 / N to be summed, and as many of the sum."""
        return 2 * (self.chips - 1) / self.chips * GRADIENT_BYTES * self.network.parameters

    @property
    def all_reduce(self) -> float:
        """In one ring, both ways round: out of two of a chip's ports."""
        return self.sent / (LINK_FRACTION * 2 * PORT_BYTES)

    @property
    def norm_sums(self) -> float:
        """What BatchNorm waits at least: each of its sums is too small for anything but its hops to count."""
        return NORM_SUMS * self.network.norms * hops(self.chips) * HOP_SECONDS

    def seconds(self, *, overlap: bool, norm_sums: bool = True) -> float:
        """Of the step; with `overlap` the all-reduce runs beside the backward pass, which is all but one of PASSES.

        BatchNorm's sums are never hidden: the layer above needs them.
        """
        forward = self.compute / PASSES
        backward = self.compute - forward
        hidden = max(backward, self.all_reduce) if overlap else backward + self.all_reduce
        return forward + hidden + norm_sums * self.norm_sums

    def efficiency(self, *, overlap: bool, norm_sums: bool = True) -> float:
        """The arithmetic's share of the step's time: 1 for a chip alone, which waits for nobody."""
        return self.compute / self.seconds(overlap=overlap, norm_sums=norm_sums)


def hops(chips: int) -> int:
    """Of a small all-reduce: along each axis to the farthest chip and back; a ring's is half way round."""
    return sum(axis if axis == WRAPPED else 2 * (axis - 1) for axis in TOPOLOGY[chips])


def count(name: str, model: str) -> Network:
    """Counts a network of `tlx.models` for ImageNet's 1,000 classes at SIZE pixels; nothing is compiled."""
    import jax
    import jax.numpy as jnp

    from tlx import models
    from tlx.multiply_adds import multiply_adds

    network = models.build(model, num_classes=1000)
    shape = (SIZE, SIZE, 3)
    init = lambda: network.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)
    variables = jax.eval_shape(init)
    return Network(
        name,
        parameters=models.parameter_count(variables["params"]),
        multiply_adds=multiply_adds(models.make_apply(network), variables, shape),
        norms=len(jax.tree.leaves(variables.get("batch_stats", {}))) // 2,  # a mean and a variance each
    )


def cases(network: Network) -> Iterator[tuple[str, Step]]:
    """(scaling, step): the start, then as many images a chip on more chips (weak), and as many in all (strong)."""
    chips, batch = START
    yield "start", Step(network, chips, batch)
    larger = [n for n in TOPOLOGY if n > chips]
    yield from (("weak", Step(network, n, batch * n // chips)) for n in larger)
    yield from (("strong", Step(network, n, batch)) for n in larger)


def table(networks: Sequence[Network]) -> str:
    """Markdown, a line a case."""
    head = ["network", "scaling", "chips", "batch", "a chip", "TFLOP a step", "MB sent a chip", "arithmetic, ms"]
    head += ["all-reduce, ms", "BatchNorm, ms", "efficiency", "with overlap", "and no BatchNorm wait"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for network in networks:
        for scaling, step in cases(network):
            sizes = (step.chips, step.batch, step.batch // step.chips)
            figures = (step.flops / 1e12, step.sent / 1e6)
            times = (step.compute, step.all_reduce, step.norm_sums)
            shares = (step.efficiency(overlap=False), step.efficiency(overlap=True))
            shares += (step.efficiency(overlap=True, norm_sums=False),)
            cells = [network.name, scaling, *(f"{size:,}" for size in sizes), *(f"{x:,.1f}" for x in figures)]
            cells += [f"{1e3 * x:.2f}" for x in times] + [f"{x:.0%}" for x in shares]
            lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def arithmetic(step: Step) -> str:
    """One case in full, as it would be done by hand."""
    n, network, images = step.chips, step.network, step.batch // step.chips
    ms = lambda seconds: f"{1e3 * seconds:.2f} ms"
    share = lambda overlap: f"{step.efficiency(overlap=overlap):.1%}"
    shape = " x ".join(map(str, TOPOLOGY[n]))
    fed = HOST_CHIPS * images / step.seconds(overlap=True)
    lines = [
        f"{network.name} on {n} chips ({shape}), {step.batch:,} images a step, {images} a chip:",
        "",
        f"    parameters P = {network.parameters:,}; multiply-adds an image M = {network.multiply_adds:,}",
        f"    FLOP a step = {PASSES} x 2 x M x {step.batch:,} = {step.flops:.4g}; a chip's share {step.flops / n:.4g}",
        f"    arithmetic  = {step.flops / n:.4g} / ({COMPUTE_FRACTION} x {PEAK_FLOPS:.4g} FLOP/s) = {ms(step.compute)}",
        f"    bytes sent  = 2 x {n - 1}/{n} x {GRADIENT_BYTES} x P = {step.sent:.4g} a chip",
        f"    all-reduce  = {step.sent:.4g} / ({LINK_FRACTION} x 2 x {PORT_BYTES:.4g} B/s) = {ms(step.all_reduce)}",
        f"    BatchNorm   = {network.norms} layers x {NORM_SUMS} sums x {hops(n)} hops x 1 us = {ms(step.norm_sums)}",
        "",
        f"    one after the other: {ms(step.compute)} / {ms(step.seconds(overlap=False))} = {share(False)}",
        f"    the all-reduce beside the backward pass, {ms(step.compute * (PASSES - 1) / PASSES)}:"
        f" {ms(step.compute)} / {ms(step.seconds(overlap=True))} = {share(True)}",
        f"    a host of {HOST_CHIPS} chips then feeds {fed:,.0f} images ({fed * SIZE * SIZE * 3 / 1e9:.1f} GB as"
        " uint8) a second",
    ]
    return "\n".join(lines)


def main(page: pathlib.Path = PAGE) -> None:
    """Counts, prints, and rewrites the page."""
    from tlx.sweep_table import update_table

    networks = [count(name, model) for name, model in NETWORKS.items()]
    rows = table(networks)
    shown = arithmetic(next(step for _, step in cases(networks[0]) if step.chips == 256))
    print(f"{rows}\n\n{shown}")
    update_table(page, rows, begin=TABLE)
    update_table(page, shown, begin=ARITHMETIC)


if __name__ == "__main__":
    main()
