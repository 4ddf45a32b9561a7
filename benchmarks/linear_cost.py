"""Time of training a category as a function of images and of epochs: both linear.

    python -m benchmarks.linear_cost --output=cost.png [--quick] [--side=N] [--width=N]

Ours alone, on random feature maps, without compilation, all sizes in turn; medians.
Writes a plot and prints JSON: seconds by images and by epochs, and the largest relative
distance of a point from the straight line through them.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from absl import app, flags

from benchmarks import category
from benchmarks.common import (
    alternate,
    cache_programs,
    compile_clock,
    report,
    time_call,
)
from benchmarks.side_by_side import DTYPE, QUICK, ROUNDS, WIDTH, Job, random_features

IMAGES = (50, 100, 200, 400)
EPOCHS = (1, 2, 4, 8)  # of the fewest images; --quick leaves out the most of both

_OUTPUT = flags.DEFINE_string("output", "linear_cost.png", "The plot's path.")
_SIDE = flags.DEFINE_integer("side", 12, "Of the feature maps; 4 with --quick.")
flags.set_default(WIDTH, 128)


def main(_: list[str]) -> None:
    """Times all sizes in turn, plots and prints them."""
    quick = QUICK.value
    side, width = (4, 32) if quick else (_SIDE.value, WIDTH.value)
    most = 3 if quick else 4
    images, epochs = IMAGES[:most], EPOCHS[:most]
    job = Job("training", max(images), side=side, width=width, dtype=DTYPE.value)
    inputs = category.inputs(*random_features(job), job.depth_channels)
    clock = compile_clock()

    def seconds(count: int, epochs: int) -> float:
        some, before = inputs.select(np.arange(count)), clock()
        with tempfile.TemporaryDirectory() as folder:
            config = category.configure(job, epochs)
            taken, _ = time_call(lambda: category.train(config, some, Path(folder)))
        return taken - (clock() - before)

    sizes = dict.fromkeys([(n, 1) for n in images] + [(images[0], e) for e in epochs])
    turns = {size: lambda size=size: seconds(*size) for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        cache_programs(Path(folder))
        timings = alternate(turns, 1 if quick else ROUNDS.value)
    medians = {size: float(np.median(taken)) for size, taken in timings.items()}
    by_images = {n: medians[n, 1] for n in images}
    by_epochs = {e: medians[images[0], e] for e in epochs}
    plot(by_images, by_epochs, Path(_OUTPUT.value))
    report(
        {
            "seconds_by_images": by_images,
            "seconds_by_epochs": by_epochs,
            "off_line_images": line_error(by_images),
            "off_line_epochs": line_error(by_epochs),
            "compile_s": clock(),
            "side": side,
            "width": width,
            "dtype": DTYPE.value,
            "quick": quick,
        }
    )


def line(seconds: Mapping[int, float]) -> np.ndarray:
    """Slope and offset of the straight line fitted to relative distances."""
    x, y = np.array(list(seconds)), np.array(list(seconds.values()))
    return np.polyfit(x, y, 1, w=1 / y)


def line_error(seconds: Mapping[int, float]) -> float:
    """The largest relative distance of a point from the line."""
    slope, offset = line(seconds)
    return max(abs((slope * n + offset) / taken - 1) for n, taken in seconds.items())


def plot(
    by_images: Mapping[int, float], by_epochs: Mapping[int, float], path: Path
) -> None:
    """Draws both series with their lines."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    series = (
        (by_images, "images, 1 epoch of each network"),
        (by_epochs, f"epochs of each network, {IMAGES[0]} images"),
    )
    for ax, (seconds, label) in zip(axes, series, strict=True):
        ends = np.array([0, max(seconds)])
        ax.plot(ends, np.polyval(line(seconds), ends), color="0.6")
        ax.plot(seconds.keys(), seconds.values(), "o")
        ax.set(xlabel=label, ylabel="training, s", xlim=(0, None), ylim=(0, None))
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    app.run(main)
