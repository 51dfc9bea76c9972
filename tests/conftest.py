"""Four virtual CPU devices for every test, so that each harness has something to split over.

On an accelerator, with its own devices: `JAX_PLATFORMS=cuda python -m pytest`. What is of four devices is skipped there
if it has fewer; products are of full float32 and kernels deterministic, since tests compare to rounding, or to the bit.
"""

import atexit
import os
import shutil
import tempfile
from importlib import metadata

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # And programs that LLVM does not optimise, with XLA's older code for fusions where it still is: compiling them is
    # most of the tests' time, and they run for milliseconds. The one saves a fourth, the other a third of the rest
    # (measured). The arithmetic is that of the same HLO, to rounding; what hangs on that has a process of its own.
    flags = " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    flags += " --xla_cpu_use_fusion_emitters=false" * metadata.version("jaxlib").startswith("0.10.")
else:
    flags = " --xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # also of the processes that tests start
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flags

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Many tests compile the same few programs; each is compiled once a session (and what is read back is what was made).
# The processes of pytest-xdist (`-n 2`) inherit the folder from the one that starts them, which made it and removes it.
if "TLX_TESTS_CACHE" not in os.environ:
    os.environ["TLX_TESTS_CACHE"] = tempfile.mkdtemp(prefix="tlx-tests-")
    atexit.register(shutil.rmtree, os.environ["TLX_TESTS_CACHE"], ignore_errors=True)
CACHE = os.environ["TLX_TESTS_CACHE"]
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE  # of the commands that tests start, which would use the user's own


class TinyNet(nn.Module):
    """An MLP with BatchNorm and dropout: all that a step can meet, in a few hundred parameters."""

    norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = TinyBackbone(self.norm, self.dropout, self.axis_name, name="backbone")(x, train)
        return nn.Dense(3, name="head")(x)


class TinyBackbone(nn.Module):
    norm: bool
    dropout: float
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(8, name="layer1")(x.reshape(len(x), -1))
        if self.norm:
            x = nn.BatchNorm(axis_name=self.axis_name if train else None, name="norm1")(
                x, use_running_average=not train
            )
        x = nn.Dropout(self.dropout)(nn.relu(x), deterministic=not train)
        return nn.relu(nn.Dense(8, name="layer2")(x))


@pytest.fixture
def tiny():
    """`tiny(norm=..., dropout=..., axis_name=...)` -> (model, its variables)."""

    def make(**options):
        model = TinyNet(**options)
        return model, model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)), train=False)

    return make


@pytest.fixture
def batch():
    """16 examples for any step; the labelled five all lie on the first two of four devices."""
    rng = np.random.default_rng(0)
    labeled = np.arange(16) < 5
    return {
        "image": rng.normal(size=(16, 2, 2, 1)).astype(np.float32),
        "slot": np.arange(16, dtype=np.int32),
        "label": np.where(labeled, rng.integers(0, 3, 16), 0).astype(np.int32),
        "weight": labeled.astype(np.float32),
        "labeled": labeled.astype(np.int8),
        "teacher_logits": rng.normal(size=(16, 3)).astype(np.float32),
        "teacher_weight": (np.arange(16) >= 7).astype(np.float32),
    }


@pytest.fixture(scope="session", autouse=True)
def prepared_data(tmp_path_factory):
    """Datasets are prepared in a folder of the session's own, not in the user's."""
    os.environ["TFDS_DATA_DIR"] = str(tmp_path_factory.mktemp("tensorflow_datasets"))


def pytest_collection_modifyitems(items):
    if jax.device_count() < 4:
        for item in items:
            if item.get_closest_marker("four_devices"):
                item.add_marker(pytest.mark.skip(reason=f"is of 4 devices, and here are {jax.device_count()}"))
