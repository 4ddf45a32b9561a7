"""A part's array in the cache is right or missing, whatever happens."""

import dataclasses
import errno
import os
import re
import resource
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ast_jax.errors import UserError
from ast_jax.features import cache
from ast_jax.files import UNFINISHED

KIND = cache.Kind("rgb", "image", (2, 3, 5), "float32", {"backbone": "b", "size": 64})
OTHER = dataclasses.replace(KIND, sources={"backbone": "c", "size": 64})
PARTS = ("a1", "b2", "c3", "d4")


def array(part, kind=KIND):
    seed = [*part.encode(), *str(kind.sources).encode()]
    return np.random.default_rng(seed).normal(size=kind.shape).astype(kind.dtype)


def filled(directory, parts=PARTS, kind=KIND):
    store = cache.Store(directory, kind)
    for part in parts:
        store.write(part, array(part, kind))
    return store


class Killed(BaseException):
    """The process ends here."""


class CacheMachine(RuleBasedStateMachine):
    """Adds, kills, damages, exchanges and opens again; compares with a model.

    A store returns the array that was written for a part and kind, or reports it as
    missing.
    """

    places = st.tuples(st.sampled_from(PARTS), st.sampled_from([KIND, OTHER]))

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.reopen()
        self.intact = set()

    def teardown(self):
        shutil.rmtree(self.directory)

    @rule()
    def reopen(self):
        self.stores = {
            kind.folder: cache.Store(self.directory, kind) for kind in (KIND, OTHER)
        }

    def path(self, place):
        part, kind = place
        return self.stores[kind.folder].path(part)

    @rule(place=places)
    def add(self, place):
        part, kind = place
        self.stores[kind.folder].write(part, array(part, kind))
        self.intact.add((part, kind.folder))

    @rule(place=places)
    def is_killed_between_write_and_rename(self, place):
        part, kind = place
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Path, "replace", self.die)
            patch.setattr(Path, "unlink", lambda path: None)  # no clean-up
            self.stores[kind.folder].write(part, array(part, kind))

    @staticmethod
    def die(_path, _target):
        raise Killed

    @rule(place=places, data=st.data())
    def flip_a_byte(self, place, data):
        content = bytearray(self.content(place))
        if content:
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] ^= data.draw(st.integers(1, 255))
            self.damage(place, content)

    @rule(place=places, data=st.data())
    def truncate(self, place, data):
        content = self.content(place)
        if content:
            size = data.draw(st.integers(0, len(content) - 1))
            self.damage(place, content[:size])

    @rule(place=places)
    def append(self, place):
        if content := self.content(place):
            self.damage(place, content + b"\0")

    @rule(place=places, other=places)
    def copy_over(self, place, other):
        content = self.content(other)
        if content and place != other:
            self.damage(place, content)

    @rule(place=places)
    def delete(self, place):
        self.path(place).unlink(missing_ok=True)
        self.intact.discard((place[0], place[1].folder))

    def content(self, place):
        return self.path(place).read_bytes() if self.path(place).exists() else b""

    def damage(self, place, content):
        self.path(place).parent.mkdir(exist_ok=True)
        self.path(place).write_bytes(content)
        self.intact.discard((place[0], place[1].folder))

    @invariant()
    def what_is_given_is_right(self):
        for kind in (KIND, OTHER):
            store = self.stores[kind.folder]
            expected = [
                at
                for at, part in enumerate(PARTS)
                if (part, kind.folder) not in self.intact
            ]
            assert store.find_missing(PARTS) == expected
            for at, part in enumerate(PARTS):
                found = store.read(part)
                if at in expected:
                    assert found is None
                else:
                    np.testing.assert_array_equal(found, array(part, kind))


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "depth"},
        {"content": "z"},
        {"shape": (2, 3, 6)},
        {"dtype": "float16"},
        {"sources": {"backbone": "c", "size": 64}},
        {"sources": {"backbone": "b", "size": 32}},
    ],
)
def test_any_change_is_another_folder(change):
    same = cache.Kind(**dataclasses.asdict(KIND))
    assert same.folder == KIND.folder
    assert dataclasses.replace(KIND, **change).folder != KIND.folder


def test_the_format_version_is_part_of_the_name(monkeypatch):
    name = KIND.folder
    monkeypatch.setattr(cache, "FORMAT_VERSION", cache.FORMAT_VERSION + 1)
    assert KIND.folder != name


