"""Trains one network from its latest checkpoint, or the start, to its last epoch."""

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from ast_jax.data.inputs import Inputs
from ast_jax.errors import UserError
from ast_jax.training.checkpoints import CheckpointStore
from ast_jax.training.devices import check_batch, replicated
from ast_jax.training.state import TrainState
from ast_jax.training.steps import Loss, mapped_steps

# Above this, samples are sent to the devices in chunks instead of all at once.
RESIDENT_BYTES = 4 << 30
_CHUNK_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Samples:
    """Training samples on the host: inputs, and for the student the teacher's z."""

    inputs: Inputs
    target: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns a batch, or all that the rows name."""
        batch = self.inputs.take(rows)
        return batch if self.target is None else {**batch, "target": self.target[rows]}

    @property
    def nbytes(self) -> int:
        """Size on a device."""
        return self.inputs.nbytes + (0 if self.target is None else self.target.nbytes)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of the two trainings.

    Attributes:
      name: "teacher" or "student".
      epochs: passes over the samples.
      loss: what is minimised.
      seed: of the order of the samples.
      directory: where checkpoints and metrics.jsonl go.
    """

    name: str
    epochs: int
    loss: Loss
    seed: int
    directory: Path


def epoch_order(seed: int, stage: str, epoch: int, n: int, batch: int) -> np.ndarray:
    """The rows of each batch of an epoch, [steps, batch]; an incomplete one is dropped.

    Depends on nothing but its arguments, so that a resumed run is the same run.
    """
    rng = np.random.default_rng([seed, epoch, *stage.encode()])
    steps = n // batch
    return rng.permutation(n)[: steps * batch].reshape(steps, batch).astype(np.int32)


def batch_size(config: ConfigDict, n: int, mesh: Mesh) -> int:
    """The configured batch, or all `n` images where there are fewer.

    Raises:
      UserError: the batch does not divide over the devices.
    """
    size = config.train.batch_size
    check_batch(size, mesh)
    if n >= size:
        return size
    smaller = n - n % mesh.size
    if not smaller:
        raise UserError(
            f"{n} good training images are fewer than the {mesh.size} devices; "
            "add images or use fewer devices."
        )
    logging.warning(
        "%d good training images are fewer than a batch of %d: batches of %d.",
        n,
        size,
        smaller,
    )
    return smaller


def train_stage(
    stage: Stage, state: TrainState, samples: Samples, config: ConfigDict, mesh: Mesh
) -> TrainState:
    """Trains to the stage's last epoch and returns the state, on every device.

    The order of attempts: 1. a finished stage is its last checkpoint; 2. an unfinished
    one goes on from its latest checkpoint; 3. else it starts from `state`.

    Raises:
      UserError: the loss is not finite; the last good checkpoint is kept.
    """
    n = len(samples.inputs)
    batch = batch_size(config, n, mesh)
    steps_an_epoch = n // batch
    state = jax.device_put(state, replicated(mesh))
    with CheckpointStore(stage.directory / stage.name) as store:
        if store.steps():
            state = store.restore(state, replicated(mesh))
        done = int(state.step) // steps_an_epoch
        if done >= stage.epochs:
            return state
        run_steps = mapped_steps(stage.loss, mesh)
        feed = _Feed(samples, mesh)
        with _Progress(stage, done, n) as progress:
            for epoch in range(done, stage.epochs):
                order = epoch_order(stage.seed, stage.name, epoch, n, batch)
                losses = []
                for data, rows in feed.chunks(order):
                    state, loss = run_steps(state, data, rows)
                    losses.append(loss)
                last = int(state.step)
                mean = _checked_mean(losses, stage, last - steps_an_epoch, last)
                progress.log(epoch, last, mean, images=steps_an_epoch * batch)
                due = (epoch + 1) % config.train.checkpoint_epochs == 0
                if due or epoch + 1 == stage.epochs:
                    store.save(state)
    return state


def _checked_mean(
    losses: list[jax.Array], stage: Stage, first: int, last: int
) -> float:
    mean = float(np.mean(np.concatenate([np.asarray(loss) for loss in losses])))
    if not math.isfinite(mean):
        raise UserError(
            f"{stage.directory}: the {stage.name}'s loss is {mean} between steps "
            f"{first} and {last}; the last checkpoint is kept. Lower "
            "train.learning_rate or look for damaged inputs."
        )
    return mean


class _Feed:
    """Hands samples to the devices: all once where they fit, else chunk by chunk."""

    def __init__(self, samples: Samples, mesh: Mesh):
        self._samples, self._sharding = samples, replicated(mesh)
        self._resident = None
        if samples.nbytes <= RESIDENT_BYTES:
            self._resident = self._put(np.arange(len(samples.inputs)))

    def _put(self, rows: np.ndarray) -> dict[str, jax.Array]:
        return jax.device_put(self._samples.take(rows), self._sharding)

    def chunks(self, order: np.ndarray) -> Iterator[tuple[dict, np.ndarray]]:
        """Yields (samples, rows [steps, batch] into them) that cover the epoch."""
        if self._resident is not None:
            yield self._resident, order
            return
        each = max(1, self._samples.nbytes // len(self._samples.inputs))
        steps = max(1, _CHUNK_BYTES // (each * order.shape[1]))
        for first in range(0, len(order), steps):
            chunk = order[first : first + steps]
            # The call before is still computing while this one is read and sent.
            yield self._put(chunk.ravel()), np.arange(chunk.size).reshape(chunk.shape)


class _Progress:
    """The progress bar and metrics.jsonl of a stage."""

    def __init__(self, stage: Stage, done: int, n: int):
        self._stage, self._n = stage, n
        self._bar = tqdm(
            total=stage.epochs,
            initial=done,
            desc=stage.name,
            unit="epoch",
            disable=None,
        )
        self._path = stage.directory / "metrics.jsonl"
        self._start = time.perf_counter()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def log(self, epoch: int, step: int, loss: float, images: int) -> None:
        """Shows an epoch's mean loss and appends it as a line."""
        now = time.perf_counter()
        rate, self._start = images / (now - self._start), now
        self._bar.set_postfix(loss=f"{loss:.4g}", **{"images/s": f"{rate:.1f}"})
        self._bar.update()
        line: dict[str, Any] = {
            "step": step,
            "stage": self._stage.name,
            "epoch": epoch + 1,
            "loss": loss,
            "images/s": round(rate, 2),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
