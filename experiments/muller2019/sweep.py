"""All runs: `python -m tlx.sweep experiments/muller2019/sweep.py`, from the root.

A student is taught by the teacher of its own seed, and all students of a seed start from the same weights.
"""

from tlx.sweep import Variant

CONFIG = "experiments/muller2019/config.py"
SEEDS = range(3)
SMOOTHING = {"plain": 0.0, "smoothed": 0.1}
TEMPERATURES = (4.0, 20.0, 1.0)


def student(kind: str, t: float) -> Variant:
    """Taught at temperature `t` by the teacher of a kind of SMOOTHING."""
    args = f"net=student,teacher=runs/experiments/muller2019/teacher__{kind}-seed{{seed}},t={t}"
    return Variant(f"student of {kind}, T = {t:g}", CONFIG, args, seeds=SEEDS, seconds=240)


TEACHERS = {
    kind: Variant(f"teacher, {kind}", CONFIG, f"net=teacher,smoothing={s}", seeds=SEEDS, seconds=500)
    for kind, s in SMOOTHING.items()
}
STUDENTS = {t: {kind: student(kind, t) for kind in SMOOTHING} for t in TEMPERATURES}
HARD = Variant("student, hard labels", CONFIG, "net=hard", seeds=SEEDS, seconds=240)
VARIANTS = [*TEACHERS.values(), *(variant for kinds in STUDENTS.values() for variant in kinds.values()), HARD]
FIGURES = {
    "test": "figures.test_accuracy",
    "validation": "figures.validation_accuracy",
    "agreement with the teacher": "compression.-1.agreement_1",
    "KL to the teacher": "compression.-1.kl_to_teacher",
}
