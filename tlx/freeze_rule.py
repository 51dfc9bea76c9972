"""The freeze rule: what to let learn, from the number of labels, how well the pre-trained features suit, and the model.

Two questions make four quadrants. *How many labels?* Few labels a class cannot move many weights without harm. *How
similar is the task to the source?* The measure is what pre-training gains: the accuracy of a linear probe on the
pre-trained features less that on the same network's random ones, and less its standard error. (Probe and kNN against
shuffled labels, the H-score and LogME are shown as well. On the calibration tasks these are as high where starting from
scratch is best as where the pre-trained features are.)

In each quadrant one option was best on the calibration tasks of `experiments/freeze_rule`, where the rule's regret on
other tasks is measured.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tlx.transferability import Evidence

# The regimes that the rule chooses among, keys of `tlx.regimes.REGIMES`.
CANDIDATES = ("linear", "early", "partial", "lp_ft", "full", "scratch")
# A head alone is one option: it goes where its probe is better, "linear" or, of equals the smaller network, "early".
OPTIONS = ("head", "partial", "lp_ft", "full", "scratch")
QUADRANTS = ("small and similar", "small and different", "large and similar", "large and different")
# The most parameters of a backbone a labelled image with which a network is trained from scratch. Set by hand, and not
# calibrated: the small networks of the calibration tasks have up to 1,945, and the large one 590 and more.
SCRATCH_PARAMETERS = 2_000


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the rule looks at. All is computed from labelled training images alone.

    Attributes:
      labels_per_class: labelled images over classes.
      parameters: of the backbone.
      top: the pre-trained features under the head, `tlx.transferability.score`.
      early: cross-validated accuracy of a linear probe on the level that "early" puts the head on.
      random: the same at the top of the network with random weights, the mean of a few draws: what its architecture
        alone gives.
    """

    labels_per_class: float
    parameters: int
    top: Evidence
    early: float
    random: float

    @property
    def gain(self) -> float:
        """Of pre-training, in probe accuracy."""
        return self.top.probe.value - self.random

    @property
    def gain_error(self) -> float:
        """Standard error of the gain, as of two independent proportions: large for few labels."""
        variances = (p * (1 - p) for p in (self.top.probe.value, self.random))
        return math.sqrt(sum(variances) / self.top.examples)

    @property
    def parameters_per_image(self) -> float:
        return self.parameters / (self.labels_per_class * self.top.classes)


@dataclasses.dataclass(frozen=True)
class Constants:
    """What is calibrated.

    Attributes:
      large: labels a class from which on the data are "large".
      similar: the gain less its standard error from which on the task is "similar".
      quadrants: quadrant -> its best and second best option.
    """

    large: float
    similar: float
    quadrants: Mapping[str, tuple[str, str]]


CALIBRATED = Constants(
    large=10.0,
    similar=0.04,
    quadrants={
        "small and similar": ("lp_ft", "full"),
        "small and different": ("scratch", "lp_ft"),
        "large and similar": ("partial", "full"),
        "large and different": ("scratch", "head"),
    },
)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A regime, the runner-up, the quadrant, and the reason in a sentence."""

    regime: str
    runner_up: str
    quadrant: str
    why: str


def choose(facts: Facts, constants: Constants = CALIBRATED) -> Choice:
    """The rule."""
    where = quadrant(facts, constants)
    options = [option for option in constants.quadrants[where] if option != "scratch" or _can_start_anew(facts)]
    options += [option for option in ("head", "lp_ft") if option not in options]  # where "scratch" is out of reach
    first, second = (regime_of(option, facts) for option in options[:2])
    size, _, likeness = where.partition(" and ")
    gain, error, line = (100 * value for value in (facts.gain, facts.gain_error, constants.similar))
    why = (
        f"{facts.labels_per_class:.4g} labels a class are {'few' if size == 'small' else 'many'} (the rule's line is "
        f"{constants.large:g}), and pre-training gains {gain:+.1f} ± {error:.1f} points of probe accuracy over random "
        f"weights, so the task is {likeness} (less the error, {line:+.1f} would be the line)"
    )
    if options[0] != constants.quadrants[where][0]:
        why += f"; {facts.parameters_per_image:,.0f} parameters a labelled image are too many to start from scratch"
    if options[0] == "head":
        why += f"; a probe is right on {facts.early:.1%} at the earlier level, {facts.top.probe.value:.1%} at the top"
    return Choice(first, second, where, why + ".")


def quadrant(facts: Facts, constants: Constants) -> str:
    """One of QUADRANTS."""
    size = "large" if facts.labels_per_class >= constants.large else "small"
    return f"{size} and {'similar' if facts.gain - facts.gain_error >= constants.similar else 'different'}"


def regime_of(option: str, facts: Facts) -> str:
    """The regime of an option."""
    if option == "head":
        return "early" if facts.early >= facts.top.probe.value else "linear"
    return option


def _can_start_anew(facts: Facts) -> bool:
    return facts.parameters_per_image <= SCRATCH_PARAMETERS


def rows(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """The evidence as a table's rows: a figure, its value, and what shuffled labels give.

    Args:
      facts: `Facts` as a dict, as it comes back from JSON.
    """
    top, shown = facts["top"], []

    def show(figure: str, value: str, shuffled: str = "") -> None:
        shown.append({"figure": figure, "value": value, "shuffled labels": shuffled})

    names = {"probe": "probe accuracy", "knn": "kNN accuracy", "h_score": "H-score", "log_me": "LogME"}
    for key, name in names.items():
        show(f"{name}, top", f"{top[key]['value']:.3f}", f"{top[key]['shuffled']:.3f}")
    show("probe accuracy, earlier level", f"{facts['early']:.3f}")
    show("probe accuracy, top, random weights", f"{facts['random']:.3f}")
    show("labels a class", f"{facts['labels_per_class']:.4g}")
    show("parameters of the backbone", f"{facts['parameters']:,}")
    return shown
