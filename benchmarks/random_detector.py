"""A detector with random weights, from pixels to map and score."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from ast_jax import backbones
from ast_jax.config import default
from ast_jax.inference.detector import Detector
from ast_jax.inference.ensemble import Ensemble
from ast_jax.inference.pair import Pair
from ast_jax.models import create_student, create_teacher
from benchmarks import random_backbone

_CALLS = 10


def create(folder: Path, *, quick: bool) -> Detector:
    """The paper's RGB detector with EfficientNet-B5, in bfloat16; small if `quick`."""
    config = default()
    model = "tf_efficientnet_b0" if quick else "tf_efficientnet_b5"
    random_backbone.write(folder, model, config.backbone.stage)
    config.mode, config.train.dtype = "rgb", "bfloat16"
    config.backbone.name = model
    config.backbone.weights = str(folder / "weights.safetensors")
    if quick:
        config.dataset.image_size = 64
        config.teacher.hidden, config.student.width = 8, 16
    size = config.dataset.image_size
    backbone = backbones.create(config.backbone, image_size=size)
    shape = {"side": size // backbone.stride, "channels": backbone.channels}
    networks = create_teacher(config, **shape), create_student(config, **shape)
    x = np.zeros((1, shape["side"], shape["side"], shape["channels"]), np.float32)
    initialise = jax.jit(lambda key, n: networks[n].init(key, x), static_argnums=1)
    variables = {
        name: initialise(jax.random.key(n), n)
        for n, name in enumerate(("teacher", "student"))
    }
    pair = Pair(*networks, variables, None)
    ensemble = Ensemble({"0": pair}, config.evaluation.image_score)
    return Detector("random", config, shape["side"], backbone, ensemble, None)


def seconds_by_batch(
    batches: Sequence[int], quick: bool
) -> Iterator[tuple[int, float]]:
    """The median seconds of a call for each batch, from pixels to maps on the host."""
    with tempfile.TemporaryDirectory() as folder:
        detector = create(Path(folder), quick=quick)
    run = jax.jit(detector.function)
    variables = jax.device_put(detector.variables)
    for batch in batches:
        shapes = detector.input_shapes(batch).items()
        rng = np.random.default_rng(0)
        inputs = {name: rng.integers(0, 256, s.shape, s.dtype) for name, s in shapes}
        taken = []
        for _ in range(_CALLS):
            start = time.perf_counter()
            jax.device_get(run(variables, inputs))
            taken.append(time.perf_counter() - start)
        yield batch, float(np.median(taken[2:]))  # the first ones compile
