"""Trains one network of one or more tasks to its last epoch.

Each task starts from its latest checkpoint, if it has one.
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
from ast_jax.parallel import DATA_AXIS, agree, is_main, replicated_sharding, to_host
from ast_jax.training.checkpoints import CheckpointStore
from ast_jax.training.feed import Chunk, Examples, Feed, epoch_order
from ast_jax.training.overview import log_compiled, write_trace
from ast_jax.training.preemption import stop, watch_for_stop
from ast_jax.training.progress import Progress
from ast_jax.training.state import (
    TrainState,
    is_finite,
    stack_states,
    take_state,
)
from ast_jax.training.steps import Loss, compile_steps

# Longest time of a compiled call. The host acts on SIGTERM only between calls.
_CALL_SECONDS = 8.0
_TRACED_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of the two trainings of a pair.

    Attributes:
      name: "teacher" or "student".
      loss: the function that is minimised.
      epochs: passes over the examples.
      batch_size: images of one task in one step.
      images: of the largest task; the program is compiled for this number.
      checkpoint_epochs: epochs between two checkpoints.
      tensorboard: whether to write event files too.
      profile: folder for a trace of some steps, or None.
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
        """The number of steps of the whole stage with n images."""
        return self.epochs * (n // self.batch_size)


@dataclasses.dataclass(frozen=True)
class Task:
    """The training of one category's pair with one seed.

    Attributes:
      seed: of the parameters and of the order of the examples.
      directory: folder for checkpoints and metrics.jsonl.
    """

    seed: int
    directory: Path


def is_finished(stage: Stage, task: Task, n: int) -> bool:
    """Whether the stage's last checkpoint exists; `n` is the task's image count."""
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
    saves: contextlib.ExitStack,
) -> TrainState:
    """Trains all tasks to the stage's last epoch and returns their states.

    For each task: 1. a finished stage returns its last checkpoint; 2. an unfinished
    stage continues from its latest intact checkpoint; 3. without a checkpoint it starts
    from its state in `states`.

    Args:
      stage: the network, its loss and its length.
      tasks: trained side by side.
      states: stacked along the mesh's task axis; there may be more states than tasks,
        and those do not change.
      examples: of each task.
      mesh: of `parallel.task_mesh`.
      saves: waits for the last checkpoints when it closes, so that they are written
        while the caller goes on.

    Raises:
      UserError: a loss is not finite, or a device has too little memory; the last
        good checkpoint is kept.
      SystemExit: the process was asked to stop; it has saved its states.
    """
    trainings = [
        saves.enter_context(_Training(stage, task, len(each)))
        for task, each in zip(tasks, examples, strict=True)
    ]
    states = _restore(states, trainings, mesh)
    if all(training.finished for training in trainings):
        return states
    name, share = f"training the {stage.name}", mesh.shape[DATA_AXIS]
    with memory_errors(name, stage.batch_size, share):
        return _run_epochs(stage, trainings, states, examples, mesh)


def _run_epochs(
    stage: Stage,
    trainings: Sequence["_Training"],
    states: TrainState,
    examples: Sequence[Examples],
    mesh: Mesh,
) -> TrainState:
    """The states after the last epoch.

    A call makes some steps on the devices. While it runs, the host puts the next call's
    chunk there; then it waits for this call's losses:

        devices  ├── call 1 ──────────┤  ├── call 2 ──────────┤  ├── call 3 …
        host     ├ put 2 ┤   wait 1 ──┼──┤ put 3 ┤   wait 2 ──┼──┤ put 4 ┤
                                      │                       │
                             log, save, SIGTERM?     log, save, SIGTERM?

    So chunks are one call ahead: `chunk` is always the next call's, and a training
    counts the steps that it has handed out and those that are done.
    """
    shape = (len(states.step), stage.images, stage.batch_size)
    feed = Feed(examples, shape, mesh)
    chunk = feed.put([training.next_rows(1) for training in trainings])
    run_steps = _compile(stage, states, chunk, mesh)
    for training in trainings:
        training.start()
    limit = _TRACED_STEPS if stage.profile else 1
    total = 0
    with watch_for_stop() as must_stop:
        while steps := max(training.oldest_call for training in trainings):
            start = time.perf_counter()
            with write_trace(stage.profile if total == 1 else None):
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
            ending = must_stop(range(total - steps, total))
            for slot, training in enumerate(trainings):
                if due[slot] or ending:
                    training.save(take_state(states, slot, mesh))
            if ending:
                stop(stage.name)
            # All processes must ask for the same number of steps.
            in_time = agree(max(1, int(_CALL_SECONDS * steps / seconds)))
            limit = min(in_time, feed.steps)
    return states


def _restore(
    states: TrainState, trainings: Sequence["_Training"], mesh: Mesh
) -> TrainState:
    """The states; a task with a checkpoint gets its state from there."""
    if not any(training.store.steps() for training in trainings):
        return states
    each = [take_state(states, slot, mesh) for slot in range(len(states.step))]
    for slot, training in enumerate(trainings):
        if training.store.steps():
            each[slot] = training.store.resume(each[slot], replicated_sharding(mesh))
            training.resume(int(each[slot].step))
    return stack_states(each, mesh)


def _compile(
    stage: Stage, states: TrainState, chunk: Chunk, mesh: Mesh
) -> jax.stages.Compiled:
    """Compiles the stage's program, and logs its time apart from that of the steps."""
    logging.info("%s: compiling.", stage.name)
    start = time.perf_counter()
    program = compile_steps(stage.loss, mesh).lower(states, *chunk).compile()
    log_compiled(stage.name, program, time.perf_counter() - start)
    return program


