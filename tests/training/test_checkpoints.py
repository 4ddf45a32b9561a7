"""Checkpoints are written whole, verified when read, and survive a bad disk."""

import errno
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_disk import mounted

from ast_jax.errors import UserError
from ast_jax.parallel import data_mesh, replicated_sharding
from ast_jax.training import checkpoints, digests
from ast_jax.training.checkpoints import CheckpointStore, DamageError, open_store
from ast_jax.training.state import TrainState


def make_state(step: int, size: int = 2000) -> TrainState:
    rng = np.random.default_rng(step)
    params = {"kernel": jnp.asarray(rng.normal(size=(size, 4)), jnp.float32)}
    optimiser = optax.adam(1e-3)
    return TrainState(
        step=jnp.int32(step),
        apply_fn=jnp.matmul,
        params=params,
        tx=optimiser,
        opt_state=optimiser.init(params),
        batch_stats={"mean": jnp.full(3, step, jnp.float32)},
    )


@pytest.fixture
def sharding():
    return replicated_sharding(data_mesh(jax.devices()[:2]))


@pytest.fixture
def folder(tmp_path):
    """A stage's folder with the checkpoints 10 and 20."""
    with CheckpointStore(tmp_path / "teacher") as store:
        for step in (10, 20):
            store.save(make_state(step))
    return tmp_path / "teacher"


def flip(folder: Path, step: int, index: int = -1) -> None:
    """Flips a bit of the checkpoint's largest file, which holds the arrays."""
    paths = (path for path in (folder / str(step)).rglob("*") if path.is_file())
    largest = max(paths, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2 if index == -1 else index] ^= 4
    largest.write_bytes(content)


def equal(a: TrainState, b: TrainState) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def test_what_was_saved_is_restored_and_two_are_kept(folder, sharding):
    with CheckpointStore(folder) as store:
        store.save(make_state(30))
    with CheckpointStore(folder) as store:
        assert store.steps() == [20, 30]
        assert equal(store.resume(make_state(0), sharding), make_state(30))
        assert equal(store.restore(make_state(0), sharding, 20), make_state(20))


def test_without_a_checkpoint_a_stage_starts_from_the_state(tmp_path, sharding):
    with CheckpointStore(tmp_path) as store:
        assert equal(store.resume(make_state(0), sharding), make_state(0))
        with pytest.raises(UserError, match="no checkpoint; train the run first"):
            store.restore(make_state(0), sharding)


def test_orbax_alone_would_not_notice_a_flipped_bit(folder, sharding, monkeypatch):
    """The reason for our digests; if this fails, Orbax has its own, and ours can go."""
    flip(folder, 20)
    monkeypatch.setattr(checkpoints, "damaged_file", lambda folder: None)
    with open_store(folder) as store:
        assert not equal(store.restore(make_state(0), sharding), make_state(20))


def test_training_falls_back_to_the_checkpoint_before_a_damaged_one(
    folder, sharding, caplog
):
    flip(folder, 20)
    with CheckpointStore(folder) as store:
        resumed = store.resume(make_state(0), sharding)
        assert equal(resumed, make_state(10))
        assert "teacher/20: the checkpoint is damaged" in caplog.text
        assert store.steps() == [10]
        store.save(make_state(20))  # its step can be saved again
    with open_store(folder) as store:
        assert equal(store.restore(make_state(0), sharding), make_state(20))
    assert (folder / "20.damaged" / "digests.json").is_file()  # nothing is deleted


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.ESTALE])
@pytest.mark.parametrize("where", ["digests", "arrays"])
def test_an_error_that_may_pass_is_no_damage(
    folder, sharding, monkeypatch, number, where
):
    """One failed read once made training delete its newest good checkpoint."""
    everything = sorted(folder.rglob("*"))

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with CheckpointStore(folder) as store, monkeypatch.context() as broken:
        if where == "digests":
            broken.setattr(digests, "_digest", fail)
        else:
            broken.setattr(store._manager, "restore", fail)
        for read in (store.resume, store.restore):
            with pytest.raises(UserError, match=os.strerror(number)) as error:
                read(make_state(0), sharding)
            assert str(folder / "20") in str(error.value)
            assert not isinstance(error.value, DamageError)
    assert sorted(folder.rglob("*")) == everything
    with CheckpointStore(folder) as store:
        assert equal(store.resume(make_state(0), sharding), make_state(20))


