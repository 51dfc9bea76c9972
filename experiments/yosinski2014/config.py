"""One network of Yosinski et al. 2014, by the paper's name for it: baseA, baseB, B3B, B3B+, A3B, A3B+ and so on.

    python -m experiments.yosinski2014.prepare
    python -m tlx.sweep experiments/yosinski2014/sweep.py
    python -m tlx.main --config=experiments/yosinski2014/config.py:net=A3B+ --workdir=runs/a3b+

A3B has the first three levels of baseA, frozen, below new ones that learn task B; with a "+" the copied levels learn
too. B3B is the same from baseB, M3B from baseM (digits instead of clothes), F3B from baseF (task A with all its
labels), and R3B freezes levels as initialised. baseB2 is baseB from the initial weights that the others' new levels
have. The third command needs the bases, which the sweep trains first. Results: experiments/yosinski2014/README.md.
"""

import random
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from tlx import config as tlx_config
from tlx.errors import UserError
from tlx.recipes import supervised

LEVELS = ("stage1", "stage2", "stage3", "stage4", "dense")  # of the network below, from the input up to the head
BASES = ("baseA", "baseB", "baseF", "baseM")  # what the others copy from
SIMILAR = ((0, 2, 4, 6), (5, 7, 9), (1, 3, 8))  # Fashion-MNIST's tops; shoes; trousers, dresses and bags


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: net=baseB, seed=0, and folders: data=../shared/data, few=runs/data/yosinski2014 (which `prepare` cuts from
    it), runs=runs/experiments/yosinski2014 (with the bases)."""
    arg = tlx_config.parse_arg(
        arg,
        net="baseB",
        seed=0,
        data="../shared/data",
        few="runs/data/yosinski2014",
        runs="runs/experiments/yosinski2014",
    )
    task, source, n, learns = parse_net(arg.net)
    half_a, half_b = halves(arg.seed)
    c = supervised.default_config()
    c.name = f"yosinski2014_{arg.net}"
    # From the weights that the base itself began from, new levels would find the way back to what the base became.
    c.seed = arg.seed + (0 if arg.net in BASES else 1000)
    c.data.update(
        name="idx",
        idx_dir=f"{arg.data if task == 'F' else arg.few}/{'mnist' if task == 'M' else 'fashion_mnist'}",
        classes=half_b if task == "B" else half_a,
        validation=1000,
    )
    # Narrow and without BatchNorm, as AlexNet: what a level needs of the one below is in its weights alone.
    c.model = {"name": "cnn", "widths": (8, 16, 32, 32), "dense": 32}
    if source and source != "R":
        c.init.run = f"{arg.runs}/base{source.lower()}-seed{arg.seed}"
        c.init.reset = (*levels_regex(LEVELS[n:]), r"head/.*")
    frozen = () if learns else levels_regex(LEVELS[:n])
    c.optim = tlx_config.optim(
        rules=(*((regex, "frozen") for regex in frozen), (".*", "all")),
        all={"learning_rate": 1e-2, "warmup": 0.05},
    )
    c.train.update(steps=400, batch_size=64, eval_every=100)
    return c


def parse_net(net: str) -> tuple[str, str, int, bool]:
    """ "A3B+" -> ("B", "A", 3, True): the task, whose levels are kept ("" for a base), how many, and if they learn."""
    if base := re.fullmatch(r"base(?:([AFM])|(B)2?)", net):
        return base[1] or base[2], "", 0, True
    treated = re.fullmatch(rf"([ABFMR])([1-{len(LEVELS)}])B(\+?)", net)
    if not treated or (treated[1] == "R" and treated[3]):  # random levels that learn are baseB
        raise UserError(
            f"net is {net!r}: it must be {', '.join(BASES)} or baseB2; or as A3B, with A, B, F, M or R, and 1 to "
            f"{len(LEVELS)}; or as A3B+, with A, B, F or M"
        )
    return "B", treated[1], int(treated[2]), bool(treated[3])


def halves(seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The classes of tasks A and B: a random split of the ten, both with two tops and a shoe at least.

    So each has something alike in the other, as random halves of ImageNet's 1,000 classes do (section 2 of the paper).
    """
    draw, one_more = random.Random(seed), seed % 2
    sizes = (2, 1 + one_more, 2 - one_more)
    half_a = sorted(label for kind, size in zip(SIMILAR, sizes) for label in draw.sample(kind, size))
    return tuple(half_a), tuple(label for label in range(10) if label not in half_a)


def levels_regex(levels: Sequence[str]) -> tuple[str, ...]:
    """One regex of the parameters of these levels; () of none."""
    return (rf"backbone/({'|'.join(levels)})/.*",) if levels else ()
