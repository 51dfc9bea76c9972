"""The run's folder: one writer, one config, nothing deleted that is not the run's."""

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tlx import workdir as workdir_lib
from tlx.errors import UserError

CONFIG = {"seed": 0, "data": {"classes": (1, 2)}}


def begun(path, config):
    with workdir_lib.open_workdir(path, config) as folder:
        workdir_lib.begin(folder, config)
    return folder


def test_begin_and_go_on(tmp_path):
    with workdir_lib.open_workdir(tmp_path / "a" / "run", CONFIG) as folder:
        assert os.listdir(folder) == [".lock"]  # nothing is written until the run begins
        workdir_lib.begin(folder, CONFIG)
        assert json.loads((folder / "config.json").read_text()) == {"seed": 0, "data": {"classes": [1, 2]}}
        assert not workdir_lib.is_finished(folder)
    begun(tmp_path / "a" / "run", CONFIG)


def test_another_config_is_refused(tmp_path):
    begun(tmp_path, CONFIG)
    with pytest.raises(UserError, match=r"config.data.classes = \[1, 2\], this config has \[1, 3\]"):
        with workdir_lib.open_workdir(tmp_path, CONFIG | {"data": {"classes": (1, 3)}}):
            pass


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "1" * 5000, "\xff"])
def test_a_record_that_is_not_json(tmp_path, text):
    """Also one that is nested deeper, or has a longer number, than Python takes."""
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"config.json is not valid JSON \(.*\): restore it, or run again") as e:
        workdir_lib.read_json(tmp_path / "config.json")
    assert len(str(e.value).splitlines()) == 1
    with pytest.raises(UserError, match="cannot be read"):
        workdir_lib.read_json(tmp_path)


def test_a_file_and_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"), workdir_lib.open_workdir(tmp_path / "file", CONFIG):
        pass
    with pytest.raises(UserError, match="is not writable"), workdir_lib.open_workdir("/proc/nowhere/run", CONFIG):
        pass


def test_a_second_process_is_refused(tmp_path):
    code = (
        "import sys; from tlx.workdir import open_workdir\n"
        f"with open_workdir({str(tmp_path)!r}, {{'seed': 0}}):\n    print('in', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "in\n"
        with pytest.raises(UserError, match="in use by another process"):
            with workdir_lib.open_workdir(tmp_path, {"seed": 0}):
                pass
    finally:
        process.kill()
        process.wait()
    with workdir_lib.open_workdir(tmp_path, {"seed": 0}):
        pass  # the lock died with its holder


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    folder = begun(tmp_path, CONFIG)
    (folder / "result.json").write_text("{}")
    (folder / "checkpoints" / "1").mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with workdir_lib.open_workdir(tmp_path, {"seed": 1}, overwrite=True) as folder:
        assert (folder / "result.json").exists()  # until the new run begins
        workdir_lib.begin(folder, {"seed": 1}, overwrite=True)
        assert sorted(os.listdir(folder)) == [".lock", "config.json", "notes.txt"]


def test_overwrite_leaves_a_folder_alone_that_is_no_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds checkpoints but no config.json"):
        with workdir_lib.open_workdir(tmp_path, CONFIG, overwrite=True):
            pass
    assert (tmp_path / "checkpoints").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    workdir_lib.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        workdir_lib.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["x.json"]


def test_broken_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"a":')
    with pytest.raises(UserError, match=r"x.json is not valid JSON"):
        workdir_lib.read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="missing"):
        workdir_lib.read_json(tmp_path / "y.json")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_a_disk_that_takes_nothing_more_is_one_line(tmp_path, number):
    full = OSError(number, os.strerror(number), str(tmp_path / "result.json"))
    with pytest.raises(UserError, match=f"result.json: {os.strerror(number)}; mend it .* the same command again") as e:
        with workdir_lib.writable(tmp_path):
            raise full
    assert e.value.__cause__ is full and len(str(e.value).splitlines()) == 1


def test_other_errors_are_nobodys_disk(tmp_path):
    with pytest.raises(ConnectionResetError), workdir_lib.writable(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


RECORD = {"accuracy": 0.5, "name": "x", "list": [1, {"b": None}]}


def test_a_sealed_record_says_what_was_written(tmp_path):
    path = tmp_path / "result.json"
    record = RECORD | {"array": np.arange(2)}
    workdir_lib.write_json(path, record, seal=True)
    assert workdir_lib.read_json(path) == record | {"array": [0, 1]}
    said = json.loads(path.read_text())
    assert isinstance(said.pop("seal"), int) and said == record | {"array": [0, 1]}
    path.write_text(json.dumps(said))  # other files have no seal
    assert workdir_lib.read_json(path) == said
    with pytest.raises(UserError, match="result.json is not what was written: its checksum is missing: restore it, or"):
        workdir_lib.read_json(path, seal=True)


@pytest.mark.parametrize(("old", "new"), [("0.5", "0.6"), ('"x"', '"y"'), ("null", "0"), ('"name"', '"nama"')])
def test_a_sealed_record_that_was_changed_is_refused(tmp_path, old, new):
    path = tmp_path / "result.json"
    workdir_lib.write_json(path, RECORD, seal=True)
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match="result.json is not what was written: its checksum differs: restore it, or"):
        workdir_lib.read_json(path)


def test_the_order_of_a_sealed_record_does_not_matter():
    sealed = workdir_lib.sealed({"a": 1, "b": [2, 3]})
    assert workdir_lib.opened(dict(reversed(sealed.items()))) == {"a": 1, "b": [2, 3]}
    with pytest.raises(workdir_lib.BrokenSeal):
        workdir_lib.opened(sealed | {"b": [3, 2]})


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ({"name": "a", "recipe": "self_train", "consistency": {"hard": False}}, "config.recipe = 'self_train', this"),
        ({"name": "b", "recipe": "distill", "alpha": 1.0}, "config.name = 'b', this config has 'a'"),
        ({"name": "a", "recipe": "distill", "alpha": 1.0}, "config.alpha = 1.0, this config has 2.0"),
        (None, "config.recipe = '(absent)', this config has 'distill'"),
    ],
)
def test_another_run_is_named_by_what_says_most(tmp_path, old, said):
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match=re.escape(said)):
        workdir_lib._check(tmp_path, {"name": "a", "recipe": "distill", "alpha": 2.0}, any_config=False)
