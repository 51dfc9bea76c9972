"""What the experiments on MNIST's and Fashion-MNIST's IDX files have in common."""

from ml_collections import ConfigDict

from tlx import config as tlx_config
from tlx.errors import UserError

VALIDATION = 5_000  # of the 60,000 training images, held out to choose by
CLASSES = 10


def on_idx(c: ConfigDict, folder: str, *, passes: int, batch: int, runlocal: bool) -> ConfigDict:
    """The config with the data and the length of its training, judged ten times on the way, set; returned for brevity.

    Args:
      c: of `supervised` or `distill`.
      folder: of the four IDX files.
      passes: over the 55,000 images that are left to train on.
      batch: images a step.
      runlocal: make it end in seconds.
    """
    steps = passes * (60_000 - VALIDATION) // batch
    c.train.update(steps=steps, batch_size=batch, eval_every=steps // 10)
    return _read(c, folder, runlocal)


def few_labels(c: ConfigDict, folder: str, *, labels: int, runlocal: bool) -> ConfigDict:
    """The config with the data set, of which only so many images keep their label; returned for brevity.

    Args:
      c: of any recipe.
      folder: of the four IDX files.
      labels: in all, as many of each class; of the other images that are not for validation the label is hidden.
      runlocal: make it end in seconds.

    Raises:
      UserError: a number of labels that ten classes cannot share.
    """
    if labels < CLASSES or labels % CLASSES:
        raise UserError(f"labels is {labels}: it must be a multiple of {CLASSES}, the number of classes")
    c.data.labels_per_class = labels // CLASSES
    return _read(c, folder, runlocal)


def _read(c: ConfigDict, folder: str, runlocal: bool) -> ConfigDict:
    c.data.update(name="idx", idx_dir=folder, validation=float(VALIDATION))
    c.eval_batch_size = 1000
    if runlocal:
        tlx_config.run_local(c)
    return c
