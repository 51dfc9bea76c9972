"""What the experiments on MNIST's and Fashion-MNIST's IDX files have in common."""

from ml_collections import ConfigDict

from tlx import config as tlx_config

VALIDATION = 5_000  # of the 60,000 training images, held out to choose by


def on_idx(c: ConfigDict, folder: str, *, passes: int, batch: int, runlocal: bool) -> ConfigDict:
    """The config with the data and the length of its training, judged ten times on the way, set; returned for brevity.

    Args:
      c: of `supervised` or `distill`.
      folder: of the four IDX files.
      passes: over the 55,000 images that are left to train on.
      batch: images a step.
      runlocal: make it end in seconds.
    """
    c.data.update(name="idx", idx_dir=folder, validation=float(VALIDATION))
    steps = passes * (60_000 - VALIDATION) // batch
    c.train.update(steps=steps, batch_size=batch, eval_every=steps // 10)
    c.eval_batch_size = 1000
    if runlocal:
        tlx_config.run_local(c)
    return c
