"""What a person sees while a run goes on: a bar for the phase under way, and one line for each thing that ended."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text

from tlx import hosts

# 80 columns, which rich assumes of a file or a pipe, would break every table.
console = rich.console.Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def say(line: object) -> None:
    """Prints on host 0 only, above the bar if there is one."""
    if hosts.is_first():
        console.print(line, soft_wrap=isinstance(line, str))


class Bar:
    """One phase's progress; redrawn five times a second at most, and only on a terminal."""

    def __init__(self, progress: rich.progress.Progress | None = None, task: rich.progress.TaskID | None = None):
        """Without arguments, a bar that shows nothing."""
        self._progress, self._task, self._drawn = progress, task, 0.0

    def due(self) -> bool:
        """Whether a redraw is due, so that metrics are fetched from the device only for a bar that shows them."""
        return self._progress is not None and time.monotonic() - self._drawn > 0.2

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        self._drawn = time.monotonic()
        if self._progress is not None:
            shown = "  ".join(f"{name} {metrics[name]:.3f}" for name in ("loss", "accuracy") if name in metrics)
            self._progress.update(self._task, completed=step, metrics=shown)

    def advance(self) -> None:
        """One more, of things that have no metrics."""
        if self._progress is not None:
            self._progress.advance(self._task)


@contextlib.contextmanager
def bar(phase: str, *, total: int, start: int, note: str = "compiling") -> Iterator[Bar]:
    """A bar from `start` to `total` steps, with loss, accuracy and the time left; gone when the phase is over.

    Before the first metrics it shows `note` in their place.
    """
    if not console.is_terminal or not hosts.is_first():
        yield Bar()
        return
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[metrics]}"),
        rich.progress.TimeRemainingColumn(),
    )
    console.file = sys.stdout  # now, so that the bar goes on while `builders.quiet` has another stdout in its place
    try:
        with rich.progress.Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(phase, total=total, completed=start, metrics=note)
            yield Bar(progress, task)
    finally:
        console.file = None


def grid(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numeric: Sequence[int] = (),
    dim: Sequence[int] = (),
    wrap: Sequence[int] = (),
) -> rich.table.Table:
    """Texts under headings; `numeric` columns to the right, `dim` rows stand back, only `wrap` columns are broken."""
    made = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(head):
        made.add_column(name, justify="right" if i in numeric else "left", no_wrap=i not in wrap)
    for i, cells in enumerate(rows):
        # Text: a "[" in it is no markup.
        made.add_row(*(rich.text.Text(cell) for cell in cells), style="dim" if i in dim else None)
    return made


def table(title: str, rows: list[Mapping[str, object]]) -> rich.table.Table:
    """Rows of the same keys as a table; numbers to the right."""
    made = rich.table.Table(title=title, title_justify="left", title_style="bold")
    for name, value in (rows[0] if rows else {}).items():
        made.add_column(name.replace("_", " "), justify="right" if isinstance(value, int | float) else "left")
    for row in rows:
        made.add_row(*(f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else str(v) for v in row.values()))
    return made
