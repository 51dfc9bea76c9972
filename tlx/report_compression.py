"""The section of a report on what `tlx.compression` compared: teacher, student and others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tlx import page, plots, progress
from tlx.record import Run

_FIGURES = {
    "model": "model",
    "accuracy": "accuracy",
    "nll": "NLL, nats",
    "ece": "calibration error (ECE)",
    "agreement_1": "agrees with the teacher",
    "agreement_5": "agreement on the top five",
    "kl_to_teacher": "KL(teacher ‖ it), nats",
    "parameters": "parameters",
    "multiply_adds": "multiply-adds an image",
    "megabytes": "MB as safetensors",
    "latency_ms": "ms for one image",
    "images_per_second": "images a second",
}
_COSTS = ("parameters", "multiply_adds", "megabytes", "latency_ms", "images_per_second")


def compression(run: Run, draw: Callable) -> page.Html:
    rows, curves = run.get("compression", []), run.get("reliability", {})
    if not rows:
        return page.Html()
    head, lines = _table(rows)
    measured = (
        "Of the test images. Agreement on the top five: how many of a network's five most probable classes are among "
        "the teacher's. Multiply-adds are those of matrix products and convolutions."
    )
    if any("latency_ms" in r for r in rows):
        measured += (
            f" Speed: on one of {run.get('devices', 'the devices')}, the networks taking turns; "
            "medians, as noisy as the machine is busy. Images a second: of a batch of 64."
        )
    if any("×" in cell for line in lines for cell in line):
        measured += " × is the ratio to the teacher."
    caption = (
        "Test images in bins by the probability that the network gives its answer: how often the answer is right. "
        "A marker's area is the bin's share of the images; below the dashed line a network is surer than it is right."
    )
    return page.section(
        "Compression",
        page.table(head, lines, numeric=range(1, len(head))),
        "".join(f"<p>{page.text(line)}</p>" for line in _notes(run)),
        f"<p class=note>{page.text(measured)}</p>",
        draw("reliability", plots.reliability(curves), caption) if curves else "",
    )


def _notes(run: Run) -> list[str]:
    """What else came of it."""
    notes, joint, bias = [], run.get("ensemble"), run.get("bias_correction")
    percent = lambda value: page.figure_text("accuracy", value)
    if joint:
        notes.append(
            f"The {joint['members']} generations together, by the mean of their probabilities: "
            f"{percent(joint['test_accuracy'])} of the test images are right, {percent(joint['validation_accuracy'])} "
            "of the validation images."
        )
    if bias:
        notes.append(
            f"No image of {', '.join(bias['omitted'])} was distilled on. Their bias was changed by "
            f"{bias['offset']:+.3g}, fitted on validation images; without that, the student has "
            f"{percent(run.get('figures')['test_accuracy_uncorrected'])} on test."
        )
    return notes


def compression_table(result: Mapping[str, Any]) -> Any:
    """The comparison of a `result.json` as a `rich.table.Table` for the terminal."""
    head, lines = _table(result.get("compression") or [])
    return progress.grid(head, lines, numeric=range(1, len(head)), wrap=range(len(head)))


def _table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """A line a figure and a column a network: there are few of these, and their figures are read across."""
    teacher = next((r for r in rows if r.get("role") == "teacher"), {})
    known = [name for name in _FIGURES if any(r.get(name) is not None for r in rows)]
    lines = [[_FIGURES[name], *(_cell(name, r, teacher) for r in rows)] for name in known]
    return ["", *(str(r.get("role", "")) for r in rows)], lines


def _cell(name: str, row: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    value = row.get(name)
    if name == "model":
        return str(value or "")
    if name == "ece" and value is not None:
        return f"{100 * value:.2f}\u00a0%"
    if name not in _COSTS or value is None:
        return page.figure_text(name, value)
    said, of_teacher = f"{value:,}" if isinstance(value, int) else plots.short(value), teacher.get(name)
    return f"{said} (× {plots.short(value / of_teacher)})" if of_teacher and row is not teacher else said