class _Training:
    """The progress of one task through a stage: its steps, checkpoints and log."""

    def __init__(self, stage: Stage, task: Task, n: int):
        self._stage, self._task, self._n = stage, task, n
        self._steps_an_epoch = n // stage.batch_size
        self._handed_out = self._done = 0  # steps
        self._calls: deque[int] = deque()  # steps of each call that is not read yet
        self._losses: list[float] = []  # of the current epoch
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
        """Whether all epochs are done."""
        return self._done >= self._stage.epochs * self._steps_an_epoch

    @property
    def oldest_call(self) -> int:
        """Steps of the oldest call whose losses are not read yet."""
        return self._calls[0]

    def resume(self, step: int) -> None:
        """Continues after a checkpoint's step."""
        self._handed_out = self._done = step
        self._losses = self.store.losses(step)
        last = self._stage.epochs * self._steps_an_epoch
        logging.info(
            "%s: goes on from step %d of %d.", self.store.directory, step, last
        )

    def start(self) -> None:
        """Starts to show progress."""
        self._progress.start(self._done)

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint of this task's state and the current epoch's losses.

        Raises:
          UserError: a parameter is not finite; the last step has made it so.
        """
        if not is_finite(state.params):
            raise UserError(self._divergence("parameters are", self._done - 1))
        self.store.save(state, self._losses)

    def next_rows(self, limit: int) -> Int[np.ndarray, "s b"]:
        """The rows of the next call's steps: at most `limit`, all of one epoch."""
        stage = self._stage
        epoch, first = divmod(self._handed_out, self._steps_an_epoch)
        rows = np.empty((0, stage.batch_size), np.int32)
        if epoch < stage.epochs:
            seed = self._task.seed
            order = epoch_order(seed, stage.name, epoch, self._n, stage.batch_size)
            rows = order[first : first + limit]
        self._handed_out += len(rows)
        self._calls.append(len(rows))
        return rows

    def advance(self, losses: Float[np.ndarray, " s"]) -> bool:
        """Records the oldest call's losses; returns whether a checkpoint is due.

        Raises:
          UserError: a loss is not finite.
        """
        steps = self._calls.popleft()
        if not steps:
            return False
        self._done += steps
        self._losses.extend(losses[:steps].tolist())
        if not np.isfinite(losses[:steps]).all():
            raise UserError(self._divergence("loss is", self._done - steps))
        self._progress.advance(self._done, self._losses[-1])
        epoch, rest = divmod(self._done, self._steps_an_epoch)
        if rest:
            return False
        self._progress.log(epoch, self._done, float(np.mean(self._losses)))
        self._losses = []
        return self.finished or epoch % self._stage.checkpoint_epochs == 0

    def _divergence(self, subject: str, first: int) -> str:
        return (
            f"{self._task.directory}: the {self._stage.name}'s {subject} not finite "
            f"between steps {first} and {self._done}; the last checkpoint is kept. "
            "Lower train.learning_rate or look for damaged inputs."
        )
