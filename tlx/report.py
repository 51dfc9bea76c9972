"""A run's folder as one self-contained page, `report.html`, with its figures as PNGs in `plots/`.

    python -m tlx.report RUN              rebuilds a run's report
    python -m tlx.report RUN RUN ...      compares runs: mean and spread over seeds (see tlx/compare.py)

The page is a list of sections, each a function `section(run, draw) -> html`, empty where the run has nothing for it.
"""

import argparse
import json
import math
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tlx import compare, freeze_rule, page, plots, progress, record
from tlx.errors import UserError, reading
from tlx.record import Run
from tlx.report_compression import compression, compression_table
from tlx.report_ledger import family_tree
from tlx.report_pseudo_labels import pseudo_labels
from tlx.workdir import RESTORE

__all__ = ["SECTIONS", "compression_table", "main", "rounds_table", "wilson", "write"]

_SHOWN = 40  # images of a kind on the page
_EXTRA = 12  # curves besides loss and accuracy on the page


def wilson(right: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), 95 % by default, as fractions."""
    p = right / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def write(run_dir: str | pathlib.Path, out: str | pathlib.Path | None = None) -> pathlib.Path:
    """Writes `report.html` and `plots/*.png` from a run's folder, into it or into `out`, and returns the page's path.

    A run that is not finished gets its curves and a banner that says so.
    """
    run = record.load(run_dir)
    out = pathlib.Path(out) if out else run.path
    # Here and not in each of the sections, which may so trust that a record is what the run wrote.
    with reading(run.path, remedy=f"a record in it is damaged: {RESTORE}"):
        sections = [section(run, page.drawer(out)) for section in SECTIONS]
        subtitle = f"{run.get('recipe', 'run')} · seed {run.get('seed', '?')} · {run.get('devices', 'unfinished')}"
    return page.save(out / "report.html", str(run.get("name", run.path.name)), subtitle, sections)


def _test_images(run: Run) -> int:
    return int(np.sum(run.get("confusion", [])))


def _headline(run: Run, draw: Callable) -> page.Html:
    if run.result is None:
        last = ""
        if run.metrics:
            last = f"Last heard of in phase {run.metrics[-1]['phase']}, step {run.metrics[-1]['step']:,}. "
        return page.Html(
            f"<p class=banner><b>This run is not finished.</b> {page.text(last)}"
            "The page shows what it has written so far; the same command starts it again where it stopped.</p>"
        )
    figures, n = dict(run.get("figures", {})), _test_images(run)
    parts, accuracy = [], figures.get("test_accuracy")
    if accuracy is not None:
        parts.append(f"<div class=hero>{page.figure_text('accuracy', accuracy)}</div>")
        said = "of the test images are classified right."
        if n:
            low, high = wilson(accuracy * n, n)
            said = (
                f"of {n:,} test images are classified right: {n - round(accuracy * n):,} are wrong. "
                f"With this many images the 95\u00a0% interval (Wilson) is {100 * low:.1f} to {100 * high:.1f}\u00a0%."
            )
        parts.append(f"<p>{page.text(said)} Training and selection did not use them.</p>")
        right = int(np.trace(np.array(run.get("confusion")))) if n else 0
        if n and abs(right / n - accuracy) > 0.5 / n:
            parts.append(
                f"<p class=note>The confusion matrix counts {right:,} of {n:,} right: it is of another checkpoint.</p>"
            )
    parts.append(f"<p>{page.text(_story(run))}</p>")
    told = {
        "validation_accuracy": "validation accuracy",
        "test_accuracy_last": "test accuracy, last checkpoint",
        "test_loss": "test loss (cross-entropy, nats)",
        "validation_loss": "validation loss",
    }
    cards = [(label, page.figure_text(key, figures[key])) for key, label in told.items() if key in figures]
    if run.get("time", {}).get("total") is not None:
        cards.append(("wall time", page.duration(run.get("time")["total"])))
    cards = "".join(f"<div><dt>{page.text(k)}</dt><dd>{page.text(v)}</dd></div>" for k, v in cards)
    parts.append(f"<dl class=cards>{cards}</dl>")
    rest = {k: v for k, v in figures.items() if k not in told and k != "test_accuracy"}
    if rest:
        rows = [(k, page.figure_text(k, v)) for k, v in rest.items()]
        parts.append(page.folded(f"{len(rest)} more figures", page.table([], rows, numeric=[1])))
    return page.Html("<section>" + "".join(parts) + "</section>")


def _story(run: Run) -> str:
    """The rounds in a sentence."""
    rounds = run.get("rounds", [])
    promoted = [r for r in rounds if r.get("promoted")]
    if len(rounds) < 2 or not promoted:
        return ""
    first, last = rounds[0], promoted[-1]
    count = len(promoted) - bool(first.get("promoted"))
    said = f"{count} of {len(rounds) - 1} students were promoted on the validation split. "
    if last is not first and None not in (a := first.get("test_accuracy"), b := last.get("test_accuracy")):
        said += (
            f"On the test set the first teacher has {page.figure_text('accuracy', a)}, the selected student (round "
            f"{last.get('round')}) {page.figure_text('accuracy', b)}: {100 * (b - a):+.2f} points."
        )
    return said


def _rounds(run: Run, draw: Callable) -> page.Html:
    rounds, n = run.get("rounds", []), _test_images(run)
    if not rounds:
        return page.Html()
    rows = []
    for r in rounds:
        verdict = page.Html("<span class=yes>promoted</span>" if r.get("promoted") else "<span class=no>refused</span>")
        number, role, *cells, _, why = _round_cells(r)
        rows.append((number, role.replace(" ", "\N{NO-BREAK SPACE}"), *cells, verdict, why))
    refused = [i for i, r in enumerate(rounds) if not r.get("promoted")]
    intervals = [
        wilson(r["test_accuracy"] * n, n) if n and r.get("test_accuracy") is not None else None for r in rounds
    ]
    caption = "Filled: promoted. Hollow: refused, and the teacher stays. Lines join the promoted. " + (
        f"Whiskers: 95 % interval (Wilson) for {n:,} test images. " if n else ""
    )
    return page.section(
        "Rounds",
        "<p class=note>Students are compared with their teacher on the validation split; "
        "test figures are only reported.</p>",
        page.table(_ROUND_HEAD, rows, numeric=_ROUND_NUMERIC, dim=refused),
        draw("rounds", plots.rounds(rounds, intervals), caption + "The axis spans at least 10 points."),
    )


def _strategy(run: Run, draw: Callable) -> page.Html:
    if run.strategy is None:
        return page.Html()
    choice = run.strategy["choice"]
    said = (
        f"The freeze rule chose “{choice['regime']}” ({choice['quadrant']}): {choice['why']} Next best: "
        f"“{choice['runner_up']}”."
    )
    rows = [tuple(row.values()) for row in freeze_rule.rows(run.strategy["facts"])]
    note = "Computed from labelled training images alone. A figure for shuffled labels is what chance gives."
    return page.section(
        "Strategy",
        f"<p>{page.text(said)}</p>",
        page.table(("figure", "value", "for shuffled labels"), rows, numeric=[1, 2]),
        f"<p class=note>{note}</p>",
    )


_ROUND_HEAD = ("round", "role", "model", "parameters", "validation", "test", "verdict", "why")
_ROUND_NUMERIC = (0, 3, 4, 5)


def _round_cells(r: Mapping[str, Any]) -> tuple[str, ...]:
    why, p = str(r.get("reason") or ""), r.get("p_value")
    if isinstance(p, int | float) and "p =" not in why:
        why = f"{why} (p = {p:.2g})".strip()
    return (
        *(str(r.get(key, "")) for key in ("round", "role", "model")),
        *(page.figure_text(key, r.get(key)) for key in ("parameters", "validation_accuracy", "test_accuracy")),
        "promoted" if r.get("promoted") else "refused",
        why,
    )


def rounds_table(result: Mapping[str, Any]) -> Any:
    """The rounds of a `result.json` as a `rich.table.Table` for the terminal."""
    rounds = result.get("rounds") or []
    refused = [i for i, r in enumerate(rounds) if not r.get("promoted")]
    return progress.grid(_ROUND_HEAD, map(_round_cells, rounds), numeric=_ROUND_NUMERIC, dim=refused, wrap=[7])


def _curves(run: Run, draw: Callable) -> page.Html:
    _, series = record.timeline(run.metrics)
    if not series:
        return page.Html()
    soft = {"dkd": "DKD(teacher at T, student at T)", "hard": "CE(the teacher's argmax)"}
    kind = run.config.get("loss", {}).get("kind", "kl")
    student = (
        f"A student's training loss is alpha · {soft.get(kind, 'T² · KL(teacher at T ‖ student at T)')} + beta · CE, "
        "and what else its config turns on: not to be compared with a cross-entropy, such as a baseline's."
    )
    captions = {
        "accuracy": "Train: over the images since the point before, as augmented and noised, against the labels "
        "trained on. Validation: over the whole split, clean. The axis spans at least 20 points.",
        "loss": "Mean per image, averaged over the same images as the accuracy. "
        + (student if run.get("recipe") in ("distill", "self_train") else ""),
    }
    main = [draw(name, plots.curves(run.metrics, name), captions[name]) for name in captions if name in series]
    extra = sorted(set(series) - set(captions))
    more = [draw(re.sub(r"\W+", "_", name), plots.curves(run.metrics, name)) for name in extra[:_EXTRA]]
    left_out = f"<p class=note>Not drawn: {page.text(', '.join(extra[_EXTRA:]))}.</p>" if extra[_EXTRA:] else ""
    return page.section(
        "Curves",
        f"<div class=pair>{''.join(main)}</div>",
        page.folded(f"{len(extra)} more curves", f"<div class=pair>{''.join(more)}</div>{left_out}") if extra else "",
    )


def _class_names(run: Run, count: int) -> list[str]:
    names = [str(name) for name in run.get("class_names", [])]
    return names + [str(i) for i in range(len(names), count)]


def _confusion(run: Run, draw: Callable) -> page.Html:
    matrix = np.array(run.get("confusion", []))
    if matrix.ndim != 2 or not matrix.sum():
        return page.Html()
    names = _class_names(run, len(matrix))[: len(matrix)]
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    worst = [divmod(int(i), len(matrix)) for i in np.argsort(-wrong, axis=None, kind="stable")[:8]]
    rows = [(names[i], names[j], f"{matrix[i, j]:,} of {matrix[i].sum():,}") for i, j in worst if wrong[i, j]]
    mistakes = (
        page.table(("true", "taken for", "images"), rows, [2]) if rows else "<p>None: every test image is right.</p>"
    )
    caption = "Counts of test images, by the selected network. The deeper the shade, the larger the share of its row."
    return page.section(
        "Confusion matrix",
        f"<div class=pair>{draw('confusion', plots.confusion(matrix, names), caption)}"
        f"<div><h3>Most frequent mistakes</h3>{mistakes}</div></div>",
    )


def _gallery(run: Run, draw: Callable) -> page.Html:
    parts = []
    for kind in ("most_sure", "least_sure"):
        arrays = [run.gallery.get(f"{kind}_{part}") for part in ("images", "label", "truth", "confidence")]
        if any(a is None or not len(a) for a in arrays):
            continue
        images, labels, truth, confidence = (a[:_SHOWN] for a in arrays)
        names = _class_names(run, int(max(labels.max(), truth.max())) + 1)
        wrong = (truth >= 0) & (truth != labels)
        captions = [
            f"{names[label]} · {_confidence(c)}" + (f"\nis {names[t]}" if bad else "")
            for label, t, c, bad in zip(labels, truth, confidence, wrong)
        ]
        known = int((truth >= 0).sum())
        count = f"{int(wrong.sum())} of these {known} are wrong." if known else "The truth is not known."
        words = kind.replace("_", " ")
        images = plots.to_rgb(images)
        draw(kind, plots.image_grid(images, captions, wrong, f"{words}: label · confidence in %"))
        parts.append(f"<h3>{words.capitalize()}</h3><p class=note>{count}</p>{page.tiles(images, captions, wrong)}")
    if parts:
        parts.insert(
            0,
            "<p class=note>The label that the teacher gave and its confidence (%). Red: the label is wrong, and “is” "
            "names the hidden truth, which serves this diagnosis only and is never used in training or promotion.</p>",
        )
    return page.section("Pseudo-labels", *parts) if parts else page.Html()


def _views(run: Run, draw: Callable) -> page.Html:
    notes = {
        "student_view": "Unlabelled images after the student's augmentation and input noise.",
        "weak_view": "The same images in the weak view, of which the target is.",
    }
    parts = []
    for name, note in notes.items():
        views = run.gallery.get(f"{name}_images", np.zeros(0))[:_SHOWN]
        if len(views):
            views, blank, fine = plots.to_rgb(views), [""] * len(views), [False] * len(views)
            draw(name, plots.image_grid(views, blank, fine, name.replace("_", " ")))
            parts.append(f"<p class=note>{note}</p>{page.tiles(views, blank, fine)}")
    return page.section("What the student sees", *parts) if parts else page.Html()


def _confidence(value: float) -> str:
    shown = f"{100 * value:.1f}"
    return ">99.9" if shown == "100.0" and value < 1 else shown


def _config(run: Run, draw: Callable) -> page.Html:
    if not run.config:
        return page.Html()
    flat = record.flatten(run.config)
    rows = [(key, json.dumps(value, ensure_ascii=False)) for key, value in flat.items()]
    return page.section(
        "Config", page.folded(f"{len(flat)} settings, as resolved", f"<div class=mono>{page.table([], rows)}</div>")
    )


def _provenance(run: Run, draw: Callable) -> page.Html:
    if run.result is None:
        return page.Html()
    parts, time = [], {k: v for k, v in run.get("time", {}).items() if isinstance(v, int | float)}
    if run.get("command"):
        parts.append(f"<p>To repeat this run:</p><pre>{page.text(run.get('command'))}</pre>")
    total = time.pop("total", None) or sum(time.values())
    if total:
        rest = total - sum(time.values())
        if time and rest > 0.01 * total:
            time["other"] = rest
        colors = dict(zip(time, ("muted", "blue", "green", "ochre", "purple")))
        bar = "".join(
            f"<i style='flex:{v / total:.4f};background:var(--{colors.get(k, 'grid')})'></i>" for k, v in time.items()
        )
        shown = {k: v for k, v in time.items() if k != "compile"}
        said = ", ".join(f"{k} {page.duration(v)}" for k, v in shown.items())
        said += f"; {page.duration(time['compile'])} of it to compile" if "compile" in time else ""
        said = f"Wall time {page.duration(total)}" + (f" ({said})" if said else "")
        parts.append(f"<p>{page.text(said)}</p><div class=bar>{bar}</div>")
    versions = ", ".join(f"{k} {v}" for k, v in run.get("versions", {}).items())
    rows = [(key, run.get(key)) for key in ("devices", "git") if run.get(key)]
    return page.section("Provenance", *parts, page.table([], [*rows, ("versions", versions), ("folder", run.path)]))


SECTIONS = (
    *(_headline, _strategy, _rounds, family_tree, pseudo_labels, compression, _curves, _confusion, _gallery, _views),
    *(_config, _provenance),
)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tlx.report`; returns the exit code."""
    parser = argparse.ArgumentParser("python -m tlx.report", description="A run's report; of several, a comparison.")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="the folder (--workdir) of a run")
    parser.add_argument("--out", help="where to write; by default in the run's folder, or beside the runs")
    args = parser.parse_args(argv)
    try:
        # So that `runs/*` can be compared again: the last comparison lies among the runs, and is none.
        runs = [run for run in args.runs if not compare.is_comparison(run)]
        if not runs:
            raise UserError("no runs given: python -m tlx.report RUN [RUN ...]")
        print(write(runs[0], args.out) if len(runs) == 1 else compare.write(runs, args.out))
    except UserError as e:
        print("error:", " ".join(str(e).split()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
