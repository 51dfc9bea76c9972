"""Solar cells: regimes x label budgets x seeds: `python -m tlx.sweep experiments/elpv/sweep.py`."""

from experiments.elpv.config import REGIMES
from tlx.sweep import Variant

CONFIG = "experiments/elpv/config.py"
SEEDS = {0: 3, 100: 3, 20: 3, 5: 3}  # labels a class, 0 = all -> runs
VARIANTS = [
    Variant(f"{labels or 'all'} labels: {regime}", CONFIG, f"labels={labels},regime={regime}", seeds=range(seeds))
    for labels, seeds in SEEDS.items()
    for regime in (*REGIMES, "auto")
]
FIGURES = {
    "test": "figures.test_accuracy",
    "macro-F1": "figures.test_macro_f1",
    "macro-AUC": "figures.test_macro_auc",
    "validation": "figures.validation_accuracy",
}
