"""What became of a target's inputs, counted; and a target's run for a given time."""

import collections
import dataclasses
import json
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from experiments.fuzz.around import changes, listing
from experiments.fuzz.target import Target
from experiments.fuzz.watch import Outcome, judge

_BATCH = 50  # examples of one seed: hypothesis repeats nothing within it


@dataclasses.dataclass
class Tally:
    """Counts of one target.

    Attributes:
      read, refused: inputs that were.
      findings: (where, kind of error) -> count, and what was said of the first input and the input.
      changed: a line for each change around the target's folder, see `around.changes`.
      messages: refusals by their text without paths, quoted values and numbers.
    """

    read: int = 0
    refused: int = 0
    findings: dict[tuple[str, str], list] = dataclasses.field(default_factory=dict)
    messages: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    changed: list[str] = dataclasses.field(default_factory=list)

    def add(self, outcome: Outcome, example: Any, folder: pathlib.Path) -> None:
        if outcome.kind == "read":
            self.read += 1
            return
        kind = message_kind(outcome.said, folder)
        if outcome.kind == "refused":
            self.refused += 1
            self.messages[kind] += 1
        else:
            key = outcome.where, outcome.said.partition(":")[0]
            self.findings.setdefault(key, [0, outcome.said, repr(example)])[0] += 1

    def record(self) -> dict[str, Any]:
        """As results.json has it."""
        found = [
            {"where": where, "count": count, "said": said, "example": example[:20_000]}
            for (where, _), (count, said, example) in self.findings.items()
        ]
        tried = self.read + self.refused + sum(each["count"] for each in found)
        if self.changed:
            found.append(
                {"where": "around the folder", "count": len(self.changed), "said": "; ".join(self.changed[:3])}
            )
        return {
            "tried": tried,
            "read": self.read,
            "refused": self.refused,
            "findings": found,
            "changed_around": len(self.changed),
            "kinds": len(self.messages),
            "messages": dict(self.messages.most_common(12)),
        }


def message_kind(said: str, folder: pathlib.Path) -> str:
    """A message without what differs from input to input."""
    said = said.replace(str(folder), "FOLDER").encode("ascii", "replace").decode()
    said = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\{[^}]*\}", "...", said)
    said = re.sub(r"FOLDER\S*", "FILE", re.sub(r"-?\d[\d,.e+-]*", "N", said))
    return " ".join(said.split())[:100]


def run_target(
    begin: Callable[[pathlib.Path], Target],
    folder: pathlib.Path,
    *,
    seconds: float,
    seed: int,
    each: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Gives a target's reader damaged inputs for a time, and first the valid one, which must be read.

    Args:
      begin: of `targets.TARGETS`.
      folder: an empty one, which the reader may write in.
      seconds: of wall time, from when the target is ready.
      seed: of the inputs.
      each: called with the tally after each input.

    Raises:
      RuntimeError: the valid input is not read.
    """
    target, tally = start(begin, folder), Tally()
    before, end = listing(folder), time.monotonic() + seconds

    @settings(
        max_examples=_BATCH,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.examples)
    def attempt(example: Any) -> None:
        if time.monotonic() < end:
            outcome = judge(lambda: target.read(example), folder=folder, names=target.names)
            tally.add(outcome, example, folder)
            each(tally)

    while time.monotonic() < end:
        hypothesis.seed(seed)(attempt)()
        seed += 1
    tally.changed = changes(before, listing(folder))
    return tally


def start(begin: Callable[[pathlib.Path], Target], folder: pathlib.Path) -> Target:
    """A target whose valid input was read once, with what that imports and writes; RuntimeError if it is not read."""
    target = begin(folder)
    target.read(target.valid)
    if (outcome := judge(lambda: target.read(target.valid), folder=folder, names=target.names)).kind != "read":
        raise RuntimeError(f"the valid input is not read: {outcome}")
    return target


def keeper(into: pathlib.Path) -> Callable[[Tally], None]:
    """Writes a tally's record now and then: what is known when the process dies."""
    written = time.monotonic()

    def keep(tally: Tally) -> None:
        nonlocal written
        if time.monotonic() > written + 2:
            into.write_text(json.dumps(tally.record()))
            written = time.monotonic()

    return keep
