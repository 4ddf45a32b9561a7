"""Serves our side of a `side_by_side.Job`: `python -m benchmarks.ast_rival FOLDER`.

Writes its initial weights to FOLDER/weights.safetensors, with PyTorch's names.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from ast_jax import scoring
from ast_jax.inference.pair import Pair, pair_scores, transform_kernels
from ast_jax.models import create_student, create_teacher
from ast_jax.parallel import DATA_AXIS, data_mesh
from ast_jax.training.state import TrainState, create_states, take_state
from ast_jax.training.steps import compile_steps, student_loss, teacher_loss
from benchmarks import category, random_detector
from benchmarks.common import cache_programs, compile_clock, peak_mb, serve
from benchmarks.exchange import save_weights
from benchmarks.side_by_side import Job

NETWORKS = ("teacher", "student")


def memory_mb() -> float:
    """Peak memory of the accelerator; without one, of the process."""
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] / 1e6 if stats else peak_mb()


def create(
    network: str, job: Job, mesh: Mesh, **options: Any
) -> tuple[nn.Module, TrainState]:
    """A network and one task's state; γ is 0.3, so that no gradient is zero."""
    config = category.configure(job)
    make = {"teacher": create_teacher, "student": create_student}[network]
    size = {"side": job.side, "channels": job.channels}
    module = make(config, **size, **options)
    states = create_states(
        module, config, **size, seeds=[0], network=NETWORKS.index(network), mesh=mesh
    )

    def open_gate(path: tuple, value: jax.Array) -> jax.Array:
        return value + 0.3 if path[-1].key == "gamma" else value

    params = jax.tree_util.tree_map_with_path(open_gate, states.params)
    return module, states.replace(params=params)


def serve_steps(network: str, job: Job, folder: Path) -> None:
    """Train steps on one batch; a call returns their losses."""
    names = ("x", "foreground", "target")[: 2 + (network == "student")]
    samples = {
        name: jax.device_put(np.load(folder / f"{name}.npy")[None]) for name in names
    }
    options = {"axis_name": DATA_AXIS} if network == "student" else {}
    mesh = data_mesh(jax.devices()[:1])
    _, states = create(network, job, mesh, **options)
    save_weights(folder, {network: take_state(states, 0, mesh).variables})
    loss = {"teacher": teacher_loss, "student": student_loss}[network]("all")
    run = compile_steps(loss, mesh)
    rows = np.tile(np.arange(job.batch, dtype=np.int32), (1, job.steps, 1))
    counts = np.array([job.steps], np.int32)

    def steps() -> np.ndarray:
        nonlocal states
        states, losses = run(states, samples, rows, counts)
        return np.asarray(losses)[0]

    serve_with_costs(steps, folder, kept=2)


def serve_scoring(job: Job, folder: Path) -> None:
    """The student's upsampled score maps, their maxima and mean scores."""
    x, m = (np.load(folder / f"{name}.npy") for name in ("x", "foreground"))
    mesh, modules, variables = data_mesh(jax.devices()[:1]), {}, {}
    for network in NETWORKS:
        modules[network], states = create(network, job, mesh)
        variables[network] = take_state(states, 0, mesh).variables
    del states  # and with them the optimiser's moments
    save_weights(folder, variables)

    pair = Pair(**modules, variables=variables)
    for_batches = {
        batch: transform_kernels(pair, variables, (batch, *x.shape[1:]))
        for batch in job.batches
    }

    @jax.jit
    def score(variables: dict, x: jax.Array, m: jax.Array) -> tuple[jax.Array, ...]:
        scores = pair_scores(pair, variables, x, m)
        found = scores["student"]
        return scoring.upsample(found["map"]), found["max"], found["mean"]

    def call(batch: int) -> np.ndarray:
        found = jax.device_get(score(for_batches[batch], x[:batch], m[:batch]))
        return np.concatenate([array.ravel() for array in found])

    calls = {str(batch): lambda batch=batch: call(batch) for batch in job.batches}
    serve_with_costs(calls, folder)


def serve_pixels(job: Job, folder: Path) -> None:
    """The same of a whole detector, whose inputs are images."""
    detector = random_detector.create(job, folder / "backbone")
    (pair,) = detector.ensemble.pairs.values()
    save_weights(folder, pair.variables)
    images = np.load(folder / "images.npy")
    score, variables = jax.jit(detector.function), jax.device_put(detector.variables)

    def call(batch: int) -> np.ndarray:
        found = jax.device_get(score(variables, {"image": images[:batch]}))
        return np.concatenate([found[n].ravel() for n in ("map", "maximum", "score")])

    calls = {str(batch): lambda batch=batch: call(batch) for batch in job.batches}
    serve_with_costs(calls, folder)


def serve_training(job: Job, folder: Path) -> None:
    """A whole category; a call returns the first epoch's losses, teacher first."""
    x, m = (np.load(folder / f"{name}.npy") for name in ("x", "foreground"))
    inputs = category.inputs(x, m, job.depth_channels)
    category.save_start(folder, category.configure(job, job.epochs), inputs)

    def train(epochs: int) -> np.ndarray:
        config = category.configure(job, epochs)
        with tempfile.TemporaryDirectory(dir=folder) as directory:
            return np.array(category.train(config, inputs, Path(directory)))

    serve_with_costs(lambda: train(job.epochs), folder, warm_up=lambda: train(1))


def serve_with_costs(functions, folder: Path, **options: Any) -> None:
    """`common.serve` with JAX's memory and compilation times."""
    # A training compiles again; that does not count, and the cache shortens it.
    cache_programs(folder / "cache")
    keep, clock = folder / "ours.npz", compile_clock()
    serve(functions, keep=keep, memory_mb=memory_mb, compiling_s=clock, **options)


def main(folder: Path) -> None:
    """Serves the folder's job."""
    job = Job.load(folder)
    if job.task == "scoring":
        serve_scoring(job, folder)
    elif job.task == "pixels":
        serve_pixels(job, folder)
    elif job.task == "training":
        serve_training(job, folder)
    else:
        serve_steps(job.task.removesuffix("_step"), job, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
