"""What the adapted networks make of shifted test images, and how far their features moved.

    python -m tlx.sweep experiments/lp_ft/sweep.py      # first: the runs
    python -m experiments.lp_ft.shifts                  # shifts.json, shifts.png and the tables of README.md

Of each way of adapting, the rate is the one with the best mean validation accuracy (clean images, see `choose`). No
shifted image, and no test image, has a part in any choice.
"""

import argparse
import collections
import functools
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from experiments.lp_ft import sweep
from tlx import pretrained
from tlx.data import source
from tlx.sweep import RUNS, run_folder
from tlx.sweep_table import mean_and_spread, update_table
from tlx.workdir import read_json, write_json

HERE = pathlib.Path(__file__).parent
ROOT = RUNS / HERE.name
BEGIN = "<!-- table: made by experiments.lp_ft.shifts -->"
BATCH = 1000


def rotate(images: np.ndarray, degrees: float = 30.0) -> np.ndarray:
    """Counter-clockwise about the centre, bilinear, 0 outside."""
    return scipy.ndimage.rotate(images, degrees, axes=(1, 2), reshape=False, order=1)


def add_noise(images: np.ndarray, std: float = 0.3, seed: int = 0) -> np.ndarray:
    """Gaussian, on every value; the result is clipped to [0, 1]."""
    noise = np.random.default_rng(seed).normal(scale=std, size=images.shape)
    return np.clip(images + noise, 0, 1).astype(np.float32)


def invert(images: np.ndarray) -> np.ndarray:
    return 1 - images


# Of float32 images [N, H, W, C] in [0, 1].
SHIFTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"rotated": rotate, "noised": add_noise, "inverted": invert}


def with_shifts(images: np.ndarray) -> dict[str, np.ndarray]:
    """uint8 [N, H, W, C] -> "clean" and each of SHIFTS, float32 in [0, 1]."""
    clean = images.astype(np.float32) / 255
    return {"clean": clean} | {name: shift(clean) for name, shift in SHIFTS.items()}


def feature_change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean over the images of |after - before| / |before|, Euclidean norms; both [N, D]."""
    norm = functools.partial(np.linalg.norm, axis=-1)
    return float(np.mean(norm(after - before) / norm(before)))


def choose(results: Sequence[Mapping[str, Any]], variants: Mapping[float, Any]) -> float:
    """The rate with the best mean validation accuracy; among equals, the lowest mean validation loss."""

    def score(rate: float) -> tuple[float, float]:
        mine = [record["figures"] for record in results if record["variant"] == variants[rate].label]
        mean = lambda figure: statistics.fmean(figures[figure] for figures in mine)
        return mean("validation"), -mean("validation loss")

    return max(variants, key=score)


@functools.partial(jax.jit, static_argnames=("model", "takes"))
def _forward(variables: Any, images: jax.Array, *, model: Any, takes: Any) -> tuple[jax.Array, jax.Array]:
    logits, levels = model.apply(variables, takes(images), train=False, features=True)
    return jnp.argmax(logits, -1), levels["pooled"]  # [B], [B, D]


def predict(run: pretrained.TrainedRun, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes [N] and pooled features [N, D] of float images [N, H, W, C]."""
    parts = [
        _forward(run.variables, images[at : at + BATCH], model=run.model, takes=run.takes)
        for at in range(0, len(images), BATCH)
    ]
    return tuple(np.concatenate([np.asarray(part[i]) for part in parts]) for i in range(2))


def measure(
    run: pretrained.TrainedRun,
    images: Mapping[str, np.ndarray],
    labels: np.ndarray,
    before: Mapping[str, np.ndarray] | None = None,
) -> dict[str, dict[str, float]]:
    """By set of images: the accuracy and, with the features `before`, how far they moved."""
    found = {name: predict(run, shifted) for name, shifted in images.items()}
    figures = {"accuracy": {name: float(np.mean(classes == labels)) for name, (classes, _) in found.items()}}
    if before:
        figures["change"] = {name: feature_change(before[name], features) for name, (_, features) in found.items()}
    return figures


def collect(data: str) -> dict[str, Any]:
    """Everything that is measured: {"sources": ..., "runs": [...]}."""
    results = read_json(HERE / "results.json")
    load_test = lambda name: source.load("idx", idx_dir=f"{data}/{name}").test
    own, target = load_test("fashion_mnist"), load_test("mnist")
    images = with_shifts(target.images)
    record: dict[str, Any] = {"sources": {}, "runs": []}
    features: dict[str, Any] = {"": None}
    for name in sweep.SOURCES:
        start = pretrained.load_run(run_folder(ROOT, sweep.pretrained(name), 0))
        record["sources"][name] = measure(start, with_shifts(own.images), own.labels)["accuracy"]
        features[name] = {shift: predict(start, shifted)[1] for shift, shifted in images.items()}
    for name, way in sweep.CELLS:
        variants = sweep.adapted(name, way)
        rate = choose(results, variants)
        for seed in variants[rate].seeds:
            run = pretrained.load_run(run_folder(ROOT, variants[rate], seed))
            figures = measure(run, images, target.labels, features[name])
            record["runs"].append({"source": name, "regime": way, "rate": rate, "seed": seed, **figures})
    return record


