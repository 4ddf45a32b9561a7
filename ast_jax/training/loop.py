"""Trains one network of one or more tasks, each from its latest checkpoint, or the
start, to its last epoch.
"""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Float, Int

from ast_jax.device_memory import memory_errors
from ast_jax.errors import UserError
from ast_jax.parallel import DATA_AXIS, agreed, is_main, replicated, to_host
from ast_jax.training.checkpoints import CheckpointStore
from ast_jax.training.feed import Chunk, Examples, Feed, epoch_order
from ast_jax.training.overview import log_compiled, traced
from ast_jax.training.preemption import stop, stop_asked
from ast_jax.training.progress import Progress
from ast_jax.training.state import (
    TrainState,
    is_finite,
    stack_states,
    take_state,
)
from ast_jax.training.steps import Loss, compile_steps

# The longest that one call may run; SIGTERM is acted on only between calls.
_CALL_SECONDS = 8.0
_TRACED_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of the two trainings of a pair.

    Attributes:
      name: "teacher" or "student".
      loss: what is minimised.
      epochs: passes over the examples.
      batch_size: images a step and task.
      images: the most that a task has; the program is compiled for so many.
      checkpoint_epochs: a checkpoint every so many epochs.
      tensorboard: whether to write event files too.
      profile: where a trace of some steps goes, if one is wanted.
    """

    name: str
    loss: Loss
    epochs: int
    batch_size: int
    images: int
    checkpoint_epochs: int
    tensorboard: bool = False
    profile: Path | None = None

    def steps(self, n: int) -> int:
        """How many steps n images take in all."""
        return self.epochs * (n // self.batch_size)


@dataclasses.dataclass(frozen=True)
class Task:
    """One category and seed.

    Attributes:
      seed: of the parameters and of the order of the examples.
      directory: where checkpoints and metrics.jsonl go.
    """

    seed: int
    directory: Path


def is_finished(stage: Stage, task: Task, n: int) -> bool:
    """Whether a stage's last checkpoint is there; `n` is its number of images."""
    directory = task.directory / stage.name
    if not directory.is_dir():
        return False
    with CheckpointStore(directory) as store:
        return store.is_intact(stage.steps(n))


def train_stage(
    stage: Stage,
    tasks: Sequence[Task],
    states: TrainState,
    examples: Sequence[Examples],
    mesh: Mesh,
) -> TrainState:
    """Trains all tasks to the stage's last epoch and returns their states.

    The order of attempts, task by task: 1. a finished stage is its last checkpoint;
    2. an unfinished one goes on from its latest intact checkpoint; 3. else it starts
    from its state in `states`.

    Args:
      stage: which network, by what loss, how long.
      tasks: what is trained side by side.
      states: stacked along the mesh's task axis; those beyond the tasks stay as they
        are.
      examples: each task's.
      mesh: of `parallel.task_mesh`.

    Raises:
      UserError: a loss is not finite, or a device's memory does not suffice; the last
        good checkpoint is kept.
      SystemExit: the process was asked to stop, and has saved.
    """
    with contextlib.ExitStack() as stack:
        trainings = [
            stack.enter_context(_Training(stage, task, len(each)))
            for task, each in zip(tasks, examples, strict=True)
        ]
        states = _restored(states, trainings, mesh)
        if all(training.finished for training in trainings):
            return states
        name, share = f"training the {stage.name}", mesh.shape[DATA_AXIS]
        with memory_errors(name, stage.batch_size, share):
            return _trained(stage, trainings, states, examples, mesh)


def _trained(
    stage: Stage,
    trainings: Sequence["_Training"],
    states: TrainState,
    examples: Sequence[Examples],
    mesh: Mesh,
) -> TrainState:
    """The states after the last epoch.

    The host chooses and sends the rows of a call while the devices compute the call
    before, and reads that one's losses afterwards:

        devices   | call 1      | call 2      | call 3
        host      |  send 2     |  send 3     |  send 4
                        read 1 ─┘     read 2 ─┘
    """
    shape = (len(states.step), stage.images, stage.batch_size)
    feed = Feed(examples, shape, mesh)
    chunk = feed.put([training.next_rows(1) for training in trainings])
    run_steps = _compiled(stage, states, chunk, mesh)
    for training in trainings:
        training.start()
    limit = _TRACED_STEPS if stage.profile else 1
    total = 0
    with stop_asked() as asked:
        while steps := max(training.called for training in trainings):
            start = time.perf_counter()
            with traced(stage.profile if total == 1 else None):
                states, losses = run_steps(states, *chunk)
                rows = [training.next_rows(limit) for training in trainings]
                chunk = feed.put(rows)
                losses = to_host(losses)
            seconds = time.perf_counter() - start
            total += steps
            due = [
                training.advance(losses[slot])
                for slot, training in enumerate(trainings)
            ]
            ending = asked(range(total - steps, total))
            for slot, training in enumerate(trainings):
                if due[slot] or ending:
                    training.save(take_state(states, slot, mesh))
            if ending:
                stop(stage.name)
            in_time = agreed(max(1, int(_CALL_SECONDS * steps / seconds)))
            limit = min(in_time, feed.steps)
    return states


