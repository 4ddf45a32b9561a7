"""A detector with random weights, from pixels to map and score."""

from pathlib import Path

import jax
import numpy as np

from ast_jax import backbones
from ast_jax.inference.detector import Detector
from ast_jax.inference.ensemble import Ensemble
from ast_jax.inference.pair import Pair
from ast_jax.models import create_student, create_teacher
from benchmarks import category, random_backbone
from benchmarks.side_by_side import Job


def create(job: Job, folder: Path) -> Detector:
    """The RGB detector of a job; leaves the backbone's weights in the folder."""
    folder.mkdir()
    random_backbone.write(folder, job.backbone, job.stage)
    config = category.configure(job)
    config.mode, config.dataset.image_size = "rgb", job.image_size
    config.backbone.update(name=job.backbone, stage=job.stage)
    config.backbone.weights = str(folder / "weights.safetensors")
    backbone = backbones.create(config.backbone, image_size=job.image_size)
    shape = {"side": job.side, "channels": job.channels}
    networks = create_teacher(config, **shape), create_student(config, **shape)
    x = np.zeros((1, job.side, job.side, job.channels), np.float32)
    initialise = jax.jit(lambda key, n: networks[n].init(key, x), static_argnums=1)
    variables = {
        name: initialise(jax.random.key(n), n)
        for n, name in enumerate(("teacher", "student"))
    }
    pair = Pair(*networks, variables, None)
    ensemble = Ensemble({"0": pair}, config.evaluation.image_score)
    return Detector("random", config, job.side, backbone, ensemble, None)
