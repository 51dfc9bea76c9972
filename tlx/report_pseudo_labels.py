"""The section of a report on what the teachers said of the unlabelled images, round by round."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tlx import page, plots
from tlx.record import Run

_OPEN = 25  # more classes than these are shown on a click


def pseudo_labels(run: Run, draw: Callable) -> page.Html:
    if not run.pseudo_labels:
        return page.Html()
    *earlier, (last, diagnosis) = run.pseudo_labels.items()
    note = (
        "Images: each unlabelled one counts once, however often it is drawn. Accuracy looks at their hidden truth, "
        "where it is known. That serves this diagnosis only and is never used in training, selection or promotion."
    )
    return page.section(
        "What the teachers said",
        f"<p class=note>{note}</p><h3>Round {last}</h3>",
        _round(last, diagnosis, draw),
        *(page.folded(f"Round {number}", _round(number, said, draw)) for number, said in reversed(earlier)),
    )


def _round(number: int, said: Mapping[str, Any], draw: Callable) -> str:
    caption = (
        "All unlabelled images in bins by the confidence of the teacher. Above: how often it is right, by its mean "
        "confidence; below the dashed line it is surer than it is right. Below: how many images."
    )
    confusions = [(r["true"], r["taken_for"], f"{r['count']:,}", f"{r['confidence']:.3f}") for r in said["confusions"]]
    wrong = (
        page.table(("true", "taken for", "images", "mean confidence"), confusions, numeric=[2, 3])
        if confusions
        else "<p>None among the labels that count.</p>"
    )
    return (
        f"<p>{page.text(_story(said))}</p><div class=pair>"
        f"{draw(f'pseudo_labels_{number}', by_confidence(said['bins']), caption)}"
        f"<div><h3>Most frequent mistakes</h3>{wrong}{_dropped(said)}</div></div>{_classes(said['classes'])}"
    )


def _story(said: Mapping[str, Any]) -> str:
    """The round's counts in sentences."""
    counts, thresholds = said["counts"], [row["threshold"] for row in said["classes"]]
    least, most = min(thresholds), max(thresholds)
    reach = plots.short(most) if least == most else f"{plots.short(least)} to {plots.short(most)}, by class"
    parts = [f"{counts['used']:,} of {counts['unlabeled']:,} pseudo-labels count (threshold {reach})."]
    if counts["dropped"]:
        parts.append(f"Images dropped for a confidence below {said['drop_below']:g}: {counts['dropped']:,}.")
    cut = counts["unlabeled"] - counts["dropped"] - counts["distinct"]
    if cut or counts["copies"]:
        parts.append(f"To balance the classes, images left out: {cut:,}, copies drawn: {counts['copies']:,}.")
    if said["calibration_error"] is not None:
        parts.append(f"Expected calibration error: {100 * said['calibration_error']:.2f}\u00a0%.")
    return " ".join(parts)


def _dropped(said: Mapping[str, Any]) -> str:
    """What the filter took away, by true class."""
    dropped = said["dropped"]
    if not dropped["known"]:
        return ""
    rows = [(row["name"], f"{row['count']:,}") for row in dropped["classes"]]
    return (
        f"<h3>Dropped</h3><p>{dropped['wrong']:,} of {dropped['known']:,} would have been labelled wrong.</p>"
        f"{page.table(('true', 'images'), rows, numeric=[1])}"
    )


def _classes(classes: Sequence[Mapping[str, Any]]) -> str:
    head = ("class", "predicted", "used", "copies", "threshold", "accuracy of the used")
    rows = [
        (
            row["name"],
            *(f"{row[name]:,}" for name in ("predicted", "used", "copies")),
            plots.short(row["threshold"]),
            page.figure_text("accuracy", row["accuracy"]),
        )
        for row in classes
    ]
    table = page.table(head, rows, numeric=range(1, len(head)), dim=[i for i, r in enumerate(classes) if not r["used"]])
    return page.folded(f"{len(rows)} classes", table) if len(rows) > _OPEN else table


@plots.style()
def by_confidence(bins: Mapping[str, Sequence]) -> Any:
    """Accuracy against confidence in `tlx.calibration.reliability`'s bins, above a histogram of their counts."""
    figure, ax = plots.axes(4.0, right=0.2, bottom=1.6)
    counts = np.asarray(bins["count"])
    known = [(c, a) for c, a in zip(bins["confidence"], bins["accuracy"]) if a is not None]
    x, y = 100 * np.array(known, float).reshape(-1, 2).T
    ax.set(xlim=(0, 100), ylim=(0, 100))
    ax.tick_params(labelbottom=False)
    ax.plot([0, 100], [0, 100], color=plots.COLOR["muted"], linewidth=0.8, dashes=(4, 3))
    ax.plot(x, y, color=plots.COLOR["blue"], marker="o", markersize=4, clip_on=False)
    plots.title(figure, "accuracy by confidence", "%")

    box, (_, height) = ax.get_position(), figure.get_size_inches()
    below = figure.add_axes([box.x0, 0.48 / height, box.width, 0.8 / height], sharex=ax)
    edges = np.linspace(0, 100, len(counts) + 1)
    below.bar(edges[:-1], counts, np.diff(edges) * 0.94, align="edge", color=plots.COLOR["blue"], alpha=0.6)
    for left, right, count in zip(edges, edges[1:], counts):
        if count:
            shown = plots.short(int(count))
            below.text((left + right) / 2, count, shown, ha="center", va="bottom", size=7, color=plots.COLOR["muted"])
    below.set(ylim=(0, max(counts.max(), 1)), yticks=[], xlabel="confidence, %")
    below.tick_params(labelbottom=True)
    return figure
