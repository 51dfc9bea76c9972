"""Where the time of a step goes: a trace of a few steps, and the most expensive operations in it.

    python -m tlx.main --config=... --workdir=runs/x --profile

The trace is of steps of the run's first phase that is long enough, when everything is compiled; the run itself goes on
as always. It lies in the workdir's folder `profile`, for https://ui.perfetto.dev (the `.json.gz`) or xprof.
"""

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import rich.markup

from tlx import progress
from tlx.errors import UserError, reading

FIRST, STEPS = 5, 10  # of the calls that a loop makes, those in the trace: 5 to 14
MOST = 5
_folder: pathlib.Path | None = None


@contextlib.contextmanager
def on(folder: pathlib.Path) -> Iterator[None]:
    """Within, the first loop of `tlx.loop.fit` that makes more than FIRST + STEPS calls is traced into `folder`."""
    global _folder
    before, _folder = _folder, folder
    try:
        yield
        if _folder is not None:
            progress.say(
                f"no trace: --profile wants a phase of more than {FIRST + STEPS} steps that are still to be made"
            )
    finally:
        _folder = before


class Profiler:
    """What a loop calls before each step, and once when it is over; while `on` is not entered, it does nothing."""

    def __init__(self, steps: int, stride: int = 1):
        """`stride`: how many of the `steps` a call takes; what is said of a step is said of each."""
        self._left = FIRST + STEPS if _folder is not None and steps > (FIRST + STEPS) * stride else 0
        self._steps = STEPS * stride
        self._shapes: tuple = ()
        self._program: Any = None

    def look(self, program: Callable, arguments: tuple) -> None:
        """`program(*arguments)` is about to be called; what was called before may still be under way."""
        if not self._left:
            return
        self._left -= 1
        if self._left == STEPS:
            jax.block_until_ready(arguments)
            self._program, self._shapes = program, jax.tree.map(_shape, arguments)
            jax.profiler.start_trace(str(_folder))
        elif self._left == 0:
            jax.block_until_ready(arguments)
            self._stop()
            self._show()

    def close(self) -> None:
        """Ends a trace that a loop was stopped in."""
        if 0 < self._left < STEPS:
            self._stop()

    def _stop(self) -> None:
        global _folder
        self._left, self._folder, _folder = 0, _folder, None
        jax.profiler.stop_trace()

    def _show(self) -> None:
        (path,) = sorted(self._folder.rglob("*.xplane.pb"))[-1:]
        try:
            costs = operations(path)
        except UserError as e:  # of a full disk, say: the run is none the worse
            return progress.say(f"[yellow]{rich.markup.escape(str(e))}[/yellow]")
        if not costs:  # a backend that names its operations otherwise: the trace is there, and the run goes on
            return progress.say(f"trace, in which no operation is named as expected: {path.parent}")
        whole = {program: sum(of.values()) for program, of in costs.items()}
        total, largest = sum(whole.values()), max(whole, key=whole.get)  # besides the step: evaluation, reading
        sources = _sources(self._program, self._shapes)
        flat = [(seconds, program, name) for program, of in costs.items() for name, seconds in of.items()]
        rows = []
        for seconds, program, name in sorted(flat, reverse=True)[:MOST]:
            source = sources.get(name, "") if program == largest else f"another program, {program[0]}"
            rows.append([f"{seconds / total:.0%}", f"{1e3 * seconds / self._steps:.3f}", name, source])
        progress.say(
            f"{self._steps} steps: {1e3 * total / self._steps:.3f} ms of operations a step, of which most take:"
        )
        progress.say(progress.grid(["share", "ms a step", "operation", "of"], rows, numeric=(0, 1), wrap=(3,)))
        progress.say(f"trace: {path.parent}")


def operations(path: pathlib.Path) -> dict[tuple[str, str], dict[str, float]]:
    """(program's name, its number) -> operation -> seconds, over all threads, without what was called within it.

    Raises UserError for a trace that is damaged.
    """
    costs: dict[tuple[str, str], dict[str, float]] = {}
    with reading(path, remedy="trace the run again"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                events = ((e.start_ns, e.duration_ns, {"kernel": e.name, **dict(e.stats)}) for e in line.events)
                # On a GPU nothing calls anything: kernels that overlap run beside each other.
                own = _all_time if plane.name.startswith("/device:GPU") else _own_time
                for stats, nanoseconds in own(event for event in events if "hlo_op" in event[2]):
                    of = costs.setdefault((str(stats.get("hlo_module", "?")), str(stats.get("program_id", ""))), {})
                    name = _operation(stats)
                    of[name] = of.get(name, 0.0) + 1e-9 * nanoseconds
    return costs


def _operation(stats: Mapping[str, Any]) -> str:
    """The operation that an event is of. Of a kernel in a CUDA graph XLA names the graph; the kernel itself is named
    after its operation, with an underscore for the dot before the number, or after the library's that it is of."""
    name = str(stats["hlo_op"])
    return re.sub(r"_(\d+)$", r".\1", str(stats["kernel"])) if name.startswith("command_buffer") else name


def _own_time(events: Iterable[tuple[float, float, Mapping]]) -> Iterator[tuple[Mapping, float]]:
    """Each event's time, less that of the events inside it: a loop's is not that of its body."""
    around: list[list[Any]] = []  # [end, stats, own time], the outer ones first
    for start, length, stats in sorted(events, key=lambda event: (event[0], -event[1])):
        while around and around[-1][0] <= start:
            yield tuple(around.pop()[1:])
        if around:
            around[-1][2] -= length
        around.append([start + length, stats, length])
    yield from (tuple(event[1:]) for event in around)


def _all_time(events: Iterable[tuple[float, float, Mapping]]) -> Iterator[tuple[Mapping, float]]:
    """Each event's time, as it is."""
    yield from ((stats, length) for _, length, stats in events)


def _shape(x: Any) -> Any:
    """An argument without its values, which the step donates."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) if isinstance(x, jax.Array) else x


def _sources(program: Any, shapes: tuple) -> dict[str, str]:
    """`sources` of a program; of a pmapped one jax does not say them."""
    return sources(program.lower(*shapes).compile().as_text()) if hasattr(program, "lower") else {}


def sources(text: str) -> dict[str, str]:
    """Operation -> the path by which it came from the step, by the text of a compiled program."""
    found = re.findall(r'%?([\w.\-]+) = .*metadata=\{[^}]*op_name="([^"]+)"', text)
    return {name: _readable(source) for name, source in found}


def _readable(source: str) -> str:
    """ "jit(step)/transpose(jvp(Classifier))/backbone/stage1/conv/..." is the gradient of what is below it."""
    source = re.sub(r"transpose\(jvp\(\w*\)\)/", "gradient of ", source.removeprefix("jit(step)/"))
    return re.sub(r"jvp\(\w*\)/", "", source)
