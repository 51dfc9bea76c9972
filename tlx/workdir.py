"""A run's folder is its record: who may write into it, when, and how a file in it comes to be whole or not at all.

config.json    the resolved config           checkpoints/<phase>/<step>/   orbax
task.json      what the network expects      phases/<phase>.json           finished phases, in order
splits.json    labelled, unlabelled, ...     metrics.jsonl, tensorboard/   curves
result.json    the final figures; a run that has it is finished            report.html, gallery.npz, plots/
features/      activations of what is frozen, if they are kept; teacher/ what a teacher said, if that is
export/        the network as one file, if it was exported
ledger.json    who taught whom, in self-training; reentry.json   where its rounds were begun anew, if they were
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import secrets
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, TextIO

from tlx import hosts
from tlx.errors import UserError


class InUse(UserError):
    """The folder is another process's for now."""


# What to do about a record that is damaged.
RESTORE = "restore it, or run again with --overwrite"

# What ails a disk or a folder, and not the program.
_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)

# Seconds until what one host wrote is seen by all: network disks may go by what they knew for up to a minute.
SEEN_WITHIN = 90.0

# All that a run makes. `--overwrite` removes these and nothing else, whatever folder it was pointed at.
OWN = (
    *("config.json", "task.json", "splits.json", "result.json", "metrics.jsonl", "report.html", "gallery.npz"),
    *("strategy.json", "ledger.json", "reentry.json"),
    *("checkpoints", "phases", "pseudo_labels", "tensorboard", "plots", "features", "teacher", "export"),
)


@contextlib.contextmanager
def open_workdir(
    path: str | os.PathLike, config: dict[str, Any], *, overwrite: bool = False, from_round: int = 0
) -> Iterator[pathlib.Path]:
    """Takes hold of a folder for one run of `config` and yields its path; nothing of a run is written or deleted yet.

    The folder may be new, or hold an unfinished run of the same config, to be gone on with, or a finished one (see
    `is_finished`); with `overwrite`, any run; with `from_round`, one that `tlx.reentry.check` lets pass. A lock keeps a
    second process out until the first ends, however it ends.

    Raises:
      UserError: the path is a file, not writable, in use (InUse), or holds a run of another config; or it is not the
        same folder on all hosts.
    """
    workdir = pathlib.Path(path).expanduser()
    with contextlib.ExitStack() as held:

        def take() -> str:
            lock = held.enter_context(_lock(workdir))
            _check(workdir, config, any_config=overwrite or from_round > 0)
            return _mark(workdir, lock) if hosts.count() > 1 else ""

        mark = hosts.from_first(take)
        hosts.all_or_none(lambda: _find(workdir, mark))
        yield workdir


def _lock(workdir: pathlib.Path) -> TextIO:
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"workdir {workdir} is a file: name a folder")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "a")  # noqa: SIM115 (entered by the caller)
    except OSError as e:
        raise UserError(f"workdir {workdir} is not writable ({e.strerror}): choose another --workdir") from None
    try:
        # Held by the process and not by the file: a killed run leaves no stale lock.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise InUse(f"workdir {workdir} is in use by another process: wait for it or stop it") from None
    return lock


def _mark(workdir: pathlib.Path, lock: TextIO) -> str:
    """Writes into the lock's file a word that was never there before, and returns it."""
    word = secrets.token_hex(8)
    with writable(workdir):
        lock.truncate(0)
        lock.write(word)
        lock.flush()
        os.fsync(lock.fileno())
    return word


def _find(workdir: pathlib.Path, mark: str) -> None:
    """Returns when the first host's mark is to be read here, or raises UserError where it never is."""
    if not mark:
        return
    deadline = time.monotonic() + SEEN_WITHIN
    while True:
        with contextlib.suppress(OSError):
            if (workdir / ".lock").read_text() == mark:
                return
        if time.monotonic() > deadline:
            raise UserError(
                f"workdir {workdir} is another folder on host {hosts.number()} than on host 0: "
                "choose a --workdir on a disk that all hosts see"
            )
        time.sleep(0.1)


def begin(workdir: pathlib.Path, config: dict[str, Any], *, overwrite: bool = False) -> None:
    """Marks an open folder as a run of `config`; with `overwrite`, first deletes the run that it holds.

    Called when everything that can be wrong has been checked: a mistyped config neither deletes nor begins anything.
    """
    if overwrite and (workdir / "config.json").exists():
        _remove_run(workdir)
    if not (workdir / "config.json").exists():
        write_json(workdir / "config.json", config)


def is_finished(workdir: pathlib.Path) -> bool:
    """Whether the run in this folder has ended: `result.json` is the last thing written."""
    return (workdir / "result.json").exists()


