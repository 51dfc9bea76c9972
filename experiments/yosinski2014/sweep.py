"""Every network of the figure, three splits: `python -m tlx.sweep experiments/yosinski2014/sweep.py`, from the root."""

from tlx.sweep import Variant

BASES = ("baseB", "baseA", "baseF", "baseM")  # first: the others start from them
TREATMENTS = ("BnB", "BnB+", "AnB", "AnB+", "FnB", "FnB+", "MnB", "MnB+", "RnB")
NETS = (*BASES, "baseB2", *(treatment.replace("n", str(n)) for treatment in TREATMENTS for n in range(1, 6)))

VARIANTS = [
    Variant(net, "experiments/yosinski2014/config.py", f"net={net}", seeds=range(3), seconds=10) for net in NETS
]

FIGURES = {
    "test": "figures.test_accuracy",
    "validation": "figures.validation_accuracy",
    "last checkpoint": "figures.test_accuracy_last",
}
