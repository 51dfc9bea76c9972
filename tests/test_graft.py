"""Starting from pre-trained weights: what is loaded, reset and unused, and which mismatches are refused."""

import numpy as np
import pytest

from tlx.errors import UserError
from tlx.pretrained import graft


def variables(value, classes=3, **backbone):
    kernel = {"kernel": np.full((2, 4), value)}
    return {
        "params": {"backbone": {"layer1": kernel, **backbone}, "head": {"kernel": np.full((4, classes), value)}},
        "batch_stats": {"backbone": {"norm1": {"mean": np.full(4, value)}}},
    }


def test_backbone_loaded_head_reset_rest_unused():
    grafted = graft(variables(0.0, classes=2), variables(1.0, classes=5, old={"bias": np.ones(3)}))
    assert grafted.loaded == ("backbone/layer1/kernel", "backbone/norm1/mean")
    assert grafted.reset == ("head/kernel",) and grafted.unused == ("backbone/old/bias",)
    new = grafted.variables
    np.testing.assert_array_equal(new["params"]["backbone"]["layer1"]["kernel"], 1.0)
    np.testing.assert_array_equal(new["batch_stats"]["backbone"]["norm1"]["mean"], 1.0)
    np.testing.assert_array_equal(new["params"]["head"]["kernel"], np.zeros((4, 2)))
    assert "old" not in new["params"]["backbone"]


def test_mismatches_are_named():
    with pytest.raises(UserError, match=r"'head/kernel' is of shape \[4, 5\] in the pre-trained model and \[4, 2\]"):
        graft(variables(0.0, classes=2), variables(1.0, classes=5), reset=())
    with pytest.raises(UserError, match="has no params 'backbone/new/bias'"):
        graft(variables(0.0, new={"bias": np.zeros(3)}), variables(1.0))
    with pytest.raises(UserError, match=r"init.reset: 'haed/\.\*' matches no parameter"):
        graft(variables(0.0), variables(1.0), reset=("haed/.*",))


def test_what_has_no_place_is_refused_on_demand():
    deeper = variables(1.0, old={"bias": np.ones(3)})
    with pytest.raises(UserError, match=r"has params 'backbone/old/bias', of shape \[3\], and this one has not"):
        graft(variables(0.0), deeper, all_used=True)
    assert graft(variables(0.0), deeper, reset=("head/.*",)).unused == ("backbone/old/bias",)
    with_bias = variables(1.0)
    with_bias["params"]["head"]["bias"] = np.ones(3)  # the head is another one anyway
    assert graft(variables(0.0), with_bias, all_used=True).unused == ("head/bias",)
