"""The usual ways of adapting a pre-trained network, each as rules and groups for `tlx.optim`.

    rules, groups = regime("partial", levels=levels, cut="stage2", backbone=1e-4, head=1e-3)

A regime is nothing but a value of `config.optim`: what none of them says can be written there by hand.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tlx.errors import UserError, did_you_mean
from tlx.optim import GROUP_DEFAULTS

Rules = tuple[tuple[str, str], ...]
Groups = dict[str, dict[str, Any]]

REGIMES = {
    "full": "everything learns: a small rate on the backbone, a large one on the head",
    "linear": "the backbone is frozen, the head learns",
    "early": "as linear, but the head is on an earlier level, `cut`, and reads what is more general there",
    "partial": "the levels up to `cut` are frozen, the others learn at the backbone's rate",
    "lp_ft": "the head alone for the first half, then everything at the backbone's rate (Kumar et al. 2022)",
    "gradual": "one level more learns at a time, from the head down (Howard & Ruder 2018, ULMFiT, section 3.3)",
    "layer_decay": "everything learns, each level down at 0.75 of the rate above (as ULMFiT, section 3.2)",
    "l2_sp": "everything learns, pulled back to where it started (Li et al. 2018, section 3.2)",
    "scratch": "nothing is taken over, and everything learns at the head's rate",
}

CUTTING = ("partial", "early")


def regime(
    name: str, *, levels: Sequence[str], cut: str = "", backbone: Mapping[str, Any], head: Mapping[str, Any]
) -> tuple[Rules, Groups]:
    """The rules and groups of a regime.

    Args:
      name: a key of REGIMES.
      levels: the model's, from input to output (`tlx.models.levels`).
      cut: for "partial", the last level that is frozen; for "early", the level that the head is on, the model's
        `head_level`, which is the caller's to set; "" = see `cut_level`.
      backbone, head: options of the two groups, as `tlx.optim.GROUP_DEFAULTS` has them.

    Returns:
      (rules, groups) for `make_optimizer`.

    Raises:
      UserError: an unknown name; a cut that is no level, or the last, or given to another regime.
    """
    if name not in REGIMES:
        raise UserError(
            f"regime {name!r} is unknown{did_you_mean(name, REGIMES)}; the regimes are {', '.join(REGIMES)}"
        )
    if cut and name not in CUTTING:
        raise UserError(f"cut is {cut!r}, but the regime is {name!r}: only {' and '.join(CUTTING)} have a cut")
    backbone, head = dict(backbone), dict(head)
    both = ((r"backbone/.*", "backbone"), (r"head/.*", "head"))
    if name in ("linear", "early"):
        return ((r"backbone/.*", "frozen"), (r"head/.*", "head")), {"head": head}
    if name == "scratch":
        return ((r".*", "head"),), {"head": head}
    if name == "partial":
        frozen = "|".join(map(re.escape, levels[: list(levels).index(cut_level(name, levels, cut)) + 1]))
        return ((rf"backbone/({frozen})/.*", "frozen"), *both), {"backbone": backbone, "head": head}
    if name == "gradual":
        return _gradual(levels, backbone, head)
    if name == "lp_ft":
        # Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution":
        # fine-tuning starts from a head that has been learnt, and moves it no faster than the rest.
        begin = backbone.get("start", 0.5)
        again = {"restart": begin, "restart_rate": backbone.get("learning_rate", GROUP_DEFAULTS["learning_rate"])}
        return both, {"backbone": {"start": begin} | backbone, "head": again | head}
    extra = {"layer_decay": {"layer_decay": 0.75}, "l2_sp": {"l2_sp": 0.01}}.get(name, {})
    return both, {"backbone": extra | backbone, "head": head}


def cut_level(name: str, levels: Sequence[str], cut: str = "") -> str:
    """Where a regime is cut: at `cut`, or where it usually is; raises UserError if that is no level, or the last.

    "partial" leaves the upper half to learn; "early" leaves out the last level, the one that is most about the classes
    of the source.
    """
    if not cut and len(levels) > 1:
        return levels[(len(levels) - 1) // 2] if name == "partial" else levels[-2]
    if cut not in levels[:-1]:
        raise UserError(
            f"cut is {cut!r}{did_you_mean(cut, levels)}: it must be a level with others above it, of "
            f"{', '.join(levels[:-1])}"
        )
    return cut


def _gradual(levels: Sequence[str], backbone: Mapping[str, Any], head: Mapping[str, Any]) -> tuple[Rules, Groups]:
    """All levels are awake after the first half of the run; each waits for the one above it."""
    rules, groups = [], {"head": dict(head)}
    for above, level in enumerate(reversed(levels), 1):
        rules.append((rf"backbone/{re.escape(level)}/.*", level))
        groups[level] = {"start": round(0.5 * above / len(levels), 4)} | dict(backbone)
    return (*rules, (r"head/.*", "head")), groups