def _restored(
    states: TrainState, trainings: Sequence["_Training"], mesh: Mesh
) -> TrainState:
    """The states, of those with a checkpoint what it holds."""
    if not any(training.store.steps() for training in trainings):
        return states
    each = [take_state(states, slot, mesh) for slot in range(len(states.step))]
    for slot, training in enumerate(trainings):
        if training.store.steps():
            each[slot] = training.store.resume(each[slot], replicated(mesh))
            training.resume(int(each[slot].step))
    return stack_states(each, mesh)


def _compiled(
    stage: Stage, states: TrainState, chunk: Chunk, mesh: Mesh
) -> jax.stages.Compiled:
    """The stage's program; tells what compiling took, apart from the steps."""
    logging.info("%s: compiling.", stage.name)
    start = time.perf_counter()
    program = compile_steps(stage.loss, mesh).lower(states, *chunk).compile()
    log_compiled(stage.name, program, time.perf_counter() - start)
    return program


class _Training:
    """One task's way through a stage: where it is, its checkpoints and its log."""

    def __init__(self, stage: Stage, task: Task, n: int):
        self._stage, self._task, self._n = stage, task, n
        self._steps_an_epoch = n // stage.batch_size
        self._given = self._done = 0  # steps handed out, steps made
        self._calls: deque[int] = deque()  # steps of each call under way
        self._losses: list[float] = []  # of the epoch so far
        self.store = CheckpointStore(task.directory / stage.name)
        self._progress = Progress(
            task.directory,
            stage.name,
            steps=stage.epochs * self._steps_an_epoch,
            batch_size=stage.batch_size,
            write=is_main(),
            tensorboard=stage.tensorboard,
        )

    def __enter__(self) -> "_Training":
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.close()
        self.store.close()

    @property
    def finished(self) -> bool:
        """Whether all epochs are made."""
        return self._done >= self._stage.epochs * self._steps_an_epoch

    @property
    def called(self) -> int:
        """Steps of the oldest call under way."""
        return self._calls[0]

    def resume(self, step: int) -> None:
        """Goes on behind a checkpoint's step."""
        self._given = self._done = step
        self._losses = self.store.losses(step)
        last = self._stage.epochs * self._steps_an_epoch
        logging.info(
            "%s: goes on from step %d of %d.", self.store.directory, step, last
        )

    def start(self) -> None:
        """Begins to show progress."""
        self._progress.start(self._done)

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint of this task's state, with what else it goes on from.

        Raises:
          UserError: a parameter is not finite: the last step's loss was its last.
        """
        if not is_finite(state.params):
            raise UserError(self._not_finite("parameters are", self._done - 1))
        self.store.save(state, self._losses)

    def next_rows(self, limit: int) -> Int[np.ndarray, "s b"]:
        """The rows of the next call's steps: at most `limit`, all of one epoch."""
        stage = self._stage
        epoch, first = divmod(self._given, self._steps_an_epoch)
        rows = np.empty((0, stage.batch_size), np.int32)
        if epoch < stage.epochs:
            seed = self._task.seed
            order = epoch_order(seed, stage.name, epoch, self._n, stage.batch_size)
            rows = order[first : first + limit]
        self._given += len(rows)
        self._calls.append(len(rows))
        return rows

    def advance(self, losses: Float[np.ndarray, " s"]) -> bool:
        """Takes in the oldest call's losses; returns whether a checkpoint is due.

        Raises:
          UserError: one is not finite.
        """
        steps = self._calls.popleft()
        if not steps:
            return False
        self._done += steps
        self._losses.extend(losses[:steps].tolist())
        if not np.isfinite(losses[:steps]).all():
            raise UserError(self._not_finite("loss is", self._done - steps))
        self._progress.advance(self._done, self._losses[-1])
        epoch, rest = divmod(self._done, self._steps_an_epoch)
        if rest:
            return False
        self._progress.log(epoch, self._done, float(np.mean(self._losses)))
        self._losses = []
        return self.finished or epoch % self._stage.checkpoint_epochs == 0

    def _not_finite(self, what: str, first: int) -> str:
        return (
            f"{self._task.directory}: the {self._stage.name}'s {what} not finite "
            f"between steps {first} and {self._done}; the last checkpoint is kept. "
            "Lower train.learning_rate or look for damaged inputs."
        )
