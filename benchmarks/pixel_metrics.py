"""Time and memory of all pixel metrics, including AU-PRO, on full-size images.

    taskset -c 0 python -m benchmarks.pixel_metrics --images=160

Half the images are good; the others have four defects each, 5 % of their pixels. On
one core of a Xeon with AVX-512 160 images took 13.7 s and 1.6 GiB, 100 took 8.7 s and
1.0 GiB.
"""

import resource
import time
from collections.abc import Iterator

import numpy as np
from absl import app, flags

from ast_jax.evaluation.metrics import pixel_metrics

_IMAGES = flags.DEFINE_integer("images", 160, "How many images.")
_SIDE = flags.DEFINE_integer("side", 1024, "Their side in pixels.")


def masks(images: int, side: int) -> Iterator[np.ndarray]:
    """Ground truth with four squares in every second image."""
    square = int(side * 0.05**0.5 / 2)
    for i in range(images):
        mask = np.zeros((side, side), bool)
        if i % 2:
            for row in (0, side // 2):
                for column in (0, side // 2):
                    mask[row : row + square, column : column + square] = True
        yield mask


def maps(images: int, side: int) -> Iterator[np.ndarray]:
    """Score maps of noise, higher in the defects: no ties, the slowest case to sort."""
    rng = np.random.default_rng(0)
    for mask in masks(images, side):
        yield rng.standard_normal((side, side), np.float32) + mask


def main(_: list[str]) -> None:
    """Prints the metrics, and the seconds without those for making the maps."""
    images, side = _IMAGES.value, _SIDE.value
    start = time.perf_counter()
    for _ in zip(maps(images, side), masks(images, side), strict=True):
        pass
    made = time.perf_counter()
    result = pixel_metrics(maps(images, side), masks(images, side))
    seconds = time.perf_counter() - made - (made - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print({key: round(value, 4) for key, value in result.items()})
    print(f"{images} images of {side}²: {seconds:.1f} s, {memory:.2f} GiB at most")


if __name__ == "__main__":
    app.run(main)
