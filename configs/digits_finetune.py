"""Fine-tune the net of `digits_pretrain` (0-4) on 5 labels a class of 5-9: a small rate below, a large one on the head.

    python -m tlx.main --config=configs/digits_pretrain.py --workdir=runs/digits_pretrain
    python -m tlx.main --config=configs/digits_finetune.py --workdir=runs/digits_finetune

Test accuracy 0.9344 ± 0.0262, mean ± sample deviation of seeds 0-4 (experiments/digits; 250 images). From scratch, with
`:pretrained=`, it is 0.9344 ± 0.0251: five hundred 8x8 digits teach this backbone little that transfers.
"""

from ml_collections import ConfigDict

from tlx import config as tlx_config
from tlx.recipes import supervised


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: seed=0, labels=5 (a class), pretrained=runs/digits_pretrain ("" = from scratch), runlocal."""
    arg = tlx_config.parse_arg(arg, seed=0, labels=5, pretrained="runs/digits_pretrain", runlocal=False)
    c = supervised.default_config()
    c.name = "digits_finetune"
    c.seed = arg.seed
    c.data.update(classes=(5, 6, 7, 8, 9), labels_per_class=arg.labels, validation=150)
    c.init.run = arg.pretrained
    c.model = {"name": "cnn", "widths": (32, 64), "dense": 128, "dropout": 0.3}  # as pre-trained
    c.optim = tlx_config.optim(
        rules=((r"backbone/.*", "backbone"), (r"head/.*", "head")),
        backbone={"learning_rate": 3e-3, "weight_decay": 0.05, "warmup": 0.1},
        head={"learning_rate": 1e-2, "weight_decay": 0.05, "warmup": 0.1},
    )
    c.train.update(steps=300, batch_size=24, eval_every=50)
    c.augment = {"rotate": 15.0, "scale": 0.15, "shear": 0.15, "translate": 1.0, "noise": 0.1}
    if arg.runlocal:
        tlx_config.run_local(c)
    return c