def test_the_file_is_what_numpy_reads(tmp_path):
    store = filled(tmp_path)
    np.testing.assert_array_equal(np.load(store.path("b2")), array("b2"))


def test_damage_is_told_and_a_missing_file_is_not(tmp_path, caplog):
    store = filled(tmp_path)
    store.path("a1").unlink()
    store.path("c3").write_bytes(b"")
    assert store.find_missing(PARTS) == [0, 2]
    assert f"{store.path('c3')}: damaged" in caplog.text
    assert "a1" not in caplog.text


def test_equal_parts_are_missing_once(tmp_path):
    store = filled(tmp_path, parts=["a1"])
    assert store.find_missing(["b2", "a1", "b2", "c3"]) == [0, 3]


@pytest.mark.parametrize("wrong", [array("a1")[:1], array("a1").astype(np.float16)])
def test_an_array_of_another_kind_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="rgb features are float32"):
        cache.Store(tmp_path, KIND).write("a1", wrong)


@pytest.mark.parametrize(
    "rows", [[2], [3, 0, 3], [0, 1, 2, 3, 2, 1], [], slice(1, 3), slice(None)]
)
@pytest.mark.parametrize("channels", [slice(None), slice(3), 4])
def test_stored_rows_are_read_as_an_array_is(tmp_path, rows, channels):
    stored = cache.StoredRows(filled(tmp_path), PARTS, channels)
    whole = np.stack([array(part) for part in PARTS])[..., channels]
    rows = rows if isinstance(rows, slice) else np.array(rows, int)
    assert (stored.shape, stored.dtype, len(stored)) == (whole.shape, whole.dtype, 4)
    np.testing.assert_array_equal(stored[rows], whole[rows])


def test_a_file_that_is_damaged_while_in_use_is_named(tmp_path):
    store = filled(tmp_path)
    stored = cache.StoredRows(store, PARTS)
    store.path("b2").write_bytes(store.path("c3").read_bytes())
    np.testing.assert_array_equal(stored[[0]][0], array("a1"))
    with pytest.raises(UserError, match=f"^{re.escape(str(store.path('b2')))}: "):
        stored[np.arange(4)]


def test_what_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch, caplog):
    store = filled(tmp_path)
    rows = cache.StoredRows(store, PARTS)

    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)
    named = re.escape(str(store.path("a1")))
    with pytest.raises(UserError, match=rf"^{named}: .*Input/output error"):
        rows[:1]
    assert store.find_missing(PARTS) == [0, 1, 2, 3]
    assert "Input/output error" in caplog.text
    assert "damaged" not in caplog.text


def test_leftovers_of_killed_processes_go_after_a_day(tmp_path):
    store = filled(tmp_path)
    old, new = (store.folder / f".{name}{UNFINISHED}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    day_before_yesterday = time.time() - 2 * 24 * 3600
    os.utime(old, (day_before_yesterday, day_before_yesterday))
    with store.lock(PARTS):
        assert (old.exists(), new.exists()) == (False, True)


def test_who_computes_the_same_parts_waits_and_others_do_not(tmp_path):
    store, held, order = cache.Store(tmp_path, KIND), threading.Event(), []

    def wait():
        held.wait()
        with store.lock(PARTS):
            order.append("second")

    waiting = threading.Thread(target=wait)
    waiting.start()
    with store.lock(PARTS):
        held.set()
        with store.lock(PARTS[:2]):
            order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "features").write_text("")
    store = cache.Store(tmp_path / "features", KIND)
    for attempt in (
        lambda: store.write("a1", array("a1")),
        store.lock(PARTS).__enter__,
    ):
        with pytest.raises(UserError, match=r"features.*dataset\.data_dir"):
            attempt()


def test_too_small_a_disk_is_noticed_before_anything_is_computed(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage)
    store = cache.Store(tmp_path, KIND)
    with pytest.raises(UserError, match=r"need.*GB.*dataset\.data_dir"):
        store.require_room(1)


def test_a_disk_that_fills_up_leaves_nothing_half_written(tmp_path):
    store = filled(tmp_path, parts=["a1"])
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (KIND.nbytes // 2, limit[1]))
    try:
        with pytest.raises(UserError, match=r"too large.*dataset\.data_dir"):
            store.write("b2", array("b2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(store.folder.iterdir()) == [store.path("a1")]
