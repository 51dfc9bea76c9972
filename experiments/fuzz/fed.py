"""What atheris feeds with bytes: a target, how bytes become its input, and bytes to begin with.

Where a format has a checksum over what is in it, bytes become what is in it: no mutation would get past the checksum.
"""

import dataclasses
import gzip
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.fuzz import config_targets, data_targets, kept_targets, weight_targets
from experiments.fuzz.target import Target
from experiments.fuzz.weight_targets import npy, npz_samples, unzip, zipped


@dataclasses.dataclass(frozen=True)
class Fed:
    """A target, `example(bytes)`, which is an input of it, and `seeds`, bytes of inputs most of which are read."""

    target: Target
    example: Callable[[bytes], Any]
    seeds: Sequence[bytes]


def weight_file(folder: pathlib.Path) -> Fed:
    """Of any format."""
    begins = (weight_targets.torch_zip, weight_targets.torch_legacy, weight_targets.safetensors_file)
    targets = [begin(folder) for begin in (*begins, weight_targets.npz_file)]
    return Fed(targets[0], lambda content: content, [target.valid for target in targets])


def torch_pickle(folder: pathlib.Path) -> Fed:
    """The pickle in a zip of torch.save."""
    target = weight_targets.torch_zip(folder)
    members = unzip(target.valid)
    (name,) = (name for name in members if name.endswith("/data.pkl"))
    return Fed(target, lambda content: zipped(members | {name: content}), [members[name]])


def safetensors_file(folder: pathlib.Path) -> Fed:
    target = weight_targets.safetensors_file(folder)
    return Fed(target, lambda content: content, [target.valid])


def npz_member(folder: pathlib.Path) -> Fed:
    """An npy in an npz of weights."""
    seeds = [npy(np.arange(6.0).reshape(2, 3)), npy(np.array(3, np.int8)), npy(np.ones((2, 2), np.float16, order="F"))]
    return Fed(weight_targets.npz_file(folder), lambda content: zipped({"a.npy": content}), seeds)


def teacher_logits(folder: pathlib.Path) -> Fed:
    whole = npy(np.eye(3, dtype=np.float32)[np.arange(12) % 3])
    inside = lambda content: zipped({"logits.npy": content})
    forms = {".npy": (".npy", lambda content: content), "inside": (".npz", inside), ".npz": (".npz", lambda c: c)}
    archive = npz_samples({"logits": np.eye(3, dtype=np.float32)[np.arange(12) % 3]})[1]
    seeds = {".npy": [whole], "inside": [whole], ".npz": [archive]}
    pick = lambda form, content: (forms[form][0], forms[form][1](content))
    return _chosen(data_targets.logits(folder), pick, seeds)


def idx(folder: pathlib.Path) -> Fed:
    """One of the four files; of the gzipped ones also what is in them."""
    target, contents = data_targets.idx(folder), data_targets.idx_files(folder)
    seeds = {(path, False): [path.read_bytes()] for path in contents}
    seeds |= {(path, True): [content] for path, content in contents.items() if path.suffix == ".gz"}
    pick = lambda form, content: (form[0], gzip.compress(content, mtime=0) if form[1] else content)
    return _chosen(target, pick, seeds)


def images(folder: pathlib.Path) -> Fed:
    """A picture of any format."""
    seeds = {suffix: [content] for suffix, content in data_targets.image_samples().items()}
    return _chosen(data_targets.images(folder), lambda suffix, content: (suffix, content, (8, 8, 3)), seeds)


def pseudo_labels(folder: pathlib.Path) -> Fed:
    target = kept_targets.pseudo_labels(folder)
    return Fed(target, lambda content: content, [target.valid])


def config_argument(folder: pathlib.Path) -> Fed:
    seeds = [b"seed=1", b"seed=2,runlocal", b"rate=0.5,name=x", b"runlocal=False,rate=1e-3", b"name='a,b'"]
    return Fed(config_targets.argument(folder), lambda content: content.decode(errors="surrogateescape"), seeds)


def _chosen(target: Target, pick: Callable[[Any, bytes], Any], seeds: dict[Any, list[bytes]]) -> Fed:
    """The first byte chooses one of the forms, the keys of `seeds`."""
    forms = list(seeds)
    example = lambda content: pick(forms[content[0] % len(forms)] if content else forms[0], content[1:])
    return Fed(target, example, [bytes([i]) + seed for i, form in enumerate(forms) for seed in seeds[form]])


FED: dict[str, Callable[[pathlib.Path], Fed]] = {
    each.__name__: each
    for each in (
        *(weight_file, torch_pickle, safetensors_file, npz_member, teacher_logits, idx, images, pseudo_labels),
        config_argument,
    )
}
