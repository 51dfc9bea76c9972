"""XLA's option for convolutions on a CPU: set once, by whoever imports tlx, and in force."""

import subprocess
import sys

import pytest

from tlx import xla

LOWERED = """
import tlx
import jax, jax.numpy as jnp
def convolve(x, k):
    return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
print("ynn" in jax.jit(convolve).lower(jnp.zeros((128, 16, 16, 32)), jnp.zeros((3, 3, 32, 32))).compile().as_text())
"""


@pytest.mark.parametrize(
    ("before", "version", "after"),
    [
        ("", "0.10.2", f"{xla._OPTION}={xla._VALUE}"),
        ("--a=1", "0.11.0", f"--a=1 {xla._OPTION}={xla._VALUE}"),
        (f"{xla._OPTION}=", "0.10.2", f"{xla._OPTION}="),
        ("--a=1", "0.12.0", "--a=1"),
    ],
)
def test_what_is_added(monkeypatch, before, version, after):
    monkeypatch.setenv("XLA_FLAGS", before)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(xla.metadata, "version", lambda library: version)
    for _ in range(2):
        xla.set_flags()
        assert xla.os.environ["XLA_FLAGS"] == after


@pytest.mark.parametrize(("platforms", "added"), [("", False), ("cuda", False), ("cpu", True)])
def test_nothing_is_asked_of_a_plugin(monkeypatch, platforms, added):
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(xla.util, "find_spec", lambda name: name == "libtpu")
    xla.set_flags()
    assert (xla._OPTION in xla.os.environ["XLA_FLAGS"]) == added


@pytest.mark.parametrize(
    ("flags", "ynn"), [("", False), (f"{xla._OPTION}=LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION", True)]
)
def test_convolutions_are_not_ynnpacks(monkeypatch, flags, ynn):
    """If this fails for the second, XLA's default has changed, and the option may go."""
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    found = subprocess.run([sys.executable, "-c", LOWERED], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(ynn)
