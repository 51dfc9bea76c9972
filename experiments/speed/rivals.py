"""Sides of a comparison: each a process of its own, which works only while it is asked to.

A side offers tasks by name. Asked for one, it takes two steps unseen, then so many against the clock, and waits until
they are done. So two libraries never share a process, and the machine is the same for both: they take turns.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import select
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

Task = Callable[[int], None]  # takes so many steps, and waits for the last
UNSEEN = 2


def claim_output() -> TextIO:
    """Standard output, which from now on is the caller's alone: what libraries print goes to standard error."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answer


def serve(
    answer: TextIO,
    tasks: Mapping[str, Task],
    about: Mapping[str, Any],
    *,
    threads: int = 1,
    rest: Callable = lambda: None,
) -> None:
    """Answers what is asked on standard input, a JSON object a line, until that is closed.

    Args:
      answer: from `claim_output`.
      tasks: by name; one that has `learn(seed) -> accuracy`, or `profile(folder) -> operations`, is asked for it too.
      about: what the side says of itself.
      threads: above 1, so many of the tasks that have an attribute `compile` do so at once, before each takes its first
        step; with 1 the first step compiles.
      rest: called when a turn is over.
    """

    def timed(call: Callable, *given: Any) -> dict[str, Any]:
        began = time.perf_counter()
        try:
            found = call(*given)
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        said = {"seconds": time.perf_counter() - began}
        return said | ({"found": found} if isinstance(found, float | list) else {})

    def profile(name: str, folder: str) -> Any:
        return tasks[name].profile(folder)

    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "prepare":
            if threads > 1:
                with concurrent.futures.ThreadPoolExecutor(threads) as pool:
                    compiles = [pool.submit(task.compile) for task in tasks.values() if hasattr(task, "compile")]
                print([repr(future.exception()) for future in compiles if future.exception()], file=sys.stderr)
            said: Any = dict(about, first={name: timed(tasks[name], 1) for name in tasks})
        elif asked["do"] == "learn":
            said = timed(tasks[asked["task"]].learn, asked["seed"])
        elif asked["do"] == "profile":
            said = timed(profile, asked["task"], asked["folder"])
        else:
            unseen = timed(tasks[asked["do"]], UNSEEN)
            said = unseen if "error" in unseen else timed(tasks[asked["do"]], asked["steps"])
        rest()
        print(json.dumps(said), file=answer, flush=True)


class Side:
    """A side's process. What goes wrong with it is an answer, {"error"}: the other side's rows go on."""

    def __init__(self, name: str, module: str, *arguments: str, log: pathlib.Path | None = None, **env: str):
        self.name = name
        self._log = log.open("w") if log else None
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=os.environ | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, *, patience: float, **what: Any) -> dict[str, Any]:
        """The answer; after `patience` seconds without one, the process is ended."""
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"error": f"{self.name} has died: {self._process.wait()}"}
        if not select.select([self._process.stdout], [], [], patience)[0]:
            self._process.kill()
            return {"error": f"{self.name} gave no answer in {patience:.0f} s"}
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": f"{self.name} has died: {self._process.wait()}"}

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        if self._log:
            self._log.close()


def accuracies(
    players: Sequence[tuple[Side, str]], *, seeds: int, patience: float
) -> dict[tuple[str, str], list[float]]:
    """(side, task) -> what `learn` gives with each seed; those that fail are left out."""
    found: dict[tuple[str, str], list[float]] = {}
    for seed in range(seeds):
        for side, task in players:
            said = side.ask(do="learn", task=task, seed=seed, patience=patience)
            if "found" in said:
                found.setdefault((side.name, task), []).append(said["found"])
    return found


def take_turns(
    players: Sequence[tuple[Side, str]], *, seconds: float, repeats: int
) -> dict[tuple[str, str], dict[str, Any]]:
    """Times tasks of several sides in alternation.

    Args:
      players: (side, task), in the order of their turns.
      seconds: about how long a turn should be.
      repeats: turns of each.

    Returns:
      (side, task) -> {"seconds": median of a step, "fastest", "slowest", "steps" of a turn}, or {"error"}.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    steps, times = {}, {}
    for repeat in range(repeats + 1):  # the first measures how many steps a turn should have
        for side, task in players:
            key = side.name, task
            if "error" in found.get(key, {}):
                continue
            said = side.ask(do=task, steps=steps.get(key, 3), patience=60 + 20 * seconds)
            if "error" in said:
                found[key] = said
            elif repeat == 0:
                steps[key], times[key] = min(500, max(3, round(3 * seconds / said["seconds"]))), []
            else:
                times[key].append(said["seconds"] / steps[key])
    for key, values in times.items():
        if key not in found:
            found[key] = {"seconds": statistics.median(values), "fastest": min(values), "slowest": max(values)}
            found[key] |= {"steps": steps[key]}
    return found
