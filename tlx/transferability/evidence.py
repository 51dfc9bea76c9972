"""The four figures side by side, each against what it is for labels that mean nothing."""

import dataclasses
from collections.abc import Callable

import numpy as np

from tlx.data.splits import rank_in_class
from tlx.errors import UserError
from tlx.transferability import hscore, logme, neighbours, probe
from tlx.transferability.inputs import check_inputs


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of merit, the higher the better.

    Attributes:
      value: for the labels as they are.
      shuffled: mean for shuffled labels, with as many of each class.
      gap: `value - shuffled`, in the figure's unit.
      normalised: the gap over the largest possible one: 0 = no better than shuffled labels, 1 = perfect, below 0 =
        worse. None for LogME, which has no upper bound, and where shuffled labels reach the bound.
    """

    value: float
    shuffled: float
    gap: float
    normalised: float | None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """How well features suit a task.

    Attributes:
      log_me: nats an example.
      h_score: 0..K-1.
      knn: leave-one-out accuracy, 0..1.
      probe: cross-validated accuracy, 0..1.
      classes: K.
      dimensions: D.
      available: examples given.
      examples: examples used: fewer, and class-balanced as far as the classes go, if more than `limit` were given.
      k: neighbours that vote: 5, or fewer where classes have on average fewer than 6 members.
      seed, shuffles: as given.
    """

    log_me: Figure
    h_score: Figure
    knn: Figure
    probe: Figure
    classes: int
    dimensions: int
    available: int
    examples: int
    k: int
    seed: int
    shuffles: int


def score(features: np.ndarray, labels: np.ndarray, seed: int = 0, shuffles: int = 3, *, limit: int = 2000) -> Evidence:
    """All four figures, on at most `limit` examples: a function of its arguments alone.

    What does not depend on labels (decomposition, covariance, neighbours) is computed once for all shuffles.

    Args:
      features: [N, D].
      labels: int [N].
      seed: of the examples taken, the shuffles and the folds, 0 to 2^32 - 1.
      shuffles: of the labels, 1 or more.
      limit: the most examples used. Each class gets an equal share, and what small classes leave goes to the others.

    Raises:
      UserError: see `check_inputs`; a class with one example; a seed, `shuffles` or `limit` (two for each class) out
        of range.
    """
    features, codes = check_inputs(features, labels, members=2)
    probe.check_seed(seed)
    if shuffles < 1:
        raise UserError(f"shuffles is {shuffles}: a figure is read against shuffled labels; use 1 or more")
    sizes, available = np.bincount(codes), len(codes)
    if limit < 2 * len(sizes):
        raise UserError(f"limit is {limit}: {len(sizes)} classes need {2 * len(sizes)} examples at least")
    taken = balanced_rows(codes, limit, np.random.default_rng(seed))
    features, codes = check_inputs(features[taken], codes[taken])  # these few might be all the same
    count, classes = len(codes), len(sizes)
    k = int(np.clip(count // classes - 1, 1, 5))

    spectrum, white, near = logme.decompose(features), hscore.whiten(features), neighbours.nearest(features, k)
    shuffled = [np.random.default_rng((seed, number)).permutation(codes) for number in range(shuffles)]

    def figure(measure: Callable[[np.ndarray], float], bound: float | None) -> Figure:
        value, chance = measure(codes), float(np.mean([measure(codes) for codes in shuffled]))
        normalised = (value - chance) / (bound - chance) if bound is not None and chance < bound else None
        return Figure(value, chance, value - chance, normalised)

    return Evidence(
        log_me=figure(lambda codes: logme.max_evidence(spectrum, codes), None),
        h_score=figure(lambda codes: hscore.between_classes(white, codes), min(classes - 1, white.shape[1])),
        knn=figure(lambda codes: neighbours.vote(near, codes), 1.0),
        probe=figure(lambda codes: probe.probe_accuracy(features, codes, seed=seed), 1.0),
        classes=classes,
        dimensions=features.shape[1],
        available=available,
        examples=count,
        k=k,
        seed=seed,
        shuffles=shuffles,
    )


def balanced_rows(codes: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted rows of `limit` examples (or all): the first of each class in a random order, then the second, ..."""
    priorities = rng.random(len(codes))
    rank = rank_in_class(codes, np.bincount(codes), priorities)
    return np.sort(np.lexsort((priorities, rank))[:limit])
