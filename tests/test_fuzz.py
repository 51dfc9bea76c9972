"""The bad-input campaign in small (`python -m experiments.fuzz.campaign`), and that it notices what it is there for."""

import ctypes
import gzip
import os
import pathlib
import pickle
import struct
import subprocess

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from experiments.fuzz.fed import FED
from experiments.fuzz.tally import run_target
from experiments.fuzz.target import Target
from experiments.fuzz.targets import TARGETS
from experiments.fuzz.watch import judge
from experiments.fuzz.weight_targets import legacy, zipped
from tlx.data.builders import read_idx_dir
from tlx.errors import UserError
from tlx.pretrained import weights

# A few milliseconds an input; and the others, which draw, restore, prepare or load a config.
QUICK = 20
SLOW = {"report": 2, "comparison": 2, "photographs": 4, "checkpoint": 3, "run": 8, "sweep_results": 8}
SLOW |= {"prepared": 3, "prepared_again": 2}


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_damaged_is_read_or_refused_in_one_line(name, tmp_path):
    target = TARGETS[name](tmp_path)
    target.read(target.valid)

    @settings(
        max_examples=SLOW.get(name, QUICK),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.examples)
    def attempt(example):
        outcome = judge(lambda: target.read(example), folder=tmp_path, names=target.names)
        hypothesis.note(str(outcome))
        assert outcome.kind in ("read", "refused"), outcome

    attempt()


@pytest.mark.parametrize("name", FED)
def test_what_atheris_begins_with_is_read_or_refused(name, tmp_path):
    """Without atheris: most of the bytes that it mutates are read, and no bytes at all are refused."""
    fed = FED[name](tmp_path)
    look = lambda content: judge(lambda: fed.target.read(fed.example(content)), folder=tmp_path, names=fed.target.names)
    kinds = [look(seed).kind for seed in fed.seeds]
    assert set(kinds) <= {"read", "refused"} and 2 * kinds.count("read") >= len(kinds), kinds
    assert look(b"").kind == ("read" if name == "config_argument" else "refused")


def test_what_is_written_around_the_folder_is_found(tmp_path):
    """By C, which raises no audit event; made, changed, and made and removed again."""
    folder = tmp_path / "inputs"
    for made in (folder, tmp_path / "temporary"):
        made.mkdir()
    (tmp_path / "here").write_text("")
    libc = ctypes.CDLL(None)

    def write(outside):
        (folder / "inside").write_text("x")
        if outside:
            os.close(libc.creat(os.fsencode(tmp_path / "made"), 0o600))
            libc.truncate(os.fsencode(tmp_path / "here"), ctypes.c_long(9))
            os.close(libc.creat(os.fsencode(tmp_path / "temporary" / "x"), 0o600))
            libc.unlink(os.fsencode(tmp_path / "temporary" / "x"))

    for examples, changed in (([False], []), ([True], ["here was changed", "made was made", "temporary was changed"])):
        target = Target(False, st.sampled_from(examples), write, ("x",))
        tally = run_target(lambda _, target=target: target, folder, seconds=0.05, seed=0)
        assert tally.read and tally.changed == changed
        assert [found["count"] for found in tally.record()["findings"]] == ([3] if changed else [])


def hang():
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "kind", "said"),
    [
        (lambda folder: None, "read", ""),
        (lambda folder: (folder / "x").write_text("x"), "read", ""),
        (lambda folder: refuse("file.npz is damaged: get it again"), "refused", "file.npz"),
        (lambda folder: refuse("it is damaged"), "finding", "names no file"),
        (lambda folder: refuse(" "), "finding", "a refusal"),
        (lambda folder: {}["key"], "finding", "KeyError: 'key'"),
        (lambda folder: np.ones(2**29), "finding", "MemoryError"),
        (lambda folder: hide(lambda: np.ones(2**29)), "finding", "MemoryError, refused as: file.npz"),
        (lambda folder: (folder.parent / "outside").write_text("x"), "finding", "open writes"),
        (lambda folder: (folder / ".." / "outside").mkdir(), "finding", "os.mkdir writes"),
        (lambda folder: os.rename(folder / "here", folder.parent / "there"), "finding", "os.rename writes"),
        (lambda folder: hide(lambda: subprocess.run(["true"])), "finding", "subprocess.Popen"),
        (lambda folder: pickle.loads(b"cos\nsystem\n."), "finding", "pickle.find_class ('os', 'system')"),
        (lambda folder: hide(hang), "finding", "Hang: more than 0.05 s"),
    ],
)
def test_the_judge(tmp_path, monkeypatch, read, kind, said):
    monkeypatch.setattr("experiments.fuzz.watch.SECONDS", 0.05 if "Hang" in said else 10.0)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "here").write_text("")
    outcome = judge(lambda: read(folder), folder=folder, names=("file.npz",))
    assert outcome.kind == kind and said in outcome.said


