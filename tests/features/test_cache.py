"""Cached arrays: computed once, resumed when killed, never wrong when damaged."""

import itertools
import multiprocessing
import resource
import time

import numpy as np
import pytest

from ast_jax.errors import UserError
from ast_jax.features import cache

ROWS = 11
ENTRY = cache.Entry("rgb", (ROWS, 2, 3), "float32", {"parts": "a", "image_size": 64})
EXPECTED = np.arange(ROWS * 6, dtype=np.float32).reshape(ENTRY.shape)


def blocks(start, size=2, array=EXPECTED):
    for first in range(start, len(array), size):
        yield array[first : first + size]


def never(start):
    raise AssertionError(f"computed again from row {start} on")
    yield


def interrupted(start, after=3):
    yield from itertools.islice(blocks(start), after)
    raise KeyboardInterrupt


def compute_slowly(directory, ready, started):
    ready.wait(timeout=60)

    def slowly(start):
        started.put(start)
        for block in blocks(start):
            time.sleep(0.05)
            yield block

    fetched = cache.fetch(directory, ENTRY, slowly)
    np.testing.assert_array_equal(fetched, EXPECTED)


def starts_of_fetching(directory, size=2):
    """Rows from which the array had to be computed; checks what comes of it."""
    starts = []

    def compute_from(start):
        starts.append(start)
        yield from blocks(start, size)

    np.testing.assert_array_equal(cache.fetch(directory, ENTRY, compute_from), EXPECTED)
    return starts


