"""Our training of a whole category, as `train.py` does it after feature extraction."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from ast_jax import config as configuration
from ast_jax.features.blocks import Block
from ast_jax.features.extract import Features
from ast_jax.features.inputs import Inputs
from ast_jax.models import create_student, create_teacher
from ast_jax.parallel import data_mesh, task_mesh
from ast_jax.training.feed import epoch_order
from ast_jax.training.loop import Task
from ast_jax.training.pairs import UntrainedPair, train_pairs
from ast_jax.training.state import create_states, take_state
from benchmarks.exchange import save_weights
from benchmarks.side_by_side import Job

SEED = 0


def configure(job: Job, epochs: int = 1) -> ConfigDict:
    """A run's configuration with the job's sizes; one checkpoint, at a stage's end."""
    config = configuration.default()
    config.teacher.hidden, config.student.width = job.hidden, job.width
    config.teacher.blocks = config.student.blocks = job.blocks
    config.train.batch_size, config.train.dtype = job.batch, job.dtype
    config.teacher.epochs = config.student.epochs = epochs
    config.train.checkpoint_epochs = epochs
    return config


def inputs(x: np.ndarray, foreground: np.ndarray, depth_channels: int) -> Inputs:
    """Network inputs of mode rgb3d from features [n,h,w,c], depth's channels last."""
    rgb, depth = np.split(x, [x.shape[-1] - depth_channels], axis=-1)
    return Inputs.of(Features(rgb, depth, foreground), binary_mask=False)


def random_blocks(blocks: Sequence[Block], samples: int, side: int) -> Inputs:
    """Random network inputs of mode rgb3d, with some blocks of channels."""
    rng, sizes = np.random.default_rng(0), {"rgb": 0, "depth": 0}
    for block in blocks:
        sizes[block.modality] += block.channels
    shape = (samples, side, side)
    arrays = [rng.standard_normal((*shape, n), np.float32) for n in sizes.values()]
    foreground = rng.random(shape, np.float32)
    features = Features(*arrays, foreground)
    return Inputs.of(features, binary_mask=False, blocks=tuple(blocks))


def train(
    config: ConfigDict, inputs: Inputs, directory: Path, devices: int = 1
) -> list[float]:
    """Trains teacher and student in `directory`; their losses in the first epoch."""
    batch = config.train.batch_size
    pair = UntrainedPair("random features", Task(SEED, directory), inputs, batch)
    train_pairs([pair], config, data_mesh(jax.devices()[:devices]))
    return first_losses(directory)


def train_many(
    config: ConfigDict, inputs: Inputs, directory: Path, count: int, devices: int = 1
) -> None:
    """Trains `count` pairs on some devices, each with its own seed."""
    batch = config.train.batch_size
    pairs = [
        UntrainedPair(f"seed {n}", Task(n, directory / f"seed_{n}"), inputs, batch)
        for n in range(count)
    ]
    train_pairs(pairs, config, task_mesh(count, batch, jax.devices()[:devices]))


def first_losses(directory: Path) -> list[float]:
    """The first epoch's loss of teacher and student."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if line["epoch"] == 1]


def save_start(folder: Path, config: ConfigDict, inputs: Inputs) -> None:
    """Writes the initial weights and the order of the samples, for PyTorch."""
    folder.mkdir(exist_ok=True)
    size = {"side": inputs.side, "channels": inputs.channels}
    mesh, variables, orders = data_mesh(jax.devices()[:1]), {}, {}
    makers = {"teacher": create_teacher, "student": create_student}
    for number, (network, make) in enumerate(makers.items()):
        module = make(config, **size)
        states = create_states(
            module, config, **size, seeds=[SEED], network=number, mesh=mesh
        )
        variables[network] = take_state(states, 0, mesh).variables
        batch, epochs = config.train.batch_size, config[network].epochs
        orders[network] = np.stack(
            [
                epoch_order(SEED, network, epoch, len(inputs), batch)
                for epoch in range(epochs)
            ]
        )
    save_weights(folder, variables)
    np.savez(folder / "orders.npz", **orders)
