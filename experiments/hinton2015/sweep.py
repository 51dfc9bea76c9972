"""All runs of section 3: `python -m tlx.sweep experiments/hinton2015/sweep.py`, from the root.

A student is taught by the teacher of its own seed.
"""

from tlx.sweep import Variant

CONFIG = "experiments/hinton2015/config.py"
SEEDS = range(3)
WIDTHS = (800, 300, 30)
TEMPERATURES = (1.0, 2.5, 4.0, 8.0, 20.0)
# Three times as long at three times the rate: with 40 passes each alone was better on seed 0's validation images.
LONG = "rate=0.003,passes=120"
TAUGHT = "net=distilled,teacher=runs/experiments/hinton2015/teacher-seed{seed}"


def _variant(label: str, args: str, seconds: int) -> Variant:
    return Variant(label, CONFIG, args, seeds=SEEDS, seconds=seconds)


VARIANTS = [
    _variant("teacher", "net=teacher", 1200),
    _variant("hard labels", "net=hard", 150),
    _variant("distilled", TAUGHT, 150),
    _variant("distilled without 3s", f"{TAUGHT},transfer=no_3", 150),
    _variant("distilled from 7s and 8s", f"{TAUGHT},transfer=7_8", 150),
]
for units in WIDTHS:
    # With 800 units, "hard labels" and "distilled", at T = 20, are there already.
    first = {} if units == 800 else {"hard labels": "net=hard"}
    rows = first | {f"T = {t:g}": f"{TAUGHT},t={t}" for t in TEMPERATURES if (units, t) != (800, 20.0)}
    seconds = 100 if units == 800 else 40
    VARIANTS += [_variant(f"{units} units: {row}", f"{args},units={units}", seconds) for row, args in rows.items()]
VARIANTS += [
    _variant("distilled, long", f"{TAUGHT},{LONG}", 600),
    _variant("distilled without 3s, long", f"{TAUGHT},transfer=no_3,{LONG}", 600),
]
FIGURES = {
    "test": "figures.test_accuracy",
    "uncorrected": "figures.test_accuracy_uncorrected",
    "validation": "figures.validation_accuracy",
    "offset": "bias_correction.offset",
}
