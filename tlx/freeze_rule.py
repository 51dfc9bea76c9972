"""The freeze rule: what to let learn, from the number of labels and how well the pre-trained features suit the task."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tlx.transferability import Evidence

# The regimes that the rule chooses among, keys of `tlx.regimes.REGIMES`.
CANDIDATES = ("linear", "early", "partial", "lp_ft", "full", "scratch")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the rule looks at. All is computed from labelled training images alone.

    Attributes:
      labels_per_class: labelled images over classes.
      parameters: of the backbone.
      top: the pre-trained features under the head, `tlx.transferability.score`.
      early: cross-validated accuracy of a linear probe on the level that "early" puts the head on.
      random: the same at the top of the network with random weights: what its architecture alone gives.
    """

    labels_per_class: float
    parameters: int
    top: Evidence
    early: float
    random: float


@dataclasses.dataclass(frozen=True)
class Choice:
    """A regime, the second best, the quadrant ("small and similar", ...), and the reason in a sentence."""

    regime: str
    runner_up: str
    quadrant: str
    why: str


def choose(facts: Facts) -> Choice:
    """The rule."""
    return Choice("full", "lp_ft", "-", "-")


def rows(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """The evidence as a table's rows: a figure, its value, what shuffled labels give, and how it is normalised.

    Args:
      facts: `Facts` as a dict, as it comes back from JSON.
    """
    top, shown = facts["top"], []

    def show(figure: str, value: str, shuffled: str = "") -> None:
        shown.append({"figure": figure, "value": value, "shuffled labels": shuffled})

    for name, key in (
        ("probe accuracy", "probe"),
        ("kNN accuracy", "knn"),
        ("H-score", "h_score"),
        ("LogME", "log_me"),
    ):
        show(f"{name}, top", f"{top[key]['value']:.3f}", f"{top[key]['shuffled']:.3f}")
    show("probe accuracy, earlier level", f"{facts['early']:.3f}")
    show("probe accuracy, top, random weights", f"{facts['random']:.3f}")
    show("labels a class", f"{facts['labels_per_class']:.4g}")
    show("parameters", f"{facts['parameters']:,}")
    return shown
