"""Whether anything changed around a target's folder, whoever wrote it: C++ raises no audit event."""

import os
import pathlib

Listing = dict[str, tuple[int, int]]  # path -> bytes (of a folder 0), time of the last change in ns


def listing(folder: pathlib.Path) -> Listing:
    """All that lies beside a folder, at any depth, but neither what is in it nor the one that both are in."""
    found = {}
    for top, folders, files in os.walk(folder.parent):
        if pathlib.Path(top) == folder.parent:
            folders.remove(folder.name)
        for name in folders + files:
            stat = os.lstat(os.path.join(top, name))
            found[os.path.relpath(os.path.join(top, name), folder.parent)] = (
                0 if name in folders else stat.st_size,
                stat.st_mtime_ns,
            )
    return found


def changes(before: Listing, after: Listing) -> list[str]:
    """A line for each path that was made, removed or changed; a file made and removed changes its folder's time."""
    paths = sorted(before.keys() | after.keys())
    what = lambda path: "made" if path not in before else "removed" if path not in after else "changed"
    return [f"{path} was {what(path)}" for path in paths if before.get(path) != after.get(path)]
