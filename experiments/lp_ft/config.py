"""One run of the LP-FT experiment: a network pre-trained on Fashion-MNIST, or adapted to MNIST by a few clean labels.

    python -m tlx.main --config=experiments/lp_ft/config.py:regime=pretrain,source=robust --workdir=runs/lp_ft/robust
    python -m tlx.main --config=experiments/lp_ft/config.py:regime=lp_ft,pretrained=runs/lp_ft/robust,rate=0.01 \
        --workdir=runs/lp_ft/adapted

See README.md for what is measured, and sweep.py for all runs.
"""

from ml_collections import ConfigDict

from tlx import config as tlx_config
from tlx.errors import UserError, did_you_mean
from tlx.recipes import supervised
from tlx.regimes import regime

LEVELS = ("stage1", "stage2", "stage3")
REGIMES = ("pretrain", "scratch", "full", "linear", "lp_ft")
# What the pre-trained network has seen decides whether its features hold under a shift. Two operations of RandAugment
# at magnitude 1 invert one image in seven (1 - (12/13)^2): "solarize" then begins at 0.
SOURCES = {"robust": {"rotate": 45.0, "noise": 0.3, "rand_augment": 2, "magnitude": 1.0}, "plain": {}}
STEPS = 300


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: regime (of REGIMES), source=robust (of SOURCES; for "pretrain"), pretrained (the folder of such a run),
    rate (of the backbone and the head, or of a probe's head), probe_rate (of the head in the first half of "lp_ft"),
    labels=20 (a class), data=../shared/data (the folder of fashion_mnist/ and mnist/), seed=0, runlocal.

    Raises:
      UserError: an unknown regime or source.
    """
    arg = tlx_config.parse_arg(
        arg,
        regime="full",
        source="robust",
        pretrained="",
        rate=0.01,
        probe_rate=0.1,
        labels=20,
        data="../shared/data",
        seed=0,
        runlocal=False,
    )
    for name, known in (("regime", REGIMES), ("source", SOURCES)):
        if arg[name] not in known:
            hint = did_you_mean(arg[name], known)
            raise UserError(f"{name} is {arg[name]!r}{hint}; this experiment has {', '.join(known)}")
    c = supervised.default_config()
    c.seed = arg.seed
    c.data.name = "idx"
    c.model = {"name": "cnn", "widths": (32, 64, 64), "dense": 0}
    c.eval_batch_size = 1000
    if arg.regime == "pretrain":
        _pretrain(c, arg)
    else:
        _adapt(c, arg)
    if arg.runlocal:
        tlx_config.run_local(c)
    return c


def _pretrain(c: ConfigDict, arg: ConfigDict) -> None:
    c.name = f"lp_ft_pretrain_{arg.source}"
    c.data.update(idx_dir=f"{arg.data}/fashion_mnist", validation=2000)
    c.optim = tlx_config.optim(((".*", "all"),), all={"learning_rate": 1e-3, "warmup": 0.1})
    c.augment = dict(SOURCES[arg.source])
    c.train.update(steps=3000, batch_size=64, eval_every=500)


def _adapt(c: ConfigDict, arg: ConfigDict) -> None:
    """As the authors' code has it: SGD with momentum, a cosine, one rate for all that learns, batches of 32."""
    c.name = f"lp_ft_{arg.regime}"
    c.data.update(idx_dir=f"{arg.data}/mnist", labels_per_class=arg.labels, validation=1000)
    c.init.run = arg.pretrained
    steps = STEPS * (2 if arg.regime == "lp_ft" else 1)
    sgd = {"optimizer": "sgd", "learning_rate": arg.rate}
    name = "full" if arg.regime == "scratch" else arg.regime
    head = sgd | {"learning_rate": arg.probe_rate} if name == "lp_ft" else sgd
    rules, groups = regime(name, levels=LEVELS, backbone=sgd, head=head)
    c.optim = tlx_config.optim(rules, **groups)
    c.cache.features = name == "linear"
    c.train.update(steps=steps, batch_size=32, eval_every=50)
