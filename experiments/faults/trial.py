"""What became of a disturbed run, judged against an undisturbed one."""

import dataclasses
from collections.abc import Callable
from typing import Any

from experiments.faults.child import Child
from experiments.faults.small_run import CURVES

SAME, REFUSED, LOST, SKIPPED = "same end", "refused, then same end", "lost", "skipped"
# The weights, figures and ledger are the same, and metrics.jsonl lacks a damaged line.
SHORTER = "same end, shorter curves"
OUTCOMES = (SAME, SHORTER, REFUSED, LOST)


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
    if not child.refused:
        return _compare(child, undisturbed)
    outcome, said = _compare(mended(), undisturbed)
    return (REFUSED, child.last_line) if outcome == SAME else (LOST, f"{child.last_line}; and then: {said}")


def _compare(child: Child, undisturbed: dict[str, Any]) -> tuple[str, str]:
    end = child.end
    if end is None:
        return LOST, child.last_line
    differs = [name for name in undisturbed if end.get(name) != undisturbed[name]]
    fewer = [row for row in undisturbed[CURVES] if row not in end[CURVES]]
    if differs == [CURVES] and len(end[CURVES]) + len(fewer) == len(undisturbed[CURVES]):
        return SHORTER, f"{len(fewer)} of {len(undisturbed[CURVES])} lines of metrics.jsonl are left out"
    return (LOST, f"another end: {', '.join(differs)}") if differs else (SAME, "")
