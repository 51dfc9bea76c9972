"""Named random streams: every key is a pure function of (the run's root key, a name, the step).

The root key is constant for the run and is never split or saved: resuming needs `state.step` only, and a new stream
shifts no other. `fold_in` twice, as in Kauldron's and Flax's rng streams.
"""

import zlib

import jax


def stream(key: jax.Array, name: str) -> jax.Array:
    """The key of the stream `name`: `fold_in(key, crc32(name))`. crc32 is the same on every host and Python."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def at_step(key: jax.Array, step: jax.Array | int, axis_name: str | None = None) -> jax.Array:
    """The stream's key at `step`; inside `pmap` or `shard_map`, a different one on each device of `axis_name`.

    Only what has no key per example (dropout masks) needs `axis_name`: augmentation folds in each example's place in
    the global batch, and is therefore the same on one device and on many.
    """
    key = jax.random.fold_in(key, step)
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))
