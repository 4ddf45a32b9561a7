"""Several categories and seeds in one program train as each one alone."""

import contextlib
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_inputs import BLOCKS, SIDE, make_inputs

from ast_jax.errors import UserError
from ast_jax.models import create_student, create_teacher
from ast_jax.parallel import DATA_AXIS, TASK_AXIS, data_mesh, task_mesh
from ast_jax.training import steps
from ast_jax.training.feed import Examples
from ast_jax.training.loop import Stage, Task, train_stage
from ast_jax.training.pairs import _batch_size
from ast_jax.training.state import create_states, stack_states, take_state
from ast_jax.training.steps import student_loss, teacher_loss
from ast_jax.training.targets import teacher_targets

BATCH = 4
IMAGES = (21, 9, 14)  # steps an epoch: 5, 2, 3


def examples_of(mode: str, with_target: bool) -> list[Examples]:
    examples = []
    for n in IMAGES:
        inputs = make_inputs(mode, n=n)
        x = inputs.take(np.arange(n))["x"]
        examples.append(Examples(inputs, np.tanh(x) if with_target else None))
    return examples


def trained(directory, network, mode, config, mesh, chosen, *, slots, epochs=1):
    """The final parameters of the chosen tasks, trained side by side."""
    examples = [examples_of(mode, network == "student")[task] for task in chosen]
    size = {"side": SIDE, "channels": examples[0].inputs.channels}
    networks = size | {"blocks": BLOCKS[config.method]}
    if network == "teacher":
        module, loss = create_teacher(config, **networks), teacher_loss("all")
    else:
        module = create_student(config, **networks, axis_name=DATA_AXIS)
        loss = student_loss("all")
    tasks = [Task(seed, directory / str(seed)) for seed in chosen]
    idle = slots - len(chosen)
    stage = Stage(network, loss, epochs, BATCH, max(IMAGES), 10)
    lengths = [stage.steps(len(each)) for each in examples] + [1] * idle
    several = {"seeds": [*chosen, *[0] * idle], "steps": lengths}
    states = create_states(module, config, **size, **several, network=0, mesh=mesh)
    with contextlib.ExitStack() as saves:
        states = train_stage(stage, tasks, states, examples, mesh, saves)
    return [take_state(states, slot, mesh).params for slot in range(len(chosen))]


def furthest(one, other) -> float:
    """Of all but a block's biases: before a batch norm their gradient is rounding."""
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for (path, a), b in zip(
            jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True
        )
        if not re.search(r"block\d.*conv\d.*bias", jax.tree_util.keystr(path))
    )


@pytest.mark.parametrize("network", ["teacher", "student"])
@pytest.mark.parametrize(
    ("axis", "slots", "method"),
    [(4, 4, "ast"), (1, 3, "ast"), (2, 4, "ast_plus")],
    ids=["mesh", "vmap", "both"],
)
def test_tasks_side_by_side_are_what_each_is_alone(
    tmp_path, network, axis, slots, method, configs
):
    config = configs[method]
    devices = jax.devices()
    mesh = task_mesh(axis, BATCH, devices[: 4 if axis > 1 else 1])
    assert mesh.shape[TASK_AXIS] == axis
    together = trained(
        tmp_path / "all", network, "rgb3d", config, mesh, (0, 1, 2), slots=slots
    )
    alone = data_mesh(devices[:1])
    for task, params in enumerate(together):
        (single,) = trained(
            tmp_path / "one", network, "rgb3d", config, alone, (task,), slots=1
        )
        # Of weights that moved by 1e-3; Adam magnifies the rounding of small gradients.
        assert furthest(single, params) < 3e-5


def test_finished_tasks_and_ends_of_epochs_compile_nothing_anew(
    tmp_path, config, monkeypatch
):
    traces = []
    step = steps.train_step
    monkeypatch.setattr(steps, "train_step", lambda *a: traces.append(a) or step(*a))
    steps.compile_steps.cache_clear()
    mesh = task_mesh(2, BATCH, jax.devices()[:2])
    trained(tmp_path, "teacher", "rgb", config, mesh, (0, 1), slots=2, epochs=3)
    trained(tmp_path, "teacher", "rgb", config, mesh, (2,), slots=2, epochs=3)
    steps.compile_steps.cache_clear()
    assert len(traces) == 1


def test_a_task_resumes_beside_others_that_start(tmp_path, config):
    mesh = task_mesh(2, BATCH, jax.devices()[:2])
    whole = trained(
        tmp_path / "whole", "teacher", "rgb", config, mesh, (0, 1), slots=2, epochs=2
    )
    trained(tmp_path / "parts", "teacher", "rgb", config, mesh, (0,), slots=2)
    parts = trained(
        tmp_path / "parts", "teacher", "rgb", config, mesh, (0, 1), slots=2, epochs=2
    )
    assert furthest(whole, parts) == 0


def test_targets_of_several_teachers_are_each_ones_own(tmp_path, config):
    mesh = task_mesh(2, BATCH, jax.devices()[:4])
    inputs = [make_inputs("rgb", n=n) for n in (9, 6)]
    size = {"side": SIDE, "channels": inputs[0].channels}
    module = create_teacher(config, **size)
    states = create_states(module, config, **size, seeds=[3, 4], network=0, mesh=mesh)
    folders = [tmp_path / "a", tmp_path / "b"]
    targets = teacher_targets(states, inputs, folders, BATCH, mesh)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    for slot, (each, target) in enumerate(zip(inputs, targets, strict=True)):
        params = take_state(states, slot, mesh).params
        x = jnp.asarray(each.take(np.arange(len(each)))["x"])
        expected = jax.jit(module.apply)({"params": params}, x)[0]
        np.testing.assert_allclose(target, expected, atol=1e-5)


def test_stacking_undoes_taking(config):
    mesh = task_mesh(2, BATCH, jax.devices()[:2])
    module = create_teacher(config, side=SIDE, channels=6)
    states = create_states(
        module, config, side=SIDE, channels=6, seeds=[0, 1], network=0, mesh=mesh
    )
    each = [take_state(states, slot, mesh) for slot in range(2)]
    assert furthest(stack_states(each, mesh).params, states.params) == 0
    assert furthest(each[0].params, each[1].params) > 0


@pytest.mark.parametrize(
    ("tasks", "devices", "batch", "shape"),
    [(1, 8, 8, (1, 8)), (10, 8, 8, (8, 1)), (3, 8, 8, (2, 4))],
)
def test_tasks_take_the_devices_before_the_batch(tasks, devices, batch, shape):
    mesh = task_mesh(tasks, batch, jax.devices()[:devices])
    assert (mesh.shape[TASK_AXIS], mesh.shape[DATA_AXIS]) == shape


def test_devices_that_no_batch_divides_over_are_refused():
    with pytest.raises(UserError, match=r"3 does not divide by the 4 devices"):
        task_mesh(2, 3, jax.devices()[:8])


@pytest.mark.parametrize(("n", "share", "expected"), [(9, 4, 8), (6, 4, 4), (5, 1, 5)])
def test_few_images_shrink_the_batch_to_what_divides(
    n, share, expected, config, caplog
):
    config.train.batch_size = 8
    with caplog.at_level(logging.WARNING):
        assert _batch_size(config, n, "bagel", share) == expected
    assert ("bagel: " in caplog.text) == (expected < 8)


def test_fewer_images_than_devices_that_share_a_batch_are_refused(config):
    with pytest.raises(UserError, match="bagel: 3 good training images"):
        _batch_size(config, 3, "bagel", 4)
