"""The suites' results as tables."""

import statistics
from typing import Any

from experiments.speed import cases

MATMUL = {False: 8192, True: 512}  # the side of the matrices; in small
STREAMED = {False: (224, 600, 128), True: (32, 64, 16)}  # pixels, photographs, of a batch
DTYPES = ("bfloat16", "float32")
SIDES = {"tlx": "tlx", "torch": "PyTorch", "keras": "Keras"}
ON_GPU = (
    *("network", "way", "tlx, images/s", "PyTorch, images/s", "tlx's time / PyTorch's"),
    *("tlx, of the matmul peak", "PyTorch, of the peak"),
)
ON_CPU = (
    *("network", "way", "tlx, ms a step", "/ PyTorch's", "/ Keras's"),
    *("accuracy: tlx", "PyTorch", "Keras", "first step, s: tlx", "PyTorch", "Keras"),
)


def of(result: dict[str, Any]) -> list[str]:
    """Markdown."""
    return (_of_cpu if result["arguments"].get("suite") == "cpu" else _of_gpu)(result)


def _cases(result: dict[str, Any], suite: str) -> tuple[cases.Case, ...]:
    return (cases.TINY if result["arguments"]["tiny"] else cases.SUITES)[suite]


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _of_cpu(result: dict[str, Any]) -> list[str]:
    """Milliseconds, ratios of time, accuracies of three seeds, and what the first step took, compiling included."""
    lines = [_line(ON_CPU), "| --- | --- |" + " ---: |" * (len(ON_CPU) - 2)]
    for case in _cases(result, "cpu"):
        for way in case.ways:
            if row := result["rows"].get(f"{case.name}/{way}"):
                said = result["said"][case.name]
                seconds = {side: row[side]["seconds"] for side in SIDES if "seconds" in row.get(side, ())}
                ratios = [
                    f"{seconds['tlx'] / seconds[rival]:.2f}" if {"tlx", rival} <= seconds.keys() else ""
                    for rival in ("torch", "keras")
                ]
                accuracies = [_mean(row.get(side, {}).get("accuracies")) for side in SIDES]
                first = [said.get(side, {}).get("first", {}).get(way, {}).get("seconds") for side in SIDES]
                cells = [case.name.removesuffix(" float32"), way, f"{1e3 * seconds['tlx']:.3g}", *ratios, *accuracies]
                lines.append(_line([*cells, *("" if value is None else f"{value:.1f}" for value in first)]))
    return lines


def _mean(values: list[float] | None) -> str:
    return f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}" if values else ""


def _of_gpu(result: dict[str, Any]) -> list[str]:
    """Images a second of both sides, the ratio of times, and the share of the measured peak."""
    lines = [_line(ON_GPU), "| --- | --- |" + " ---: |" * 5]
    tiny, machine = result["arguments"]["tiny"], {}
    for row, said in result["rows"].items():
        if row.startswith("machine") and "seconds" in said["tlx"]:
            machine[row.partition("/")[2]] = said["tlx"]["seconds"]
    peaks = {d: 2 * MATMUL[tiny] ** 3 / machine[f"matmul {d}"] for d in DTYPES if f"matmul {d}" in machine}
    for case in _cases(result, "gpu"):
        for way in case.ways:
            if row := result["rows"].get(f"{case.name}/{way}"):
                about = result["said"][case.name]["tlx"]
                least = cases.flops(way, about.get("multiply_adds", 0)) / peaks.get(case.dtype, float("inf"))
                lines.append(_line([case.name, way, *_cells(row, case.batch, 0 if case.small else least)]))
    lines += ["", "Peak of a matrix product, measured, TFLOP/s: "]
    lines[-1] += ", ".join(f"{peak / 1e12:,.1f} in {dtype}" for dtype, peak in peaks.items())
    rates = {name: STREAMED[tiny][2] / seconds for name, seconds in machine.items() if name.startswith("streamed")}
    return [*lines, "Images/s from array_record: " + ", ".join(f"{name}: {rate:,.0f}" for name, rate in rates.items())]


def _cells(row: dict[str, Any], batch: int, least: float) -> list[str]:
    """`least`: seconds an image at the peak, 0 = not to be said."""
    sides = ("tlx", "torch")
    rate = {side: batch / said["seconds"] for side, said in row.items() if "seconds" in said}
    ratio = f"{row['tlx']['seconds'] / row['torch']['seconds']:.2f}" if len(rate) == 2 else ""
    rates = [f"{rate[side]:,.0f}" if side in rate else "failed" * (side in row) for side in sides]
    shares = [f"{rate[side] * least:.0%}" if side in rate and least else "" for side in sides]
    return [*rates, ratio, *shares]
