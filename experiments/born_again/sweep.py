"""All runs: `python -m tlx.sweep experiments/born_again/sweep.py`, from the root.

Generations are taught by the generation 0 of their own seed. Networks that are "taught" have seeds of their own, so
that none starts from the same weights as one of its teachers.
"""

from tlx.sweep import Variant

CONFIG = "experiments/born_again/config.py"
RUNS = "runs/experiments/born_again"
MEMBERS = 10  # seeds 0 to 9
SEEDS = {"cnn": range(3), "resnet": range(2)}
TAUGHT_SEEDS = range(MEMBERS, MEMBERS + 3)
SECONDS = {"cnn": 180, "resnet": 420}  # a generation, on half a core


def _alone(model: str, seeds: range) -> Variant:
    return Variant(f"{model}, generation 0", CONFIG, f"model={model}", seeds=seeds, seconds=SECONDS[model])


def _generations(model: str, t: float) -> Variant:
    teacher = f"{RUNS}/{model}__generation_0-seed{{seed}}"
    args = f"net=generations,model={model},teacher={teacher},t={t}"
    seconds = 3 * SECONDS[model]
    return Variant(f"{model}, generations 1-3, T = {t:g}", CONFIG, args, seeds=SEEDS[model], seconds=seconds)


def _taught(label: str, teacher: str) -> Variant:
    return Variant(label, CONFIG, f"net=taught,{teacher}", seeds=TAUGHT_SEEDS, seconds=SECONDS["cnn"])


ALONE = {"cnn": _alone("cnn", range(MEMBERS + len(TAUGHT_SEEDS))), "resnet": _alone("resnet", SEEDS["resnet"])}
GENERATIONS = {("cnn", 4.0): _generations("cnn", 4.0), ("resnet", 4.0): _generations("resnet", 4.0)}
GENERATIONS["cnn", 1.0] = _generations("cnn", 1.0)
BY_TEN = _taught("cnn, taught by ten", f"teacher={RUNS}/cnn__generation_0,members={MEMBERS}")
BY_ONE = _taught("cnn, taught by one", f"teacher={RUNS}/cnn__generation_0-seed0")
VARIANTS = [
    ALONE["cnn"],
    GENERATIONS["cnn", 4.0],
    BY_TEN,
    BY_ONE,
    ALONE["resnet"],
    GENERATIONS["resnet", 4.0],
    GENERATIONS["cnn", 1.0],
]
FIGURES = {
    "test": "figures.test_accuracy",  # of the last generation
    "validation": "figures.validation_accuracy",
    "generation 1": "students.-3.test_accuracy",
    "generation 2": "students.-2.test_accuracy",
    "ensemble of 1-3": "ensemble.test_accuracy",
    "teacher": "compression.0.accuracy",
}
