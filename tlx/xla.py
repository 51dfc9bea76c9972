"""What tlx asks of XLA on a CPU. XLA reads it once, before the first program is made: so at the import of tlx."""

import os
from importlib import metadata, util

# Of the versions whose XLA was tried: an option that it does not know ends the process.
TRIED = ("0.10.", "0.11.")
PLUGINS = ("jax_plugins", "libtpu")  # of GPUs and TPUs: each has an XLA of its own, of whatever version
# Not by YNNPACK, whose convolutions run on one thread (jax 0.10.2): with two threads Eigen's take 0.55 of the time at
# [128, 16, 16, 32], README's first command 0.81, and with more cores the less. See experiments/speed.
_OPTION = "--xla_cpu_experimental_ynn_fusion_type"
_VALUE = "-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"


def set_flags() -> None:
    """Adds the option to XLA_FLAGS, unless it is there with whatever value, or jax has more backends than the CPU."""
    flags = os.environ.get("XLA_FLAGS", "")
    alone = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(util.find_spec, PLUGINS))
    if alone and _OPTION not in flags and metadata.version("jaxlib").startswith(TRIED):
        os.environ["XLA_FLAGS"] = f"{flags} {_OPTION}={_VALUE}".strip()