@contextlib.contextmanager
def writable(workdir: pathlib.Path) -> Iterator[None]:
    """For what writes into a run's folder: a full disk, or a folder that has become read-only, is one UserError."""
    try:
        yield
    except OSError as e:
        if e.errno not in _NOT_WRITABLE:
            raise
        raise UserError(
            f"{e.filename or workdir}: {e.strerror}; mend it (make room on the disk, or the folder writable) and give "
            "the same command again: it goes on from the last checkpoint"
        ) from e


def write_json(path: pathlib.Path, value: Any, *, indent: int | None = 1, seal: bool = False) -> None:
    """Writes a file that is either whole or absent, also when the process is killed in between.

    With `seal`, an object is written with a checksum of what it says, which `read_json` holds it to.

    Of several hosts the first writes; the others, which may not see the file at once, leave it to that.
    """
    value = sealed(value) if seal else value
    write_bytes(path, (json.dumps(value, indent=indent, default=_plain) + "\n").encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """As `write_json`, for bytes."""
    if hosts.is_first():
        with writing(path) as file:
            file.write(content)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a file that becomes `path` when all is written: a temporary one beside it, synced, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the record from one's colleagues
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def remove(path: pathlib.Path) -> None:
    """Deletes a file, a link, or a folder with all in it, if there is one; a kill leaves the folder whole or absent."""
    doomed = path.with_name(f".{path.name}.removed")
    if doomed.exists():  # of a process that was killed
        shutil.rmtree(doomed)
    if path.is_dir() and not path.is_symlink():
        path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def read_json(path: pathlib.Path, *, seal: bool = False) -> Any:
    """Reads a record, or raises UserError that names the file and the fix. A seal is checked, and taken off.

    `seal`: whether there must be one.
    """
    try:
        return opened(json.loads(path.read_text()), seal=seal)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: is {path.parent} the folder of a tlx run?") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror}): check the path") from None
    except BrokenSeal as e:
        raise UserError(f"{path} {e}: {RESTORE}") from None
    except (ValueError, RecursionError) as e:  # also a number of more digits, or a nesting, than Python takes
        raise UserError(f"{path} is not valid JSON ({e}): {RESTORE}") from None


class BrokenSeal(ValueError):
    """A record that does not say what it said when it was written."""


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record, as JSON has it, with a checksum of what it says: of a disk's errors, not of anybody's intentions."""
    record = as_read(record)
    return {**record, "seal": zlib.crc32(canonical(record).encode())}


def opened(record: Any, *, seal: bool = True) -> Any:
    """What was sealed, without its seal; raises BrokenSeal if it says something else now.

    What has no seal, or is no object, is given back as it is where `seal` is False; else the seal's name is damaged.
    """
    if not isinstance(record, dict) or "seal" not in record:
        if seal:
            raise BrokenSeal("is not what was written: its checksum is missing")
        return record
    said = {name: value for name, value in record.items() if name != "seal"}
    if record != sealed(said):
        raise BrokenSeal("is not what was written: its checksum differs")
    return said


def _check(workdir: pathlib.Path, config: dict[str, Any], any_config: bool) -> None:
    if not (workdir / "config.json").exists():
        strangers = [p.name for p in workdir.iterdir() if p.name in OWN]
        if strangers:
            raise UserError(f"workdir {workdir} holds {strangers[0]} but no config.json: choose another --workdir")
        return
    if any_config:
        return
    old, new = read_json(workdir / "config.json"), as_read(config)
    if difference := first_difference(_names(old), _names(new)) or first_difference(old, new):
        key, old, new = difference
        raise UserError(
            f"workdir {workdir} holds a run with {key} = {old!r}, this config has {new!r}: "
            "choose another --workdir, or --overwrite to delete that run"
        )


def _names(config: Any) -> dict[str, Any]:
    """What says most of another method's run, of which everything differs."""
    return {name: config[name] for name in ("recipe", "name") if name in config} if isinstance(config, dict) else {}


def canonical(value: Any) -> str:
    """JSON that is the same text for equal values; numpy, jax and paths as `write_json` has them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def as_read(value: Any) -> Any:
    """A value as it comes back from `write_json` and `read_json`: tuples are lists."""
    return json.loads(canonical(value))


def first_difference(old: Any, new: Any, key: str = "config") -> tuple[str, Any, Any] | None:
    """The first place, depth first, where two configs differ: (dotted key, old, new), or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(n for n in new if n not in old)]:
            found = first_difference(old.get(name, "(absent)"), new.get(name, "(absent)"), f"{key}.{name}")
            if found:
                return found
        return None
    return None if old == new else (key, old, new)


def _remove_run(workdir: pathlib.Path) -> None:
    # config.json goes last: until then the folder is still known as a run, and a second --overwrite ends the work.
    for name in sorted(OWN, key=lambda name: name == "config.json"):
        remove(workdir / name)


def _plain(value: Any) -> Any:
    """numpy and jax scalars and arrays, and paths, as JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")
