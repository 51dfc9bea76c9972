"""The paper's figures beside ours, and temperature against width drawn: `python -m experiments.hinton2015.table`.

Reads `results.json` and, for the omitted classes, the runs themselves (`runs/experiments/hinton2015`, or what
`corrections.json` has of them); trains nothing. Writes `corrections.json`, `temperature.png` and README.md's table.
"""

import pathlib
import statistics

import jax
import numpy as np

from experiments import paired
from experiments.hinton2015.sweep import SEEDS, TEMPERATURES, VARIANTS, WIDTHS
from tlx import bias_correction, plots
from tlx.data import source
from tlx.pretrained import load_run
from tlx.sweep import RUNS
from tlx.sweep_table import update_table
from tlx.workdir import read_json, write_json

HERE = pathlib.Path(__file__).parent
BEGIN = "<!-- table: made by experiments.hinton2015.table -->"
OMITTED = {
    "distilled without 3s": (3,),
    "distilled from 7s and 8s": (0, 1, 2, 3, 4, 5, 6, 9),
    "distilled without 3s, long": (3,),
}
PUBLISHED = {
    "teacher": "67",
    "hard labels": "146",
    "distilled": "74",
    "distilled without 3s": "206 (133)",
    "distilled without 3s, bias fitted on validation images": "-",
    "distilled without 3s, bias fitted on the test set": "109 (14)",
    "distilled from 7s and 8s": "4730",
    "distilled from 7s and 8s, bias fitted on validation images": "-",
    "distilled from 7s and 8s, bias fitted on the test set": "1320",
    "distilled, long": "74",
    "distilled without 3s, long": "206 (133)",
    "distilled without 3s, long, bias fitted on validation images": "-",
    "distilled without 3s, long, bias fitted on the test set": "109 (14)",
}


def main() -> None:
    results = paired.read(HERE)
    errors = {variant.label: list(paired.errors(results, (variant.label, "test")).values()) for variant in VARIANTS}
    corrected = corrections()
    write_json(HERE / "corrections.json", corrected)
    rows = []
    for name, published in PUBLISHED.items():
        variant, _, how = name.partition(", bias fitted on ")
        found = [c for c in corrected if c["variant"] == variant]
        key = {"": "as trained", "validation images": "validation", "the test set": "test set"}[how]
        if variant in OMITTED:
            all_and_omitted = ([c[key][what] for c in found] for what in ("errors", "of omitted classes"))
            cell = "{} ({})".format(*map(paired.show, all_and_omitted))
        else:
            cell = paired.show(errors[variant])
        count = len(found) if variant in OMITTED else len(errors[variant])
        rows.append(f"| {name} | {count} | {published} | {cell} |")
    head = ["| errors of 10,000 (of the omitted classes) | n | published | measured |", "| --- | ---: | ---: | ---: |"]
    update_table(HERE / "README.md", "\n".join(head + rows), begin=BEGIN)
    print("\n".join(head + rows))
    plots.save(draw(errors), HERE / "temperature.png")


def corrections() -> list[dict]:
    """Of each run without some classes: its errors, and those among the omitted classes, by how the bias was fitted."""
    path, found = HERE / "corrections.json", []
    before = {(c["variant"], c["seed"]): c for c in (read_json(path) if path.exists() else [])}
    test = None
    for variant, omitted in OMITTED.items():
        for seed in SEEDS:
            folder = RUNS / "hinton2015" / f"{variant.replace(',', '_').replace(' ', '_')}-seed{seed}"
            if not (folder / "result.json").exists():
                found += [before[variant, seed]] if (variant, seed) in before else []
                continue
            run = load_run(folder)
            test = test or source.load("idx", idx_dir=read_json(folder / "config.json")["data"]["idx_dir"]).test
            apply, images = run.make_apply(), test.images / np.float32(255)
            logits = np.asarray(jax.jit(lambda v, x, apply=apply: apply(v, x, train=False)[0])(run.variables, images))
            logits = logits - np.float32(run.result["selected"]["bias"])
            offsets = {
                "as trained": 0.0,
                "validation": run.result["bias_correction"]["offset"],
                "test set": bias_correction.fit(logits, test.labels, omitted),
            }
            record: dict = {"variant": variant, "seed": seed}
            for how, offset in offsets.items():
                wrong = np.argmax(bias_correction.apply(logits, omitted, offset), -1) != test.labels
                of_omitted = int(np.sum(wrong & np.isin(test.labels, omitted)))
                record[how] = {"offset": offset, "errors": int(np.sum(wrong)), "of omitted classes": of_omitted}
            found.append(record)
    return found


@plots.style()
def draw(errors: dict[str, list[int]]):
    """Test errors against the temperature, one line a width; returns a `matplotlib.figure.Figure`."""
    figure, ax = plots.axes(3.2, top=0.4, right=1.6, bottom=0.5)
    for units, color in zip(WIDTHS, ("green", "blue", "red"), strict=True):
        tint = plots.COLOR[color]
        row = lambda t, units=units: "distilled" if (units, t) == (800, 20.0) else f"{units} units: T = {t:g}"
        points = [(t, errors[row(t)]) for t in TEMPERATURES]
        points = [(t, values) for t, values in points if values]
        if not points:
            continue
        means = [statistics.fmean(values) for _, values in points]
        hard = errors["hard labels" if units == 800 else f"{units} units: hard labels"]
        # Against the best of the line, since the widths are hundreds of errors apart.
        ax.plot([t for t, _ in points], [100 * m / min(means) for m in means], "o-", color=tint, label=f"{units} units")
        if hard:
            ax.axhline(100 * statistics.fmean(hard) / min(means), color=tint, linestyle=":", label="its hard labels")
    ax.set_xscale("log")
    ax.set_xticks(TEMPERATURES, [f"{t:g}" for t in TEMPERATURES])
    ax.minorticks_off()
    ax.set_xlabel("temperature")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    plots.title(figure, "test errors, the best temperature = 100", "mean of seeds")
    return figure


if __name__ == "__main__":
    main()
