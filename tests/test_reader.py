"""The reader: every example once a pass, any step at once, the same rows in every harness, exact evaluation."""

import threading

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlx import parallel
from tlx.data import mixup, reader, source
from tlx.data.source import Examples
from tlx.errors import UserError


def examples(count=10):
    images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1)
    return Examples(images, np.arange(count, dtype=np.int32) % 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 5))
def test_each_pass_has_every_example_once(count, size, seed):
    index = np.arange(100, 100 + count)
    stream = reader.Stream(index, size, (seed,))
    batches = [stream.at(step) for step in range(6)]
    assert all(len(batch) == size for batch in batches)
    walked = np.concatenate(batches)
    for start in range(0, len(walked) - count + 1, count):
        np.testing.assert_array_equal(np.sort(walked[start : start + count]), index)
    np.testing.assert_array_equal(stream.at(3), batches[3])  # no state: any step, at any time


def test_passes_and_seeds_differ():
    stream = reader.Stream(np.arange(50), 50, (0,))
    assert not np.array_equal(stream.at(0), stream.at(1))
    assert not np.array_equal(stream.at(0), reader.Stream(np.arange(50), 50, (1,)).at(0))


def test_pass_after_pass_walks_over_view_after_view():
    images = np.array([3, 5, 8, 13])
    views = np.stack([images, images + 100, images + 200])
    one, three = reader.Stream(images, 6, (0,)), reader.Stream(views, 6, (0,))
    walked = np.concatenate([three.at(step) for step in range(4)])
    np.testing.assert_array_equal(walked % 100, np.concatenate([one.at(step) for step in range(4)]))
    np.testing.assert_array_equal(walked // 100, np.repeat([0, 1, 2, 0, 1, 2], 4))


@pytest.mark.four_devices
@pytest.mark.parametrize("mode", parallel.MODES)
@pytest.mark.parametrize("device_bytes", [0, 2**20])
def test_rows_columns_and_slots(mode, device_bytes):
    mesh = parallel.make_mesh()
    weight = np.linspace(0, 1, 10, dtype=np.float32)
    store = reader.Store(examples(), mesh=mesh, mode=mode, device_bytes=device_bytes, weight=weight)
    index = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    batch = store.batch(index)
    flat = {name: np.asarray(x).reshape(8, *x.shape[2 if mode == "pmap" else 1 :]) for name, x in batch.items()}
    np.testing.assert_array_equal(flat["image"], examples().images[index])
    np.testing.assert_array_equal(flat["label"], examples().labels[index])
    np.testing.assert_array_equal(flat["weight"], weight[index])
    np.testing.assert_array_equal(flat["slot"], np.arange(8))
    for x in jax.tree.leaves(batch):
        assert len(x.sharding.device_set) == 4 and not x.sharding.is_fully_replicated


def test_train_batches_start_anywhere():
    mesh = parallel.make_mesh()
    store = reader.Store(examples(), mesh=mesh, mode="jit")
    streams = [reader.Stream(np.arange(4), 4, (0,)), reader.Stream(np.arange(4, 10), 8, (1,))]
    whole = [np.asarray(b["image"]) for b in reader.train_batches(store, streams, start=0, steps=5)]
    assert len(whole) == 5 and all(len(set(b[:4, 0, 0, 0]) - {0, 4, 8, 12}) == 0 for b in whole)
    late = [np.asarray(b["image"]) for b in reader.train_batches(store, streams, start=3, steps=5)]
    np.testing.assert_array_equal(np.stack(late), np.stack(whole[3:]))


def test_evaluation_covers_every_example_once_with_padding():
    mesh = parallel.make_mesh()
    store = reader.Store(examples(), mesh=mesh, mode="jit")
    index = np.array([9, 0, 7, 5, 3])
    batches = [jax.device_get(b) for b in reader.eval_batches(store, index, 4)]
    assert [b["weight"].tolist() for b in batches] == [[1, 1, 1, 1], [1, 0, 0, 0]]
    seen = np.concatenate([b["image"][b["weight"] > 0] for b in batches])
    np.testing.assert_array_equal(seen, examples().images[index])


def test_empty_stream():
    with pytest.raises(UserError, match="no examples to draw from"):
        reader.Stream(np.array([], int), 4, (0,))


@pytest.fixture(scope="module")
def lazy(tmp_path_factory):
    """Digits that stay in their files, in a folder of their own."""
    return source.load("digits", data_dir=str(tmp_path_factory.mktemp("lazy")), in_memory_bytes=0).train


def some_batches(images, *, start=0, **options):
    """Batches up to the ninth, mixed and of two streams, as lists of numpy arrays by column."""
    weight = np.linspace(0, 1, len(images), dtype=np.float32)
    mix = mixup.make_mix(0.4, seed=1, parts=(4, 8))
    store = reader.Store(images, mesh=parallel.make_mesh(), mode="jit", mix=mix, weight=weight, **options)
    streams = [reader.Stream(np.arange(10), 4, (0,)), reader.Stream(np.arange(10, len(images)), 8, (1,))]
    return [jax.device_get(b) for b in reader.train_batches(store, streams, start=start, steps=9)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.keys() == other.keys() and {"partner_image", "share"} <= one.keys()
        for name, column in one.items():
            np.testing.assert_array_equal(column, other[name])


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_streamed_by_threads_and_resumed_is_the_same_as_from_the_devices(lazy, threads):
    on_devices = some_batches(Examples(lazy.images[:], lazy.labels))
    assert_same(some_batches(lazy, threads=threads), on_devices)
    assert_same(some_batches(lazy, start=5, threads=threads), on_devices[5:])
    assert some_batches(lazy, start=9, threads=threads) == []


def test_evaluation_is_streamed_too(lazy):
    store = reader.Store(lazy, mesh=parallel.make_mesh(), mode="jit", threads=3)
    batches = [jax.device_get(b) for b in reader.eval_batches(store, np.arange(50, 121), 8)]
    seen = np.concatenate([b["image"][b["weight"] > 0] for b in batches])
    np.testing.assert_array_equal(seen, lazy.images[50:121])


def test_batches_are_read_ahead_by_as_many_threads_as_asked(lazy):
    """Two readers that wait for each other: with one at a time, or without reading ahead, neither comes back."""
    together = threading.Barrier(2)
    store = reader.Store(lazy, mesh=parallel.make_mesh(), mode="jit", threads=2)

    def wanted(number):
        together.wait(timeout=10)
        return np.arange(4) + number, None

    first = [b["image"][0] for b in store.batches(wanted, start=0, stop=4)]
    np.testing.assert_array_equal(np.stack(first), lazy.images[:4])


@pytest.mark.parametrize("threads", [1, 3])
def test_a_damaged_record_is_named(tmp_path, threads):
    images = source.load("digits", data_dir=str(tmp_path), in_memory_bytes=0).train
    (path,) = tmp_path.glob("digits/1.0.0/*train*array_record*")
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(size // 2)
        file.write(b"damage" * 20)
    store = reader.Store(images, mesh=parallel.make_mesh(), mode="jit", threads=threads)
    with pytest.raises(UserError, match=r"digits/1.0.0: record \d+ of train cannot be read \(.*\): delete that folder"):
        for _ in reader.eval_batches(store, np.arange(len(images)), 100):
            pass


def test_threads_below_zero():
    with pytest.raises(UserError, match="threads=-1: give a whole number >= 0"):
        reader.Store(examples(), mesh=parallel.make_mesh(), mode="jit", threads=-1)


@pytest.mark.parametrize("mix", [None, mixup.make_mix(0.4, seed=1)])
def test_the_rows_of_all_hosts_are_the_batch_also_when_their_number_changes(lazy, monkeypatch, mix):
    store = reader.Store(lazy, mesh=parallel.make_mesh(), mode="jit", mix=mix, weight=np.ones(len(lazy), np.float32))
    stream = reader.Stream(np.arange(len(lazy)), 12, (3,))

    def rows(step, hosts):
        monkeypatch.setattr(jax, "process_count", lambda: hosts)
        parts = []
        for host in range(hosts):
            monkeypatch.setattr(jax, "process_index", lambda host=host: host)
            parts.append(store.read(stream.at(step)))
        assert all(len(column) == 12 // hosts for part in parts for column in part.values())
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    for step, hosts in enumerate([2, 2, 4, 4, 1, 2, 4]):
        found, expected = rows(step, hosts), rows(step, 1)
        assert found.keys() == expected.keys()
        for name, column in found.items():
            np.testing.assert_array_equal(column, expected[name])
        np.testing.assert_array_equal(found["image"], lazy.images[stream.at(step)])
