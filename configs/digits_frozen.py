"""`digits_finetune` with the backbone frozen: only the new head learns.

    python -m tlx.main --config=configs/digits_pretrain.py --workdir=runs/digits_pretrain
    python -m tlx.main --config=configs/digits_frozen.py --workdir=runs/digits_frozen

Test accuracy 0.7000 ± 0.0545, mean ± sample deviation of seeds 0-4 (experiments/digits; 250 images): worse than
fine-tuning (0.9344) and than from scratch (0.9344).
"""

from ml_collections import ConfigDict

from configs import digits_finetune
from tlx import config as tlx_config


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: seed=0, labels=5 (a class), pretrained=runs/digits_pretrain, runlocal."""
    c = digits_finetune.get_config(arg)
    c.name = "digits_frozen"
    c.optim = tlx_config.optim(
        rules=((r"backbone/.*", "frozen"), (r"head/.*", "head")),
        head={"learning_rate": 3e-2, "weight_decay": 0.05, "warmup": 0.1},
    )
    return c
