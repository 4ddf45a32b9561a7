"""A training that is asked to stop saves its state, also in the middle of an epoch."""

import contextlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from small_inputs import SIDE, make_inputs

from ast_jax.config import default
from ast_jax.models import create_teacher
from ast_jax.parallel import task_mesh
from ast_jax.training import loop
from ast_jax.training.checkpoints import CheckpointStore
from ast_jax.training.feed import Examples
from ast_jax.training.loop import Stage, Task, is_finished, train_stage
from ast_jax.training.progress import read_rows
from ast_jax.training.state import create_states
from ast_jax.training.steps import teacher_loss

BATCH, IMAGES, EPOCHS = 4, 14, 3  # three steps an epoch
STAGE = Stage("teacher", teacher_loss("all"), EPOCHS, BATCH, IMAGES, 1)


def train(directory):
    config = default()
    config.teacher.update(blocks=1, hidden=4)
    inputs = make_inputs("rgb3d", n=IMAGES)
    mesh = task_mesh(1, BATCH, jax.devices()[:2])
    size = {"side": SIDE, "channels": inputs.channels}
    module = create_teacher(config, **size)
    states = create_states(module, config, **size, seeds=[0], network=0, mesh=mesh)
    task = Task(0, directory)
    with contextlib.ExitStack() as saves:
        return train_stage(STAGE, [task], states, [Examples(inputs)], mesh, saves)


def lines(directory) -> list[tuple]:
    rows = read_rows(directory / "metrics.jsonl")
    return [(row["stage"], row["epoch"], row["step"], row["loss"]) for row in rows]


def assert_equal(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training without interruption: its folder and its states."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


@pytest.fixture
def one_step_a_call(monkeypatch):
    monkeypatch.setattr(loop, "_CALL_SECONDS", 0)


@pytest.mark.parametrize("step", [4, 6])
def test_a_stopped_training_goes_on_bit_for_bit(
    tmp_path, whole, one_step_a_call, monkeypatch, step
):
    folder, states = whole

    @contextlib.contextmanager
    def asked_at():
        yield lambda steps: step - 1 in steps

    with monkeypatch.context() as patched:
        patched.setattr(loop, "watch_for_stop", asked_at)
        with pytest.raises(SystemExit) as end:
            train(tmp_path / "stopped")
    assert end.value.code == 143
    with CheckpointStore(tmp_path / "stopped" / "teacher") as store:
        assert store.steps()[-1] == step
        assert len(store.losses(step)) == step % 3
    again = train(tmp_path / "stopped")
    assert_equal(again.params, states.params)
    assert_equal(again.opt_state, states.opt_state)
    assert lines(tmp_path / "stopped") == lines(folder)


def test_a_damaged_last_checkpoint_is_trained_again(tmp_path, whole, caplog):
    folder, states = tmp_path / "copy", whole[1]
    subprocess.run(["cp", "-r", whole[0], folder], check=True)
    task = Task(0, folder)
    assert is_finished(STAGE, task, IMAGES)
    before = lines(folder)
    paths = (p for p in (folder / "teacher" / "9").rglob("*") if p.is_file())
    largest = max(paths, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert not is_finished(STAGE, task, IMAGES)
    again = train(folder)
    assert "teacher/9: the checkpoint is damaged" in caplog.text
    assert_equal(again.params, states.params)
    assert lines(folder) == before
    assert is_finished(STAGE, task, IMAGES)


@pytest.mark.slow
def test_processes_that_are_one_run_stop_by_jaxs_preemption_service():
    """The service runs with a single process here; its notice is SIGTERM."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = f"""
import os, signal, threading, time
import jax
jax.distributed.initialize("localhost:{port}", 1, 0)
from ast_jax.training.preemption import stop, watch_for_stop
threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
with watch_for_stop() as asked:
    for step in range(6000):
        time.sleep(0.01)
        if asked(range(step, step + 1)):
            stop("here")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 143, done.stderr
    assert "here: saved; run the same command to continue" in done.stderr
