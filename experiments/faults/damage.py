"""Files of a run's folder with a bit flipped or an end cut off, in a finished run and in one that was interrupted."""

import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.faults import kills
from experiments.faults.child import start
from experiments.faults.small_run import where
from experiments.faults.trial import LOST, Trial, judge

# What the folder's files are; those that a run has none of yet are passed over.
KINDS = {
    "checkpoint, arrays": "checkpoints/*/*/state/**/d/*",
    "checkpoint, orbax's notes": "checkpoints/*/*/**/[_mp]*[!s]",  # manifest.ocdbt, _METADATA, process_0, ...
    "checkpoint, meta": "checkpoints/*/*/meta/metadata",
    "checkpoint, figures": "checkpoints/*/*/metrics/metrics",
    "phases/*.json": "phases/*.json",
    "pseudo_labels/*.npz": "pseudo_labels/*.npz",
    "pseudo_labels/*.json": "pseudo_labels/*.json",
    **{name: name for name in ("ledger.json", "splits.json", "task.json", "config.json", "metrics.jsonl")},
    "result.json": "result.json",
}


def files(
    folder: pathlib.Path,
    whole: pathlib.Path,
    state: str,
    undisturbed: dict[str, Any],
    *,
    kinds: list[str],
    flips: int,
    cuts: int,
    rng: np.random.Generator,
) -> Iterator[Trial]:
    """Each kind of file damaged in copies of the run in `whole`, which is `state`, and the run gone on with."""
    for kind in kinds:
        found = sorted(path.relative_to(whole) for path in whole.glob(KINDS[kind]) if path.is_file())
        found = [path for path in found if (whole / path).stat().st_size]
        for how in (["a bit flipped"] * flips + ["cut off"] * cuts) if found else ():
            path = found[rng.integers(len(found))]
            workdir = folder / "run"
            shutil.rmtree(workdir, ignore_errors=True)
            shutil.copytree(whole, workdir)
            at = _damage(workdir / path, how, rng)

            def mended(workdir: pathlib.Path = workdir, path: pathlib.Path = path) -> Any:
                (workdir / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(whole / path, workdir / path)
                return start(workdir).wait()

            outcome, said = judge(start(workdir).wait(), undisturbed, mended)
            yield Trial(f"{kind}: {how}", f"{state} run, {path} {at}", state, outcome, said)


def of_two_hosts(folder: pathlib.Path, victims: list[tuple[int, str]], rng: np.random.Generator) -> Iterator[Trial]:
    """Two processes between which the state is split; in the newest checkpoint, the part of one is damaged.

    Both were killed, and both go on: with the checkpoint before it, since one of them cannot read this one.

    Args:
      folder: for their runs.
      victims: (whose part, "a bit flipped" or "cut off").
    """
    whole = [child.wait() for child in kills.two(folder / "whole", "fsdp")]
    half = folder / "half"
    both = kills.two(half, "fsdp")
    both[0].wait((half / "checkpoints/round_2/4").exists)
    for child in both:
        child.kill()
    state = where(half)
    newest = max((half / "checkpoints/round_2").glob("[0-9]"), key=lambda path: int(path.name))
    for victim, how in victims:
        workdir = folder / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(half, workdir)
        files = (workdir / newest.relative_to(half) / f"state/ocdbt.process_{victim}/d").iterdir()
        path = max(files, key=lambda path: path.stat().st_size)
        at = _damage(path, how, rng)
        again = [child.wait() for child in kills.two(workdir, "fsdp")]
        outcome, said = judge(again[0], whole[0].end, lambda again=again: again[0])
        if again[1].code != again[0].code:
            outcome, said = LOST, f"host 1: {again[1].last_line}"
        yield Trial(f"of two hosts' checkpoint: {how}", f"host {victim}'s part, {at}", state, outcome, said)


def _damage(path: pathlib.Path, how: str, rng: np.random.Generator) -> str:
    content = bytearray(path.read_bytes())
    at = int(rng.integers(len(content)))
    if how == "cut off":
        path.write_bytes(content[:at])
        return f"after {at} of {len(content)} bytes"
    bit = int(rng.integers(8))
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"byte {at}, bit {bit}"
