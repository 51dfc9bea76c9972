"""What took long to make and is read again: prepared datasets, pseudo-labels, kept arrays, traces."""

import contextlib
import io
import json
import pathlib
from unittest import mock

import jax
import numpy as np
from hypothesis import strategies as st

from experiments.fuzz.data_targets import idx_files
from experiments.fuzz.mutation import damaged, records
from experiments.fuzz.target import Target, one_of_files, put
from experiments.fuzz.weight_targets import npy_headers, npz_examples, npz_samples
from tlx import kept, profile, pseudo_label
from tlx.data import builders, source

_TRACE = """planes {
  name: "/host:CPU"
  lines {
    id: 1 name: "tf_XLAEigen/1" timestamp_ns: 1000
    events { metadata_id: 1 offset_ps: 1000 duration_ps: 5000000
      stats { metadata_id: 1 str_value: "fusion.1" } stats { metadata_id: 2 ref_value: 4 }
      stats { metadata_id: 3 uint64_value: 7 } }
    events { metadata_id: 2 offset_ps: 2000 duration_ps: 3000
      stats { metadata_id: 1 str_value: "dot.2" } stats { metadata_id: 2 ref_value: 4 } }
  }
  event_metadata { key: 1 value { id: 1 name: "fusion.1" } }
  event_metadata { key: 2 value { id: 2 name: "dot.2" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
  stat_metadata { key: 2 value { id: 2 name: "hlo_module" } }
  stat_metadata { key: 3 value { id: 3 name: "program_id" } }
  stat_metadata { key: 4 value { id: 4 name: "jit_step" } }
}"""


def prepared(folder: pathlib.Path, by: str) -> Target:
    """A dataset as tfds leaves it: notes, records, and the arrays that tlx keeps beside them; read by its "name", or
    by the IDX "files" that it was once prepared from.
    """
    root = folder / "prepared"
    idx_files(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        made = builders.prepare(builders.Idx(idx_dir=folder, data_dir=root))
    options = {"name": "idx", "idx_dir": str(folder)}
    if by == "name":
        base, options = root / "made", {"name": "made"}
        (root / "idx").rename(base)
        made = base / made.parent.name / made.name
        (base / "other" / "1.0.0").mkdir(parents=True)
        (base / ".config").mkdir()
        (base / ".config" / "metadata.json").write_text(json.dumps({"default_config_name": made.parent.name}))
    load = lambda most: source.load(**options, data_dir=str(root), in_memory_bytes=most)
    load(2**20)  # which keeps the arrays
    files = {path: _damage(path) for path in sorted(root.rglob("*.*")) if path.is_file()}
    arrays = {path: path.read_bytes() for path in made.glob("*.npy")}

    def read() -> None:
        # tfds makes a folder among the temporary ones, and takes it away.
        with mock.patch("tempfile.tempdir", str(folder)), contextlib.redirect_stdout(io.StringIO()):
            load(2**20)
            try:
                for path in arrays:  # so that the records are read, too
                    path.unlink(missing_ok=True)
                dataset = load(0)
                dataset.train.images[:], dataset.test.images[:]
            finally:
                for path, content in arrays.items():
                    put(path, content)

    return one_of_files(files, read, names=(str(root), "'made'"))


def pseudo_labels(folder: pathlib.Path) -> Target:
    """A round's pseudo-labels, of which every byte counts."""
    path, logits = folder / "round_1.npz", np.array([[2, -1], [0, 1], [0.5, 0]], np.float32)
    pseudo_label.save(pseudo_label.make(np.array([4, 2, 7]), logits, teacher="d" * 64, threshold=0.7), path)
    whole = path.read_bytes()
    with np.load(path) as arrays:
        compressed = npz_samples(dict(arrays))[1]
    examples = st.one_of(damaged(whole, compressed), npz_examples([whole, compressed]))
    return Target(whole, examples, lambda content: pseudo_label.load(put(path, content)), (path.name,))


def kept_arrays(folder: pathlib.Path) -> Target:
    """Features of a frozen level, and a teacher's logits: an array of floats, and one of records."""
    logits = np.dtype([("teacher_index", "<i4", (1, 1)), ("teacher_logits", "<f2", (1, 1)), ("teacher_rest", "<f2", 1)])
    keeps, files = [], {}
    for name, dtype, shape in (("features/a", np.dtype("f4"), (2, 3)), ("teacher/logits", logits, (4,))):
        path, key = folder / f"{name}.npy", {"weights": "w", "data": {"name": "digits"}, "views": 1}
        rows = lambda dtype=dtype, shape=shape: iter([np.ones(shape, dtype)])
        keeps.append(lambda p=path, r=rows, k=key, s=shape, d=dtype: kept.keep(p, r, key=k, shape=s, dtype=d))
        content = bytes(keeps[-1]().tobytes())
        files[path] = st.one_of(damaged(path.read_bytes()), npy_headers(content))
        note = path.with_suffix(".json")
        files[note] = records(json.loads(note.read_text()))

    def read() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            for keep in keeps:
                keep().tobytes()

    return one_of_files(files, read, names=(str(folder),))


def trace(folder: pathlib.Path) -> Target:
    """`tlx.profile.operations`, of the trace of a step of two operations."""
    whole = jax.profiler.ProfileData.text_proto_to_serialized_xspace(_TRACE)
    read = lambda content: profile.operations(put(folder / "host.xplane.pb", content))
    return Target(whole, damaged(whole, most=4), read, ("host.xplane.pb",))


def _damage(path: pathlib.Path) -> st.SearchStrategy[bytes]:
    content = path.read_bytes()
    if path.suffix == ".json":
        return records(json.loads(content))
    return st.one_of(damaged(content), npy_headers(content[128:])) if path.suffix == ".npy" else damaged(content)