def test_scoring_does_not_fall_back(folder, sharding):
    flip(folder, 20)
    with open_store(folder) as store:
        with pytest.raises(UserError, match=r"teacher/20: the checkpoint is damaged"):
            store.restore(make_state(0), sharding)
        assert store.steps() == [10, 20]


def test_nothing_is_removed_when_all_checkpoints_are_damaged(folder, sharding):
    for step in (10, 20):
        flip(folder, step)
    with CheckpointStore(folder) as store:
        with pytest.raises(UserError, match=r"none of the checkpoints \[10, 20\] is"):
            store.resume(make_state(0), sharding)
        assert store.steps() == [10, 20]


def test_any_flipped_bit_is_either_noticed_or_harmless(folder, sharding):
    """A random bit of every file: never silently other arrays."""
    rng = np.random.default_rng(0)
    noticed = 0
    for path in sorted(p for p in (folder / "20").rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for index in rng.integers(len(whole), size=2):
            damaged = bytearray(whole)
            damaged[index] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            with open_store(folder) as store:
                try:
                    restored = store.restore(make_state(0), sharding, 20)
                except UserError:
                    noticed += 1
                else:
                    assert equal(restored, make_state(20)), path
            path.write_bytes(whole)
    assert noticed >= 4


def test_a_checkpoint_of_an_earlier_version_has_no_digests(folder, sharding):
    (folder / "20" / "digests.json").unlink()
    with open_store(folder) as store:
        assert equal(store.restore(make_state(0), sharding), make_state(20))


def test_a_missing_file_is_named(folder, sharding):
    path = next((folder / "20").rglob("_METADATA"))
    path.unlink()
    with (
        open_store(folder) as store,
        pytest.raises(UserError, match="_METADATA is not"),
    ):
        store.restore(make_state(0), sharding)


def test_what_an_interrupted_save_left_is_ignored_and_removed(folder, sharding):
    leftover = folder / "30.orbax-checkpoint-tmp"
    leftover.mkdir()
    (leftover / "half").write_text("written")
    with open_store(folder) as store:  # a reader leaves another process's save alone
        assert store.steps() == [10, 20]
    assert leftover.exists()
    with CheckpointStore(folder) as store:
        assert equal(store.resume(make_state(0), sharding), make_state(20))
    assert not leftover.exists()


def test_reading_writes_nothing(folder, sharding):
    def everything():
        paths = sorted(folder.rglob("*"))
        return [(str(path), path.stat().st_mtime_ns) for path in paths]

    before = everything()
    with open_store(folder) as store:
        store.restore(make_state(0), sharding)
    assert everything() == before


def test_a_failed_save_is_told_when_the_stage_ends(folder, monkeypatch):
    """Orbax writes in a thread; its error must not be lost."""
    store = CheckpointStore(folder)

    def fail():
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(store._manager._checkpointer, "wait_until_finished", fail)
    with pytest.raises(UserError, match=r"teacher: .*cannot be written .*Input/output"):
        store.save(make_state(30))
        store.close()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB."""
    with mounted(tmp_path, "1m"):
        yield tmp_path


# Orbax's threads outlive the event loop that they report to.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(small_disk, sharding):
    folder = small_disk / "teacher"
    # Random floats do not compress: 3 × 160 kB fit, 3 × 640 kB do not.
    with CheckpointStore(folder) as store:
        store.save(make_state(10, size=10_000))
    with (
        pytest.raises(UserError, match="No space left on device") as error,
        CheckpointStore(folder) as store,
    ):
        store.save(make_state(20, size=200_000))
    assert "\n" not in str(error.value)
    with CheckpointStore(folder) as store:
        assert store.steps() == [10]
        resumed = store.resume(make_state(0, size=10_000), sharding)
    assert equal(resumed, make_state(10, size=10_000))
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["10"]
