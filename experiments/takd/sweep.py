"""All runs: `python -m tlx.sweep experiments/takd/sweep.py`, from the root.

A student is taught by the teacher of its own seed, and starts from the same weights on each way.
"""

from tlx.sweep import Variant

CONFIG = "experiments/takd/config.py"
SEEDS = range(5)
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
WAYS = {"direct": "from the teacher", "assisted": "by the assistant"}
TAUGHT = "teacher=runs/experiments/takd/teacher-seed{seed}"


def taught(way: str) -> dict[float, Variant]:
    """Temperature -> the variant, for a way of WAYS."""
    seconds = {"direct": 30, "assisted": 60}[way]
    return {
        t: Variant(f"{WAYS[way]}, T = {t:g}", CONFIG, f"net={way},{TAUGHT},t={t}", seeds=SEEDS, seconds=seconds)
        for t in TEMPERATURES
    }


TEACHER = Variant("teacher", CONFIG, "net=teacher", seeds=SEEDS, seconds=250)
HARD = Variant("hard labels", CONFIG, "net=hard", seeds=SEEDS, seconds=20)
VARIANTS = [TEACHER, HARD, *(variant for way in WAYS for variant in taught(way).values())]
FIGURES = {
    "test": "figures.test_accuracy",
    "validation": "figures.validation_accuracy",
    "assistant": "students.-2.test_accuracy",
    "agreement with the teacher": "compression.-1.agreement_1",
}
