"""Published names to flax's: rules, axes, and names that fit nowhere or twice."""

import numpy as np
import pytest

from tlx.errors import UserError
from tlx.pretrained.renaming import kernel_and_bias, norm, rename

RULES = (
    *kernel_and_bias(r"layers\.(\d+)\.conv(\d)", r"backbone/block\1+1/conv\2"),
    *norm(r"layers\.(\d+)\.bn", r"backbone/block\1+1/norm"),
    *kernel_and_bias("fc|classifier", "head"),
)


def test_layers_go_to_their_places_with_flaxs_axes():
    conv, dense = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7), np.arange(6.0).reshape(2, 3)
    tensors = {"layers.9.conv2.weight": conv, "layers.9.bn.running_var": np.ones(2), "layers.9.bn.weight": np.ones(2)}
    variables = rename(tensors | {"fc.weight": dense, "layers.9.bn.steps": np.int64(3)}, RULES, ignore=(r".*\.steps",))
    block = variables["params"]["backbone"]["block10"]
    assert block["conv2"]["kernel"].dtype == np.float32 and set(block["norm"]) == {"scale"}
    assert block["conv2"]["kernel"][4, 6, 2, 1] == conv[1, 2, 4, 6]
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], dense.T)
    assert set(variables["batch_stats"]["backbone"]["block10"]["norm"]) == {"var"}


def test_names_without_a_place_or_with_a_taken_one_are_named():
    with pytest.raises(UserError, match=r"tensor 'layers.0.se.weight' has no place in this network"):
        rename({"layers.0.se.weight": np.ones(2)}, RULES)
    with pytest.raises(UserError, match="'fc.bias' and 'classifier.bias' both belong at 'params/head/bias'"):
        rename({"fc.bias": np.ones(2), "classifier.bias": np.ones(2)}, RULES)
