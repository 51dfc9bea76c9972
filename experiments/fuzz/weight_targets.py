"""Weight files: of `torch.save` (zip and legacy), hostile pickles in either, safetensors and npz."""

import io
import json
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors.numpy
from hypothesis import strategies as st

from experiments.fuzz.mutation import NUMBERS, damaged, records
from experiments.fuzz.target import Target, put
from tlx.pretrained import weights

_SAMPLES = pathlib.Path(__file__).parents[2] / "tests" / "data" / "torch"
_NAMES = ("dtypes", "views", "checkpoint")
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_NAME = "weights.file"


def torch_zip(folder: pathlib.Path) -> Target:
    """Damage to the archive, which its checksums mostly find; and to the pickle in it, under right checksums."""
    files = [(_SAMPLES / f"{name}.zip.pth").read_bytes() for name in _NAMES]
    members = [unzip(content) for content in files]
    pickles = [next(content for name, content in each.items() if name.endswith("/data.pkl")) for each in members]
    inside = st.tuples(st.sampled_from(members), damaged(*pickles)).map(
        lambda pair: zipped({name: pair[1] if name.endswith("/data.pkl") else c for name, c in pair[0].items()})
    )
    return _target(folder, files[0], st.one_of(damaged(*files), inside, inside))


def torch_legacy(folder: pathlib.Path) -> Target:
    files = [(_SAMPLES / f"{name}.legacy.pth").read_bytes() for name in _NAMES]
    return _target(folder, files[0], damaged(*files))


def hostile_pickles(folder: pathlib.Path) -> Target:
    """Programs of a pickle machine's operations that ask for calls, attributes, instances and persistent ids."""
    marker = str(folder / "ran")
    globals_ = [
        *(b"cos\nsystem\n", b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nexec\n", b"cbuiltins\ngetattr\n"),
        *(b"cbuiltins\n__import__\n", b"csubprocess\nPopen\n", b"cnumpy\nfromfile\n", b"coperator\nattrgetter\n"),
        *(b"ctorch\nos.system\n", b"ctorch._utils\n__builtins__\n", b"ccollections\nOrderedDict.__init__\n"),
        *(b"ctorch\nload\n", b"ctorch\nFloatStorage\n", b"ctorch\nSize\n", b"ctorch\nfloat16\n"),
        *(
            b"ccollections\nOrderedDict\n",
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"ctorch._utils\n_rebuild_parameter\n",
        ),
    ]
    values = [f"touch {marker}", f"open({marker!r}, 'w')", "os", "system", "__class__", "__globals__", "find_class"]
    values += ["storage", "0", "cpu", 6, -1, 2**40, None, (), {}, [], {"a": 1}, b"x", 1.5, True]
    plain = [pickle.dumps(value, 2)[2:-1] for value in values]
    operations = [
        *(b"R", b"\x81", b"\x92", b"b", b"Q", b"\x93", b"(", b"t", b"\x85", b"\x86", b"\x87", b"}", b"]", b")", b"o"),
        *(b"s", b"u", b"a", b"e", b"0", b"1", b"2", b"q\x00", b"h\x00", b"\x94", b"\x82\x01", b"Pid\n"),
        *(b"\x90", b"\x8f"),
        *(b"(" + plain[0] + b"ios\nsystem\n", b"\x97", b"\x98", b"r\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8),
        *(b"\x95" + struct.pack("<Q", 2**40), b"X" + struct.pack("<I", 2**31), b"\x8d" + struct.pack("<Q", 2**40)),
    ]
    piece = st.one_of(st.sampled_from(globals_), st.sampled_from(plain), st.sampled_from(operations))
    call = st.tuples(st.sampled_from(globals_), st.sampled_from(plain)).map(lambda pair: pair[0] + pair[1] + b"\x85R")
    program = st.lists(st.one_of(piece, call), min_size=1, max_size=16).map(lambda p: b"\x80\x02" + b"".join(p) + b".")
    wraps = (lambda pickled: zipped({"a/data.pkl": pickled, "a/data/0": bytes(24)}), legacy, lambda pickled: pickled)
    examples = st.tuples(program, st.sampled_from(wraps)).map(lambda pair: pair[1](pair[0]))

    def read(content: bytes) -> None:
        try:
            weights.read(put(folder / _NAME, content))
        finally:
            assert not (folder / "ran").exists(), "the pickle ran a command"

    return Target((_SAMPLES / "views.zip.pth").read_bytes(), examples, read, (_NAME,))


def safetensors_file(folder: pathlib.Path) -> Target:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3, np.int64), "c": np.ones(3, ml_dtypes.bfloat16)}
    whole = safetensors.numpy.save(arrays, metadata={"tlx": "no"})
    length = struct.unpack("<Q", whole[:8])[0]
    put_together = lambda header: struct.pack("<Q", len(header)) + header + whole[8 + length :]
    headers = records(json.loads(whole[8 : 8 + length])).map(put_together)
    return _target(folder, whole, st.one_of(damaged(whole), headers))


