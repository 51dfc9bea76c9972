"""The small run in a process of its own, forked from one that has imported everything and has touched no device.

So it starts at once, and can be killed a hundred times.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax

import tlx.report
from experiments.faults import small_run
from tlx.errors import UserError
from tlx.recipes import self_train

HANG = 1200.0  # seconds after which a run is taken to hang; on idle cores it takes a few, among others a minute or five


@dataclasses.dataclass
class Child:
    """A process under way.

    Attributes:
      code: what it ended with (minus the signal that killed it); None while it runs.
      seconds: how long it took.
      hung: whether it had to be killed by `wait`.
    """

    pid: int
    output: pathlib.Path
    started: float = dataclasses.field(default_factory=time.monotonic)
    code: int | None = None
    seconds: float = 0.0
    hung: bool = False

    def ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code, self.seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self.started
        return self.code is not None

    def wait(self, until: Callable[[], bool] = lambda: False, seconds: float = HANG) -> "Child":
        """Until it has ended, or `until()`; after so many seconds it hangs, and is killed."""
        deadline = time.monotonic() + seconds
        while not self.ended() and not until():
            time.sleep(0.001)
            if time.monotonic() > deadline:
                self.kill()
                self.hung = True
        return self

    def kill(self) -> None:
        """SIGKILL, and returns when it is dead."""
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            while not self.ended():
                time.sleep(0.001)

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def refused(self) -> bool:
        """Whether it ended as `tlx.main` does where the user has something to mend: one line, exit code 2."""
        said = self.said
        return self.code == 2 and said.count("error: ") == 1 and "Traceback" not in said

    @property
    def last_line(self) -> str:
        lines = self.said.strip().splitlines() or [f"exit code {self.code}"]
        return ("hung: " if self.hung else "") + lines[-1][:300]

    @property
    def end(self) -> dict[str, Any] | None:
        """What the run came to, see `small_run.end`; None if it did not get there."""
        path = self.output.with_suffix(".json")
        return json.loads(path.read_text()) if self.code == 0 else None

    @property
    def said(self) -> str:
        """What it printed."""
        return self.output.read_text(errors="replace")


def start(workdir: pathlib.Path, prepare: Callable[[], None] = lambda: None, harness: str = "jit") -> Child:
    """Runs, or goes on with, the small run in `workdir`. `prepare` is called in the child, before."""
    handle, output = tempfile.mkstemp(prefix="child-", suffix=".txt")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(handle)
        return Child(pid, pathlib.Path(output))
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(handle, stream)
        # Drawing the report takes longer than all the rest, and nothing is read from it.
        tlx.report.write = lambda folder: (folder / "report.html").write_text("not drawn")
        prepare()
        self_train.run(small_run.config(harness), workdir)
        pathlib.Path(output).with_suffix(".json").write_text(json.dumps(small_run.end(workdir)))
        code = 0
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        code = 2
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            if jax.distributed.is_initialized():
                jax.distributed.shutdown()  # as at the end of any process that joined others: it may wait for them
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
