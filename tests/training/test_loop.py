"""A stage trains, resumes as the same run, streams, and stops at a bad loss."""

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest
from small_inputs import SIDE, make_inputs

from ast_jax.errors import UserError
from ast_jax.features.inputs import Inputs
from ast_jax.models import create_teacher
from ast_jax.parallel import data_mesh
from ast_jax.training import feed, loop
from ast_jax.training.feed import Examples, epoch_order
from ast_jax.training.loop import Stage, Task, train_stage
from ast_jax.training.state import create_states
from ast_jax.training.steps import teacher_loss


@pytest.fixture
def mesh():
    return data_mesh(jax.devices()[:2])


def stage_of(config, epochs: int, images: int, batch_size: int = 8) -> Stage:
    every = config.train.checkpoint_epochs
    return Stage("teacher", teacher_loss("all"), epochs, batch_size, images, every)


def train(directory, config, mesh, epochs: int, inputs: Inputs | None = None, batch=8):
    inputs = make_inputs("rgb3d") if inputs is None else inputs
    size = {"side": SIDE, "channels": inputs.channels}
    module = create_teacher(config, **size)
    states = create_states(module, config, **size, seeds=[0], network=0, mesh=mesh)
    stage = stage_of(config, epochs, len(inputs), batch)
    task = Task(0, directory)
    with contextlib.ExitStack() as saves:
        states = train_stage(stage, [task], states, [Examples(inputs)], mesh, saves)
    return jax.tree.map(lambda array: array[0], states)


def lines(directory) -> list[dict]:
    text = (directory / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def equal(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def test_the_loss_falls_and_every_epoch_is_logged(tmp_path, config, mesh):
    config.train.learning_rate = 1e-2
    train(tmp_path, config, mesh, epochs=6)
    logged = lines(tmp_path)
    assert [line["step"] for line in logged] == [3, 6, 9, 12, 15, 18]
    assert {line["stage"] for line in logged} == {"teacher"}
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert all(line["images/s"] > 0 for line in logged)


def test_a_resumed_stage_is_the_same_run_bit_for_bit(tmp_path, config, mesh):
    config.train.checkpoint_epochs = 1
    whole = train(tmp_path / "whole", config, mesh, epochs=3)
    train(tmp_path / "parts", config, mesh, epochs=1)
    parts = train(tmp_path / "parts", config, mesh, epochs=3)
    assert equal(whole.params, parts.params)
    assert equal(whole.opt_state, parts.opt_state)


def test_a_finished_stage_is_its_checkpoint(tmp_path, config, mesh):
    first = train(tmp_path, config, mesh, epochs=1)
    before = lines(tmp_path)
    again = train(tmp_path, config, mesh, epochs=1)
    assert equal(first.params, again.params)
    assert lines(tmp_path) == before


def test_streamed_chunks_train_as_resident_samples_do(
    tmp_path, config, mesh, monkeypatch
):
    resident = train(tmp_path / "resident", config, mesh, epochs=2)
    monkeypatch.setattr(feed, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(feed, "_CHUNK_BYTES", 1)
    streamed = train(tmp_path / "streamed", config, mesh, epochs=2)
    for one, other in zip(
        jax.tree.leaves(resident.params), jax.tree.leaves(streamed.params), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    tmp_path, config, mesh
):
    config.train.checkpoint_epochs = 1
    train(tmp_path, config, mesh, epochs=1)
    inputs = make_inputs("rgb3d")
    broken = dataclasses.replace(
        inputs.features, rgb=np.full_like(inputs.features.rgb, np.nan)
    )
    inputs = dataclasses.replace(inputs, features=broken)
    with pytest.raises(UserError, match=r"loss is not finite between steps 3 and 4"):
        train(tmp_path, config, mesh, epochs=2, inputs=inputs)
    kept = [path.name for path in (tmp_path / "teacher").iterdir() if path.is_dir()]
    assert kept == ["3"]


def test_an_epoch_takes_each_image_once_and_drops_the_incomplete_batch():
    order = epoch_order(0, "teacher", 3, n=21, batch=8)
    assert order.shape == (2, 8)
    assert len(np.unique(order)) == 16
    np.testing.assert_array_equal(order, epoch_order(0, "teacher", 3, 21, 8))
    assert not np.array_equal(order, epoch_order(0, "teacher", 4, 21, 8))
    assert not np.array_equal(order, epoch_order(0, "student", 3, 21, 8))
    assert not np.array_equal(order, epoch_order(1, "teacher", 3, 21, 8))


def test_parameters_that_are_not_finite_are_not_saved(
    tmp_path, config, mesh, monkeypatch
):
    """The last step's loss is from before its update."""
    monkeypatch.setattr(loop, "is_finite", lambda params: False)
    with pytest.raises(UserError, match="teacher's parameters are not finite between"):
        train(tmp_path, config, mesh, epochs=1)
    assert not [path for path in (tmp_path / "teacher").iterdir() if path.is_dir()]
