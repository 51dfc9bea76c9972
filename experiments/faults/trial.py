"""What became of a disturbed run, judged against an undisturbed one."""

import dataclasses
from collections.abc import Callable
from typing import Any

from experiments.faults.child import Child
from experiments.faults.small_run import CURVES

SAME, REFUSED, LOST, SKIPPED = "same end", "refused, then same end", "lost", "skipped"
OUTCOMES = (SAME, REFUSED, LOST, SKIPPED)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One fault: what was done, where it hit the run, what became of it, and what the run said, if it did not go on."""

    fault: str
    what: str
    hit: str
    outcome: str
    said: str = ""


def judge(child: Child, undisturbed: dict[str, Any], mended: Callable[[], Child]) -> tuple[str, str]:
    """(outcome, what was said) of a run that has ended after a fault.

    Args:
      child: that run.
      undisturbed: the end to come to.
      mended: where the run refused to go on, mends what it named and gives the same command again.
    """
    if child.refused:
        again = mended()
        difference = _difference(again, undisturbed)
        if difference:
            return LOST, f"{child.last_line}; and then: {difference}"
        return REFUSED, child.last_line
    difference = _difference(child, undisturbed)
    return (LOST, difference) if difference else (SAME, "")


def _difference(child: Child, undisturbed: dict[str, Any]) -> str:
    """What is wrong with how it ended, or ""."""
    if child.end is None:
        return child.last_line
    end = child.end
    wrong = [name for name in undisturbed if end.get(name) != undisturbed[name] and not _told(name, child)]
    return f"another end: {', '.join(wrong)}" if wrong else ""


def _told(name: str, child: Child) -> bool:
    """Whether it is the curves that lack a point, and the run said so: the weights and figures do not come of them."""
    return name == CURVES and "is damaged: left out" in child.output.read_text(errors="replace")
