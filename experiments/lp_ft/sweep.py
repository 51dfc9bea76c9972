"""All runs, the whole grid of rates included: `python -m tlx.sweep experiments/lp_ft/sweep.py`, from the root.

Two networks are pre-trained, then every way of adapting is run at every rate of its grid with five seeds. `shifts.py`
takes, of each, the rate that is best on validation (clean images).
"""

from tlx.sweep import Variant

CONFIG = "experiments/lp_ft/config.py"
SEEDS = range(5)
SOURCES = ("robust", "plain")
REGIMES = ("linear", "full", "lp_ft")
RATES = {
    "scratch": (0.003, 0.01, 0.03, 0.1),
    "full": (0.001, 0.003, 0.01, 0.03),
    "linear": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "lp_ft": (0.001, 0.003, 0.01, 0.03, 0.1),
}
# The probe that LP-FT starts with has the rate that is best for "linear" on validation.
PROBE_RATE = {"robust": 0.01, "plain": 0.003}


def pretrained(source: str) -> Variant:
    return Variant(f"pre-trained, {source}", CONFIG, f"regime=pretrain,source={source}", seconds=120)


def adapted(source: str, regime: str) -> dict[float, Variant]:
    """Rate -> the variant; the source "" is that of "scratch"."""
    start = f",pretrained=runs/experiments/lp_ft/pre_trained__{source}-seed0" if source else ""
    probe = f",probe_rate={PROBE_RATE[source]}" if regime == "lp_ft" else ""
    label = ", ".join(filter(None, (source, regime)))
    return {
        rate: Variant(f"{label}, {rate}", CONFIG, f"regime={regime},rate={rate}{probe}{start}", seeds=SEEDS, seconds=15)
        for rate in RATES[regime]
    }


CELLS = [*((source, regime) for regime in REGIMES for source in SOURCES), ("", "scratch")]
VARIANTS = [
    *map(pretrained, SOURCES),
    *(variant for cell in CELLS for variant in adapted(*cell).values()),
]
FIGURES = {
    "validation": "figures.validation_accuracy",
    "validation loss": "figures.validation_loss",
    "test": "figures.test_accuracy",
    "step": "selected.step",
}
