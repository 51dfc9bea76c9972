"""tlx: transfer, distil and self-train networks in JAX."""

from tlx import xla

__version__ = "0.1.0"

xla.set_flags()
