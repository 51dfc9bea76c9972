"""All targets by name: `begin(folder) -> Target`, which makes a valid input in a folder of its own."""

import functools
import pathlib
from collections.abc import Callable

from experiments.fuzz import config_targets, data_targets, kept_targets, run_targets, weight_targets
from experiments.fuzz.target import Target

TARGETS: dict[str, Callable[[pathlib.Path], Target]] = {
    "torch_zip": weight_targets.torch_zip,
    "torch_legacy": weight_targets.torch_legacy,
    "hostile_pickles": weight_targets.hostile_pickles,
    "safetensors": weight_targets.safetensors_file,
    "npz": weight_targets.npz_file,
    "teacher_logits": data_targets.logits,
    "idx": data_targets.idx,
    "photographs": data_targets.photographs,
    "images": data_targets.images,
    "prepared": functools.partial(kept_targets.prepared, by="name"),
    "prepared_again": functools.partial(kept_targets.prepared, by="files"),
    "pseudo_labels": kept_targets.pseudo_labels,
    "kept_arrays": kept_targets.kept_arrays,
    "trace": kept_targets.trace,
    "run": run_targets.load,
    "checkpoint": run_targets.checkpoint,
    "export_stablehlo": functools.partial(run_targets.exported, form="stablehlo"),
    "export_safetensors": functools.partial(run_targets.exported, form="safetensors"),
    "report": run_targets.the_report,
    "comparison": run_targets.comparison,
    "going_on": run_targets.going_on,
    "sweep_results": run_targets.sweep_results,
    "config_argument": config_targets.argument,
    "config_values": config_targets.values,
    "command_line": config_targets.command_line,
}
