"""The cost per image of a run's detector and of its backbone alone.

    python -m benchmarks.inference_cost --run=runs/part [--images=24] [--rounds=7]

Images of the run's size that are decoded already, in batches of 8: `Detector.score`,
from pixels to image scores, against the backbone's features of the same images. Prints
one line of JSON: median seconds an image of both, their ratio, peak memory.
"""

import statistics

import jax
import numpy as np
from absl import app, flags

from ast_jax import Detector
from ast_jax.inference.detector import BATCH_SIZE
from benchmarks.common import peak_mb, report, time_call

_RUN = flags.DEFINE_string("run", None, "An evaluated run of mode rgb.", required=True)
_IMAGES = flags.DEFINE_integer("images", 24, "How many; a multiple of 8.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Of which each side takes turns.")


def main(_: list[str]) -> None:
    """Times both sides and prints their ratio."""
    detector = Detector.load(_RUN.value)
    size = detector.config.dataset.image_size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (_IMAGES.value, size, size, 3), np.uint8)
    features = jax.jit(detector.backbone.apply)
    variables = jax.device_put(detector.backbone.variables)

    def backbone() -> None:
        for first in range(0, len(images), BATCH_SIZE):
            batch = images[first : first + BATCH_SIZE]
            jax.block_until_ready(features(variables, batch))

    sides = {"backbone": backbone, "detector": lambda: detector.score(images)}
    taken = {name: [] for name in sides}
    for _ in range(_ROUNDS.value + 1):  # the first compiles
        for name, side in sides.items():
            taken[name].append(time_call(side)[0])
    seconds = {
        f"{name}_s": statistics.median(rounds[1:]) / len(images)
        for name, rounds in taken.items()
    }
    ratio = seconds["detector_s"] / seconds["backbone_s"]
    report(seconds | {"ratio": ratio, "peak_mb": peak_mb()})


if __name__ == "__main__":
    app.run(main)