def npz_file(folder: pathlib.Path) -> Target:
    """Damage to the archive, and to an array's header under right checksums."""
    files = npz_samples({"a": np.arange(6.0).reshape(2, 3), "b": np.array(3), "c": np.ones(3, ml_dtypes.bfloat16)})
    return _target(folder, files[0], npz_examples(files))


def npz_samples(arrays: Mapping[str, np.ndarray]) -> list[bytes]:
    """Plain and compressed."""
    files = []
    for save in (np.savez, np.savez_compressed):
        save(buffer := io.BytesIO(), **arrays)
        files.append(buffer.getvalue())
    return files


def npz_examples(files: list[bytes]) -> st.SearchStrategy[bytes]:
    members = unzip(files[0])
    name = next(iter(members))
    pickled = npy(np.array([{"a": 1}, None], object))
    inside = damaged(*members.values(), pickled, npy(np.ones(2, [("x", "f4"), ("y", "i4")])))
    inside = st.one_of(inside, npy_headers(bytes(48)))
    rezipped = st.tuples(inside, st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))).map(
        lambda pair: zipped(members | {name: pair[0]}, pair[1])
    )
    return st.one_of(damaged(*files), rezipped, rezipped)


def npy_headers(elements: bytes) -> st.SearchStrategy[bytes]:
    """Arrays whose headers claim any shape and type of these elements."""
    kinds = ("'<f4'", "'<f8'", "'|u1'", "'>i2'", "'|O'", "'|S1000000'", "'<U2147483647'", "'|V2'", "'f4,f4'")
    kinds += ("'x'", "3")
    kinds += ("[('a', '<f4')]", "[('a', '<f4', (2147483648,))]", "('<f4', (9, 9, 9))", "'|b1'", "'<M8[s]'")
    side = st.sampled_from(("0", "1", "2", "3", "12", "True", "2.5", "None", "'x'", *map(str, NUMBERS)))
    shape = st.one_of(st.lists(side, max_size=4), st.just(["1"] * 65)).map(lambda sides: f"({','.join([*sides, ''])})")
    text = st.tuples(st.sampled_from(kinds), st.sampled_from(("True", "False", "0")), shape).map(
        lambda parts: "{{'descr': {}, 'fortran_order': {}, 'shape': {}}}\n".format(*parts).replace("(,)", "()").encode()
    )
    versions = st.sampled_from((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x04\x00"))
    length = lambda version, header: struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return st.tuples(versions, text).map(lambda p: b"\x93NUMPY" + p[0] + length(*p) + p[1] + elements)


def npy(array: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


def unzip(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def legacy(pickled: bytes) -> bytes:
    """A file of the old format around a pickle that shows one storage of six float32."""
    start = b"".join(pickle.dumps(x, 2) for x in (_MAGIC, _PROTOCOL, {"little_endian": True}))
    return start + pickled + pickle.dumps(["0"], 2) + struct.pack("<q", 6) + bytes(24)


def _target(folder: pathlib.Path, valid: bytes, examples: st.SearchStrategy[bytes]) -> Target:
    read = lambda content: weights.digest(weights.read(put(folder / _NAME, content)))
    return Target(valid, examples, read, (_NAME,))
