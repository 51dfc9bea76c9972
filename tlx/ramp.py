"""What the losses on a ramp of learning rates say: smoothed, cut off where they break, and where they fell fastest.

The analysis of the range test, `tlx.lr_find`, on plain numbers.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

MEMORY = 0.1  # the part of the ramp that the smoothed loss remembers
BROKEN = 4.0  # times the least smoothed loss: the test is over


@dataclasses.dataclass(frozen=True)
class Found:
    """What a range test saw. All arrays are [n], n <= steps: the ramp ends early where the loss breaks.

    Attributes:
      learning_rates: group -> the config's learning rate, which the factor multiplies.
      factors: of each step.
      losses: of each step's batch, before its update: what the factors *before* it have led to. Finite.
      smoothed: their exponential average, bias-corrected as Adam's moments are.
      centers: where to draw `smoothed`: the factors, their logarithm averaged with the same weights. An average lags
        behind (9 steps, with a memory of 10); set against an average that lags as much, a straight line stays in place,
        and a bend comes too early by less than the memory rather than too late: the rates err to the safe side.
      suggestions: factors, "steepest" (where `smoothed` falls fastest) and "conservative" (a tenth of where it is
        least); empty if the loss never fell by more than noise.
      advice: what to change in the test itself, in a sentence; "" if nothing.
    """

    learning_rates: Mapping[str, float]
    factors: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    centers: np.ndarray
    suggestions: Mapping[str, float]
    advice: str

    def scaled(self, factor: float) -> dict[str, float]:
        """group -> learning rate to write into the config, in two digits: nobody knows it better."""
        return {group: float(f"{rate * factor:.1e}") for group, rate in self.learning_rates.items()}


def follow(losses: Iterable[float], factors: np.ndarray, learning_rates: Mapping[str, float]) -> Found:
    """Takes losses, one a factor [steps], until they end, break or are not finite, and says where they fell."""
    memory = max(round(MEMORY * len(factors)), 1)
    decay = 1 - 1 / memory
    seen: list[float] = []
    smoothed: list[float] = []

    def finite() -> Iterator[float]:
        for loss in itertools.takewhile(math.isfinite, losses):
            seen.append(loss)
            yield loss

    for value in smooth(finite(), decay):
        smoothed.append(value)
        if value > BROKEN * min(smoothed):
            break
    factors, broken = factors[: len(seen)], len(seen) < len(factors)
    found = Found(
        learning_rates=dict(learning_rates),
        factors=factors,
        losses=np.array(seen),
        smoothed=np.array(smoothed),
        centers=np.exp(list(smooth(np.log(factors), decay))),
        suggestions={},
        advice="",
    )
    suggestions, advice = _suggest(found, memory, broken)
    return dataclasses.replace(found, suggestions=suggestions, advice=advice)


def smooth(values: Iterable[float], decay: float) -> Iterator[float]:
    """Exponential average, bias-corrected (Kingma & Ba 2015, section 3): the weights of what was seen add up to 1."""
    average = 0.0
    for count, value in enumerate(values, 1):
        average = decay * average + (1 - decay) * value
        yield average / (1 - decay**count)


def _suggest(found: Found, memory: int, broken: bool) -> tuple[dict[str, float], str]:
    """The suggestions, and what is wrong with the ramp."""
    losses, smoothed, centers = found.losses, found.smoothed, found.centers
    if not len(losses):
        return {}, "the first loss is not finite, which no learning rate mends: check the data, init and dtype"
    if len(losses) < memory + 2:
        return {}, "no descent: the loss broke at once; lower --low"
    first = memory - 1  # before it, the average is of too few
    least = first + int(np.argmin(smoothed[first:]))
    # The deviation of a difference of two averages of independent losses. The losses' own is that of their differences,
    # which a trend hardly touches, over sqrt(2).
    noise = np.std(np.diff(losses[: least + 1])) / math.sqrt(2 * memory - 1) if least > first else 0.0
    if least == first or smoothed[first] - smoothed[least] <= 4 * noise:
        rose = broken or smoothed[-1] > 1.5 * smoothed[first]
        change = "lower --low, since the loss only rose," if rose else "raise --high"
        return {}, f"no descent beyond the noise: {change} or take more --steps"
    slope = np.gradient(smoothed[first : least + 1], np.log(centers[first : least + 1]))
    steepest = first + int(np.argmin(slope))
    suggestions = {"steepest": float(centers[steepest]), "conservative": float(centers[least] / 10)}
    if steepest == first:
        return suggestions, "the loss falls fastest where the ramp begins: lower --low to see all of the descent"
    if least == len(losses) - 1 and not broken:
        return suggestions, "the loss still fell where the ramp ended: raise --high to see where it breaks"
    return suggestions, ""
