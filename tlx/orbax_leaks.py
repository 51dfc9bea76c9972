"""Two of orbax's questions to tensorstore, whose answers stay in memory for good (tensorstore 0.1.86 and before).

Measured over thousands of saves, see experiments/soak. Both are private names of orbax: where a version has them no
more, nothing is done.
"""

import contextlib
import copy
from collections.abc import Callable
from typing import Any


def mend() -> None:
    """Has orbax ask no more than it must, from here on; a second call does nothing."""
    with contextlib.suppress(ImportError, AttributeError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        # Before and after each save and restore: how many bytes were moved, 11 kB. It is for a line of orbax's log,
        # which nobody sees here.
        tensorstore_utils.get_tensorstore_raw_bytes = lambda *_, **__: 0
        # For each array: how its folder is written, 0.25 kB; a save of a small network lost 8 kB so.
        build = tensorstore_utils._build_ocdbt_kvstore_tspec
        if not hasattr(build, "asks"):
            tensorstore_utils._build_ocdbt_kvstore_tspec = _once_a_folder(build)


def _once_a_folder(build: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`build(directory, name, **options)`, asked once for all names of a folder: they differ in "path" alone."""
    last: list[tuple[tuple[str, str], dict[str, Any]]] = []  # of the last folder, so nothing is held for good

    def asked(directory: str, name: str | None = None, **options: Any) -> dict[str, Any]:
        key = (str(directory), repr(options))
        found = next((spec for of, spec in last if of == key), None)
        if found is None:
            found = build(directory, None, **options)
            last[:] = [(key, found)]
        return copy.deepcopy(found) | ({} if name is None else {"path": name})

    asked.asks = build
    return asked