def refuse(said):
    raise UserError(said)


def hide(read):
    """As a reader that takes every exception for a damaged file."""
    try:
        read()
    except Exception:
        raise UserError("file.npz is damaged") from None


def text(value):
    """The opcodes that put a value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_hostile_pickles_run_nothing(tmp_path, form):
    marker = tmp_path / "ran"
    system, evil = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    eval_ = b"cbuiltins\neval\n" + text(evil) + b"\x85R"
    pickles = {
        "os.system": b"cos\nsystem\n" + text(system) + b"\x85R",
        "builtins.eval": eval_,
        "builtins.getattr": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n"
        + text("os")
        + b"\x85R"
        + text("system")
        + b"tR",
        "torch._utils.__builtins__": b"\x8c\x0ctorch._utils\x8c\x0c__builtins__\x93",
        "collections.OrderedDict.__init__.__globals__": b"ccollections\nOrderedDict.__init__.__globals__\n",
        "runpy._run_code": b"crunpy\n_run_code\n(" + text(evil) + b"}tR",
        # Nested: a call within the arguments of a call that is allowed, within a persistent id, within a state.
        "numpy.load": b"ctorch._utils\n_rebuild_parameter\n(cnumpy\nload\n" + text("x") + b"\x85R\x89NtR",
        "posix.system": b"(" + text("storage") + b"cposix\nsystem\n" + text(system) + b"\x85R" + text("0") + b"tQ",
        "subprocess.Popen": b"ccollections\nOrderedDict\n)R}"
        + text("a")
        + b"csubprocess\nPopen\n("
        + text(system)
        + b"tRsb",
        "os.execv": b"(" + text(system) + b"ios\nexecv\n",
        "builtins.object": b"cbuiltins\nobject\n)\x81",
    }
    wraps = {"zip": lambda p: zipped({"a/data.pkl": p, "a/data/0": bytes(24)}), "legacy": legacy, "plain": lambda p: p}
    for asked, opcodes in pickles.items():
        (tmp_path / "w.pth").write_bytes(wraps[form](b"\x80\x04" + opcodes + b"."))
        outcome = judge(lambda: weights.read(tmp_path / "w.pth"), folder=tmp_path, names=("w.pth",))
        assert outcome.kind == "refused", (asked, outcome)
        named = asked if asked != "builtins.getattr" else "builtins."
        assert named in outcome.said and "does not run code" in outcome.said, (asked, outcome)
    for numbers in (
        b"\x82\x01",
        b"\x83\x01\x00",
        b"\x84\x01\x00\x00\x00",
        b"Pos.system\n",
        b"cos\n\n",
        b"\x8c\x02os\x85Q",
    ):
        (tmp_path / "w.pth").write_bytes(wraps[form](b"\x80\x04" + numbers + b"."))  # extensions, ids that are none
        assert judge(lambda: weights.read(tmp_path / "w.pth"), folder=tmp_path, names=("w.pth",)).kind == "refused"
    assert not marker.exists()


@pytest.mark.parametrize("opcode", [b"\x95" + struct.pack("<Q", 2**40), b"X" + struct.pack("<I", 2**32 - 1)])
@pytest.mark.parametrize("wrap", [legacy, lambda pickled: pickled])
def test_pickles_that_claim_much_memory(tmp_path, opcode, wrap):
    (tmp_path / "w.pth").write_bytes(wrap(b"\x80\x04" + opcode + b"."))
    outcome = judge(lambda: weights.read(tmp_path / "w.pth"), folder=tmp_path, names=("w.pth",))
    assert outcome.kind == "refused", outcome


def test_an_idx_file_that_unpacks_to_more_than_it_says(tmp_path):
    """2 GiB of zeros, in 2 MB, behind six images."""
    for stem, count in (("train", 6), ("t10k", 3)):
        labels = struct.pack(">2I", 0x0801, count) + bytes(count)
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
        images = struct.pack(">4I", 0x0803, count, 4, 4) + bytes(16 * count)
        bomb = gzip.compress(bytes(2**26), 9) * 32 if stem == "train" else b""
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images) + bomb)
    outcome = judge(lambda: read_idx_dir(tmp_path), folder=tmp_path, names=("train-images",))
    assert outcome.kind == "refused" and "should have 112 bytes" in outcome.said, outcome


def test_images_that_claim_much_memory(tmp_path):
    path = pathlib.Path(tmp_path / "image.npy")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2147483648, 8, 8, 1)}\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(256))
    from tlx import predict

    outcome = judge(lambda: predict.read_images(path, (8, 8, 1)), folder=tmp_path, names=("image.npy",))
    assert outcome.kind == "refused", outcome
