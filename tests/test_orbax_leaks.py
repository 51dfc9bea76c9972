"""orbax's questions to tensorstore are asked once a folder, and answered as before."""

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint._src.serialization import tensorstore_utils

from tlx import orbax_leaks

orbax_leaks.mend()


def test_a_folder_is_asked_of_once():
    asked = []

    def build(directory, name, **options):
        asked.append((directory, name, options))
        return {"base": {"path": directory}, **options}

    built = orbax_leaks._once_a_folder(build)
    first = built("/a", "w", mode="write")
    assert first == {"base": {"path": "/a"}, "mode": "write", "path": "w"}
    first["base"]["path"] = "changed by who got it"
    assert built("/a", "b", mode="write") == {"base": {"path": "/a"}, "mode": "write", "path": "b"}
    assert built("/a", mode="write") == {"base": {"path": "/a"}, "mode": "write"}
    assert asked == [("/a", None, {"mode": "write"})]
    built("/a", "w", mode="read")
    built("/b", "w", mode="read")
    assert [(directory, options) for directory, _, options in asked[1:]] == [
        ("/a", {"mode": "read"}),
        ("/b", {"mode": "read"}),
    ]


@pytest.mark.parametrize("name", [None, "params.w"])
def test_orbax_is_answered_as_before(tmp_path, name):
    built = tensorstore_utils._build_ocdbt_kvstore_tspec
    for directory in (tmp_path / "1", tmp_path / "2", tmp_path / "1"):
        assert built(str(directory), name) == built.asks(str(directory), name)


def test_a_second_mend_does_nothing():
    before = tensorstore_utils._build_ocdbt_kvstore_tspec
    orbax_leaks.mend()
    assert tensorstore_utils._build_ocdbt_kvstore_tspec is before


def test_saving_many_arrays_asks_for_few(tmp_path, monkeypatch):
    asked = []
    build = tensorstore_utils._build_ocdbt_kvstore_tspec.asks
    counted = orbax_leaks._once_a_folder(lambda *args, **options: asked.append(args) or build(*args, **options))
    monkeypatch.setattr(tensorstore_utils, "_build_ocdbt_kvstore_tspec", counted)
    state = {f"array_{number}": jnp.full(3, number) for number in range(20)}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "saved", state)
    assert all((restored[name] == state[name]).all() for name in state)
    assert 0 < len(asked) <= 6
