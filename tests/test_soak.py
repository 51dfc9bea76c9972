"""The soak in small (`python -m experiments.soak.soak`), and that its judge notices what grows."""

import json

import numpy as np
import pytest

from experiments.soak import soak


def test_some_students_in_a_row_compile_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(soak, "WARM", 0.0)
    monkeypatch.setattr(soak, "LIMIT", 1.0)  # seconds say nothing of memory
    options = ["--students=3", "--steps=10", "--every=0.01", f"--into={tmp_path / 'results.json'}"]
    assert soak.main(options) == 0
    verdict = json.loads((tmp_path / "results.json").read_text())["verdict"]
    assert verdict["students"] >= 3 and verdict["compiled"] == 0
    assert f'"students": {verdict["students"]}' in capsys.readouterr().out


def test_it_ends_when_its_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "judge", lambda record: {"flat": True, "compiled": 0})
    assert soak.main(["--minutes=0.01", "--steps=10", "--every=0.2", f"--into={tmp_path / 'results.json'}"]) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["seconds"] and record["students"][-1] < 4000  # which would be its end otherwise


@pytest.mark.parametrize(
    ("grows", "compiles", "flat"),
    [(0.0, 0, True), (0.019, 0, True), (0.03, 0, False), (-0.03, 0, True), (0.0, 1, True)],
)
def test_the_judge(grows, compiles, flat):
    """Memory that rises, or falls (which is no growth), by so much after warm-up; what is before does not count."""
    seconds = np.arange(1, 201) * 10.0
    past = np.clip((seconds - 200) / 1800, 0, 1)
    rss = np.where(seconds < 200, 300.0, 500 * (1 + grows * past)) + np.sin(seconds)
    made = np.where(seconds < 100, 7, 10) + np.where(seconds > 1000, compiles, 0)
    verdict = soak.judge(
        {"seconds": seconds, "rss_mb": rss + 200, "private_mb": rss, "compiled": made, "students": np.arange(200)}
    )
    assert verdict["flat"] == flat and verdict["compiled"] == compiles
    assert verdict["mb_per_hour"] == pytest.approx(500 * grows / 0.5, abs=1.0)
