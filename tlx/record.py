"""What a run's folder says, read back: config, curves, final figures, gallery. Whatever is optional may be absent."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tlx import npz, pseudo_diagnostics
from tlx.errors import UserError
from tlx.workdir import BrokenSeal, opened, read_json


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's folder says.

    `metrics` has one entry for each (phase, step); `result` is None until the run ends; `strategy` is None unless the
    freeze rule chose one; `pseudo_labels` has `tlx.pseudo_diagnostics.diagnose`'s account of each round.
    """

    path: pathlib.Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    result: dict[str, Any] | None
    gallery: dict[str, np.ndarray]
    strategy: dict[str, Any] | None = None
    pseudo_labels: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        """`key` of the result, else of the config: `name`, `recipe`, `seed`, `rounds`, `figures`, ..."""
        value = (self.result or {}).get(key)
        value = self.config.get(key) if value is None and key in ("name", "recipe", "seed") else value
        return default if value is None else value


def load(run_dir: str | pathlib.Path) -> Run:
    """Reads a run's folder.

    Raises:
      UserError: there is no such folder, it is not a run's, or a file in it is broken.
    """
    path = pathlib.Path(run_dir).expanduser()
    if not path.is_dir():
        raise UserError(f"{path} is {'a file' if path.exists() else 'missing'}: name the folder (--workdir) of a run")
    records = ("config.json", "metrics.jsonl", "result.json")
    if not any((path / name).exists() for name in records):
        raise UserError(f"{path} holds none of {', '.join(records)}: name the folder (--workdir) of a run")
    config, result = (read_json(path / name) if (path / name).exists() else None for name in records[::2])
    for name, value in (("config.json", config), ("result.json", result)):
        if not isinstance(value, dict | None):
            raise UserError(f"{path / name} holds a {type(value).__name__}, not an object: restore it or run again")
    return Run(
        path=path,
        config=config or {},
        metrics=_read_metrics(path / "metrics.jsonl"),
        result=result,
        gallery=_read_gallery(path / "gallery.npz"),
        strategy=read_json(path / "strategy.json") if (path / "strategy.json").exists() else None,
        pseudo_labels=pseudo_diagnostics.load(path),
    )


def _read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    rows: dict[tuple[str, int], dict] = {}
    for i, line in enumerate(lines):
        try:
            row = opened(json.loads(line), seal=False)
            # The last line of a (phase, step) wins: a run that was killed writes some steps twice.
            phase, number = str(row["phase"]), int(row["step"])
            rows.setdefault((phase, number), {}).update(row | {"phase": phase, "step": number})
        except BrokenSeal as e:
            raise UserError(f"{path} line {i + 1} {e}: delete it") from None
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            if i + 1 < len(lines):  # a last line that was cut off is how a killed run ends
                raise UserError(f"{path} line {i + 1} is not a JSON object with phase and step: delete it") from None
    return list(rows.values())


def _read_gallery(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    try:
        npz.check(path)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as e:  # zipfile, zlib and numpy raise a dozen types between them
        raise UserError(f"{path} is not an npz file ({e}): delete it, the report does without") from None


def timeline(metrics: Iterable[Mapping]) -> tuple[dict, dict]:
    """Lays the phases of a run end to end.

    Args:
      metrics: the lines of `metrics.jsonl`: `phase`, `step`, and floats under `split/name` keys.

    Returns:
      `(spans, series)`: `spans[phase] = (start, end)` in steps since the run's beginning; `series[name][split][phase]
      = (x, y)`, two float arrays, NaN where the file has null. Steps may restart in every phase or run on
      through all of them.
    """
    steps: dict[str, list[int]] = {}
    for row in metrics:
        steps.setdefault(row["phase"], []).append(row["step"])
    bounds = [(min(values), max(values)) for values in steps.values()]
    runs_on = all(low > high for (_, high), (low, _) in itertools.pairwise(bounds))
    spans, offsets, end = {}, {}, 0
    for phase, (_, high) in zip(steps, bounds):
        offsets[phase] = 0 if runs_on else end
        spans[phase] = (end, high + offsets[phase])
        end = spans[phase][1]
    points: dict = {}
    for row in metrics:
        for key, value in row.items():
            if key in ("phase", "step") or not isinstance(value, float | int | None):
                continue
            split, _, name = key.partition("/") if "/" in key else ("", "", key)
            x, y = points.setdefault(name, {}).setdefault(split, {}).setdefault(row["phase"], ([], []))
            x.append(row["step"] + offsets[row["phase"]])
            y.append(np.nan if value is None else value)
    as_arrays = lambda line: tuple(np.asarray(values, float) for values in line)
    series = {
        name: {split: {phase: as_arrays(line) for phase, line in lines.items()} for split, lines in splits.items()}
        for name, splits in points.items()
    }
    return spans, series


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        k: v for key, sub in tree.items() for k, v in flatten(sub, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def is_fraction(name: str) -> bool:
    """Whether a figure of this name is a fraction in [0, 1] that people read as a percentage."""
    return "accuracy" in name or "agreement" in name
