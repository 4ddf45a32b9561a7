"""Serves our side of a `side_by_side.Job`: `python -m benchmarks.ast_rival FOLDER`.

Leaves its initial weights in FOLDER/weights.safetensors, under PyTorch's names.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from ast_jax import config as configuration
from ast_jax import scoring
from ast_jax.models import create_student, create_teacher
from ast_jax.pair import pair_scores
from ast_jax.training.devices import DATA_AXIS, data_mesh
from ast_jax.training.state import TrainState, create_state
from ast_jax.training.steps import mapped_steps, student_loss, teacher_loss
from benchmarks.common import peak_mb, serve
from benchmarks.exchange import torch_state
from benchmarks.side_by_side import Job

NETWORKS = ("teacher", "student")


def configured(job: Job) -> ConfigDict:
    """A run's configuration with the job's sizes."""
    config = configuration.default()
    config.teacher.hidden, config.student.width = job.hidden, job.width
    config.train.batch_size, config.train.dtype = job.batch, job.dtype
    return config


def create(network: str, job: Job, **options) -> tuple[object, TrainState]:
    """A network and its fresh state; γ is 0.3, so that every gradient counts."""
    config, make = (
        configured(job),
        {"teacher": create_teacher, "student": create_student},
    )
    size = {"side": job.side, "channels": job.channels}
    module = make[network](config, **size, **options)
    key = jax.random.key(NETWORKS.index(network))
    state = create_state(module, config, **size, key=key)

    def started(path: tuple, value: jax.Array) -> jax.Array:
        return value + 0.3 if path[-1].key == "gamma" else value

    params = jax.tree_util.tree_map_with_path(started, state.params)
    return module, state.replace(params=params)


def save_weights(folder: Path, states: dict[str, dict]) -> None:
    """Writes variables by network for PyTorch."""
    tensors = {
        f"{network}.{key}": value
        for network, variables in states.items()
        for key, value in torch_state(variables).items()
    }
    save_file(tensors, folder / "weights.safetensors")


def memory_mb() -> float:
    """Peak memory of the accelerator, of the process where there is none."""
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] / 1e6 if stats else peak_mb()


def serve_steps(network: str, job: Job, folder: Path) -> None:
    """Train steps on one batch; a call returns their losses."""
    names = ("x", "foreground", "target")[: 2 + (network == "student")]
    samples = {name: jax.device_put(np.load(folder / f"{name}.npy")) for name in names}
    options = {"axis_name": DATA_AXIS} if network == "student" else {}
    _, state = create(network, job, **options)
    save_weights(folder, {network: state.variables})
    loss = {"teacher": teacher_loss, "student": student_loss}[network]("all")
    run = mapped_steps(loss, data_mesh(jax.devices()[:1]))
    rows = np.tile(np.arange(job.batch, dtype=np.int32), (job.steps, 1))

    def steps() -> np.ndarray:
        nonlocal state
        state, losses = run(state, samples, rows)
        return np.asarray(losses)

    serve(steps, keep=folder / "ours.npz", kept=2, memory_mb=memory_mb)


def serve_scoring(job: Job, folder: Path) -> None:
    """The student's upsampled score maps, their maxima and mean scores."""
    x, m = (np.load(folder / f"{name}.npy") for name in ("x", "foreground"))
    (teacher, state), (student, other) = (create(name, job) for name in NETWORKS)
    variables = {"teacher": state.variables, "student": other.variables}
    save_weights(folder, variables)
    del state, other  # and with them the optimiser's moments

    @jax.jit
    def score(variables: dict, x: jax.Array, m: jax.Array) -> tuple[jax.Array, ...]:
        scores = pair_scores(teacher, student, variables, x, m)["student"]
        return scoring.upsample(scores["map"]), scores["max"], scores["mean"]

    def call(batch: int) -> np.ndarray:
        found = jax.device_get(score(variables, x[:batch], m[:batch]))
        return np.concatenate([array.ravel() for array in found])

    calls = {str(batch): lambda batch=batch: call(batch) for batch in job.batches}
    serve(calls, keep=folder / "ours.npz", memory_mb=memory_mb)


def main(folder: Path) -> None:
    """Serves the folder's job."""
    job = Job.load(folder)
    if job.task == "scoring":
        serve_scoring(job, folder)
    else:
        serve_steps(job.task.removesuffix("_step"), job, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
