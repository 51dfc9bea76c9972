"""A trace of a few steps: what is counted, and that a run is not changed by it."""

import pathlib

import pytest

from tlx import profile
from tlx.errors import UserError
from tlx.recipes import supervised


def test_own_time_is_without_what_was_called():
    events = [
        (0.0, 100.0, "loop"),
        (10.0, 30.0, "body"),
        (20.0, 5.0, "in it"),
        (50.0, 50.0, "body"),
        (100.0, 7.0, "next"),
    ]
    assert list(profile._own_time(events)) == [("in it", 5), ("body", 25), ("body", 50), ("loop", 20), ("next", 7)]


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("jit(step)/jvp(Classifier)/backbone/conv/dot", "backbone/conv/dot"),
        ("jit(step)/transpose(jvp(Classifier))/head/dot", "gradient of head/dot"),
        ("jit(step)/transpose(jvp())/mul", "gradient of mul"),
        ("jit(step)/add", "add"),
    ],
)
def test_sources_are_said_in_words(source, read):
    assert profile._readable(source) == read


@pytest.mark.parametrize(
    ("kernel", "hlo_op", "operation"),
    [
        ("loop_add_fusion_27", "command_buffer_1", "loop_add_fusion.27"),  # as an H200 said it
        ("nvjet_sm90_tst_128x128_64x6_2x1_v_bz_NNT", "command_buffer_1", "nvjet_sm90_tst_128x128_64x6_2x1_v_bz_NNT"),
        ("loop_and_select_fusion", "loop_and_select_fusion", "loop_and_select_fusion"),
        ("dot.3", "dot.3", "dot.3"),  # as a CPU says it
    ],
)
def test_an_event_is_of_an_operation_also_in_a_graph(kernel, hlo_op, operation):
    assert profile._operation({"kernel": kernel, "hlo_op": hlo_op}) == operation


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(what a run printed, its folder, its digest), traced and not."""
    folder, found = tmp_path_factory.mktemp("profile"), {}
    config = supervised.default_config()
    config.data.update(labels_per_class=10, validation=50)
    config.model = {"name": "mlp", "widths": (16,)}
    config.train.update(steps=40, batch_size=16, eval_every=20)
    for name in ("plain", "traced"):
        if name == "traced":
            with profile.on(folder / "trace"):
                result = supervised.run(config, folder / name)
        else:
            result = supervised.run(config, folder / name)
        found[name] = result["selected"]["digest"]
    return folder, found


def test_a_trace_changes_nothing(runs):
    assert runs[1]["plain"] == runs[1]["traced"]


def test_a_trace_names_the_operations(runs):
    (path,) = pathlib.Path(runs[0], "trace").rglob("*.xplane.pb")
    costs = profile.operations(path)
    assert any(program == "jit_step" and of and min(of.values()) >= 0 for (program, _), of in costs.items())


def test_what_is_too_short_is_not_traced_and_that_is_said(tmp_path, capsys):
    with profile.on(tmp_path):
        looked = profile.Profiler(profile.FIRST + profile.STEPS)
        for _ in range(30):
            looked.look(None, ())
        looked.close()
    assert not list(tmp_path.iterdir())
    assert (
        f"no trace: --profile wants a phase of more than {profile.FIRST + profile.STEPS} steps"
        in capsys.readouterr().out
    )


def test_a_damaged_trace_is_said_and_the_run_goes_on(tmp_path, capsys):
    (tmp_path / "x.xplane.pb").write_bytes(b"damaged")
    with pytest.raises(UserError, match="x.xplane.pb cannot be read .*trace the run again"):
        profile.operations(tmp_path / "x.xplane.pb")
    profiler = profile.Profiler(0)
    profiler._folder = tmp_path
    profiler._show()
    assert "x.xplane.pb cannot be read" in capsys.readouterr().out
