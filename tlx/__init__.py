"""tlx: transfer, distil and self-train networks in JAX."""

__version__ = "0.1.0"