@pytest.fixture
def processes():
    """Starts fresh interpreters, which share no locks and no threads with this one."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    running, barriers = [], []

    def start(directory, count):
        barriers.append(context.Barrier(count))  # kept until every process has it
        for _ in range(count):
            arguments = (directory, barriers[-1], queue)
            running.append(context.Process(target=compute_slowly, args=arguments))
            running[-1].start()
        return running

    yield start, queue
    for process in running:
        process.kill()
        process.join()


def test_an_entry_is_computed_once(tmp_path):
    np.testing.assert_array_equal(cache.fetch(tmp_path, ENTRY, blocks), EXPECTED)
    np.testing.assert_array_equal(cache.fetch(tmp_path, ENTRY, never), EXPECTED)


def test_the_array_is_mapped_and_read_only(tmp_path):
    array = cache.fetch(tmp_path / "new" / "folder", ENTRY, blocks)
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


def test_the_file_is_what_numpy_reads(tmp_path):
    cache.fetch(tmp_path, ENTRY, blocks)
    np.testing.assert_array_equal(
        np.load(tmp_path / ENTRY.name / "array.npy"), EXPECTED
    )


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "depth"},
        {"shape": (ROWS, 3, 2)},
        {"dtype": "float16"},
        {"sources": {"parts": "b", "image_size": 64}},
        {"sources": {"parts": "a", "image_size": 32}},
    ],
)
def test_any_change_is_another_entry(change):
    fields = {"kind": "rgb", "shape": (ROWS, 2, 3), "dtype": "float32"}
    fields["sources"] = ENTRY.sources
    assert cache.Entry(**fields).name == ENTRY.name
    assert cache.Entry(**(fields | change)).name != ENTRY.name


def test_the_format_version_is_part_of_the_name(monkeypatch):
    name = ENTRY.name
    monkeypatch.setattr(cache, "FORMAT_VERSION", cache.FORMAT_VERSION + 1)
    assert ENTRY.name != name


def test_an_interrupted_computation_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cache.fetch(tmp_path, ENTRY, interrupted)
    # Whatever the size of the blocks is now.
    assert starts_of_fetching(tmp_path, size=3) == [6]


def test_a_computation_goes_on_before_a_damaged_block(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cache.fetch(tmp_path, ENTRY, interrupted)
    path = tmp_path / f"{ENTRY.name}.partial" / "array.npy"
    content = bytearray(path.read_bytes())
    content[ENTRY.offset(3)] ^= 1  # in the second of three blocks
    path.write_bytes(content)
    assert starts_of_fetching(tmp_path) == [2]


def test_rows_without_their_line_are_computed_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cache.fetch(tmp_path, ENTRY, interrupted)
    path = tmp_path / f"{ENTRY.name}.partial" / "array.npy"
    path.write_bytes(path.read_bytes() + b"half a block")
    fetched = cache.fetch(tmp_path, ENTRY, blocks)
    np.testing.assert_array_equal(fetched, EXPECTED)


def test_a_killed_process_leaves_what_the_next_one_goes_on_with(tmp_path, processes):
    start, started = processes
    (process,) = start(tmp_path, 1)
    assert started.get(timeout=60) == 0
    journal = tmp_path / f"{ENTRY.name}.partial" / "blocks.txt"
    while journal.read_bytes().count(b"\n") < 3:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert starts_of_fetching(tmp_path)[0] >= 4


def test_two_processes_compute_an_entry_once(tmp_path, processes):
    start, started = processes
    for process in start(tmp_path, 2):
        process.join(timeout=60)
        assert process.exitcode == 0
    assert started.get(timeout=60) == 0
    assert started.empty()


@pytest.mark.parametrize("name", ["array.npy", "blocks.txt"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
def test_a_damaged_entry_is_computed_again_with_a_warning(
    tmp_path, caplog, name, damage
):
    cache.fetch(tmp_path, ENTRY, blocks)
    path = tmp_path / ENTRY.name / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    if damage == "delete":
        path.unlink()
    else:
        size = {"flip": None, "truncate": -1, "empty": 0}[damage]
        path.write_bytes(content[:size])
    np.testing.assert_array_equal(cache.fetch(tmp_path, ENTRY, blocks), EXPECTED)
    assert ENTRY.name in caplog.text
    caplog.clear()
    cache.fetch(tmp_path, ENTRY, never)
    assert not caplog.records


def test_a_mapped_array_outlives_the_repair_of_its_file(tmp_path):
    mapped = cache.fetch(tmp_path, ENTRY, blocks)
    (tmp_path / ENTRY.name / "blocks.txt").write_text("nonsense")
    cache.fetch(tmp_path, ENTRY, blocks)
    np.testing.assert_array_equal(mapped, EXPECTED)


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "features").write_text("")
    with pytest.raises(UserError, match=r"features.*dataset\.data_dir"):
        cache.fetch(tmp_path / "features", ENTRY, blocks)


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    # Permissions do not bind a superuser, who may be running this.
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache.FileLock, "acquire", refuse)
    with pytest.raises(UserError, match=r"Permission denied.*dataset\.data_dir"):
        cache.fetch(tmp_path, ENTRY, blocks)
    assert not list(tmp_path.iterdir())


def test_a_complete_entry_opens_without_the_right_to_write(tmp_path, monkeypatch):
    cache.fetch(tmp_path, ENTRY, blocks)
    monkeypatch.setattr(cache.FileLock, "acquire", None)
    np.testing.assert_array_equal(cache.fetch(tmp_path, ENTRY, never), EXPECTED)


def test_too_small_a_disk_is_noticed_before_anything_is_computed(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"need.*GB.*dataset\.data_dir"):
        cache.fetch(tmp_path, ENTRY, never)
    assert not (tmp_path / f"{ENTRY.name}.partial").exists()


def test_a_disk_that_fills_up_leaves_nothing_half_written(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ENTRY.offset(5), limit[1]))
    try:
        with pytest.raises(UserError, match=r"too large.*dataset\.data_dir"):
            cache.fetch(tmp_path, ENTRY, blocks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.suffix for path in tmp_path.iterdir()] in ([], [".lock"])


def test_the_users_mistake_in_a_computation_leaves_nothing_half_written(tmp_path):
    def mistaken(start):
        yield EXPECTED[:2]
        raise UserError("train/good/001: unreadable")

    with pytest.raises(UserError, match="unreadable"):
        cache.fetch(tmp_path, ENTRY, mistaken)
    assert not (tmp_path / f"{ENTRY.name}.partial").exists()


@pytest.mark.parametrize("wrong", [EXPECTED[:, :1], EXPECTED.astype(np.float16)])
def test_rows_that_do_not_fit_the_entry_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="cannot hold"):
        cache.fetch(tmp_path, ENTRY, lambda start: iter([wrong]))


def test_too_few_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Computed 5 rows"):
        cache.fetch(tmp_path, ENTRY, lambda start: iter([EXPECTED[:5]]))