def out_of_distribution(figures: Mapping[str, float]) -> float:
    """The mean over the shifts."""
    return statistics.fmean(figures[name] for name in SHIFTS)


def by_cell(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """(source, regime) -> its runs, by seed."""
    cells = collections.defaultdict(list)
    for run in runs:
        cells[run["source"], run["regime"]].append(run)
    return cells


def tables(record: Mapping[str, Any]) -> str:
    """Markdown: accuracies and changes of the features; then the differences that the paper publishes."""
    lines = [["source", "regime", "rate", "clean (ID)", *SHIFTS, "mean of shifts (OOD)", "moved, ID", "moved, OOD"]]
    lines.append(["---", "---"] + ["---:"] * (len(lines[0]) - 2))
    cells = by_cell(record["runs"])
    for (name, way), runs in cells.items():
        row = [name or "-", way, f"{runs[0]['rate']:g}"]
        row += [mean_and_spread([run["accuracy"][shift] for run in runs]) for shift in ("clean", *SHIFTS)]
        row.append(mean_and_spread([out_of_distribution(run["accuracy"]) for run in runs]))
        changes = [run["change"] for run in runs if "change" in run]
        row.append(mean_and_spread([change["clean"] for change in changes]))
        row.append(mean_and_spread([out_of_distribution(change) for change in changes]))
        lines.append(row)
    lines += [[], ["difference in accuracy", "published", *record["sources"]], ["---"] + ["---:"] * 3]
    clean, shifted = (lambda figures: figures["clean"]), out_of_distribution
    for what, figure, ours, theirs, published in (
        ("ID: full - linear", clean, "full", "linear", "+0.02"),
        ("OOD: full - linear", shifted, "full", "linear", "-0.07"),
        ("ID: lp_ft - full", clean, "lp_ft", "full", "+0.01"),
        ("OOD: lp_ft - full", shifted, "lp_ft", "full", "+0.10"),
        ("ID: lp_ft - linear", clean, "lp_ft", "linear", "(+0.03)"),  # the sums of the published ones
        ("OOD: lp_ft - linear", shifted, "lp_ft", "linear", "(+0.03)"),
    ):
        row = [what, published]
        for name in record["sources"]:
            pairs = zip(cells[name, ours], cells[name, theirs])  # of the same seed: labels and first head
            row.append(mean_and_spread([figure(a["accuracy"]) - figure(b["accuracy"]) for a, b in pairs]))
        lines.append(row)
    return "\n".join("| " + " | ".join(line) + " |" if line else "" for line in lines)


def draw(record: Mapping[str, Any], path: pathlib.Path) -> None:
    """In against out of distribution: a small dot a run, a large one their mean; one axes for each source."""
    from matplotlib.figure import Figure

    from tlx import plots

    color = dict(zip(("full", "linear", "lp_ft", "scratch"), (plots.COLOR[name] for name in plots.CYCLE)))
    with plots.style():
        figure = Figure(figsize=(7.2, 3.3), layout="constrained")
        for ax, name in zip(figure.subplots(1, 2, sharex=True, sharey=True), record["sources"]):
            for (source_name, way), runs in by_cell(record["runs"]).items():
                if source_name not in ("", name):
                    continue
                x = [100 * run["accuracy"]["clean"] for run in runs]
                y = [100 * out_of_distribution(run["accuracy"]) for run in runs]
                ax.scatter(x, y, s=9, color=color[way], alpha=0.5, linewidths=0)
                ax.scatter(statistics.fmean(x), statistics.fmean(y), s=55, color=color[way], label=way)
            ax.set_title(f"{name} features", loc="left", weight="bold", size=10)
            ax.set_xlabel("clean test images (ID), %")
        figure.axes[0].set_ylabel("mean of the three shifts (OOD), %")
        figure.axes[1].legend(frameon=False, loc="best")
        plots.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.lp_ft.shifts", description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data", help="the folder of fashion_mnist/ and mnist/")
    record = collect(parser.parse_args().data)
    write_json(HERE / "shifts.json", record)
    update_table(HERE / "README.md", tables(record), begin=BEGIN)
    draw(record, HERE / "shifts.png")


if __name__ == "__main__":
    main()
