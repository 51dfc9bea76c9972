"""From the names and layouts of published weights to flax's: ordered (regex, template) rules, one list a family.

    RULES = (
        (r"conv1\\.weight", "params/backbone/stem/conv/kernel"),
        (r"layer(\\d)\\.0\\.bn1\\.running_mean", r"batch_stats/backbone/stage\\1/block1/norm1/mean"),
    )
    variables = rename(tensors, RULES, ignore=(r".*num_batches_tracked",))

`kernel_and_bias` and `norm` write the rules of one layer, or, with groups, of all its like:

    RULES = (*norm("bn1", "backbone/stem/norm"), *kernel_and_bias("fc", "head"))

What to do with an array's axes follows from the last word of its new name and its rank, so no rule says it twice. In a
template, "\\1+1" is the next number: published weights count blocks from 0, levels count from 1.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from tlx.errors import UserError

Rule = tuple[str, str]  # regex of a whole name, template of the new path

_NEXT = re.compile(r"(\d+)\+1")

# (last word, rank) -> permutation from PyTorch's axes to flax's; what is not here stays as it is.
_PERMUTATIONS = {
    ("kernel", 4): (2, 3, 1, 0),  # [out, in / groups, h, w] -> [h, w, in / groups, out]
    ("kernel", 2): (1, 0),  # [out, in] -> [in, out]
}


def kernel_and_bias(old: str, new: str) -> tuple[Rule, ...]:
    """The rules of a dense or convolutional layer: `old` is a regex, `new` a template from "backbone" or "head" on."""
    return ((rf"(?:{old})\.weight", f"params/{new}/kernel"), (rf"(?:{old})\.bias", f"params/{new}/bias"))


def norm(old: str, new: str) -> tuple[Rule, ...]:
    """The rules of a LayerNorm or a BatchNorm, as for `kernel_and_bias`; only the latter's file has statistics."""
    return (
        (rf"(?:{old})\.weight", f"params/{new}/scale"),
        (rf"(?:{old})\.bias", f"params/{new}/bias"),
        (rf"(?:{old})\.running_mean", f"batch_stats/{new}/mean"),
        (rf"(?:{old})\.running_var", f"batch_stats/{new}/var"),
    )


def rename(tensors: Mapping[str, np.ndarray], rules: Sequence[Rule], *, ignore: Sequence[str] = ()) -> dict[str, Any]:
    """Renames a file's tensors, and permutes their axes as flax wants them.

    Args:
      tensors: name -> array, as in the file.
      rules: ordered (regex, template); the first regex that matches a whole name decides, and its template, with the
        regex's groups, is the new path, which begins with "params/" or "batch_stats/".
      ignore: regexes of names that have no place in the network.

    Returns:
      {"params": ..., "batch_stats": ...}, nested; float arrays as float32. Shapes are not checked here: `graft` does.

    Raises:
      UserError: a name that no rule matches, or two names for one path.
    """
    flat: dict[str, np.ndarray] = {}
    came_from: dict[str, str] = {}
    for name, tensor in tensors.items():
        if any(re.fullmatch(regex, name) for regex in ignore):
            continue
        match, template = next(
            ((m, template) for regex, template in rules if (m := re.fullmatch(regex, name))), (None, "")
        )
        if match is None:
            raise UserError(f"the weights' tensor {name!r} has no place in this network: is the file of another model?")
        path = _NEXT.sub(lambda number: str(int(number[1]) + 1), match.expand(template))
        if path in came_from:
            raise UserError(f"the weights' tensors {came_from[path]!r} and {name!r} both belong at {path!r}")
        came_from[path] = name
        axes = _PERMUTATIONS.get((path.rpartition("/")[2], tensor.ndim))
        tensor = tensor if axes is None else tensor.transpose(axes)
        flat[path] = np.ascontiguousarray(tensor, np.float32)
    nested = traverse_util.unflatten_dict(flat, sep="/")
    return {"params": nested.get("params", {}), "batch_stats": nested.get("batch_stats", {})}
