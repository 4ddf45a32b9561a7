"""Time of the 3D preprocessing, and of a loop over missing pixels with PyTorch.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.preprocessing [--quick]

On a 400×400 cloud of which 39 % are missing, as in MVTec 3D-AD's cable_gland, and on
one thread. The loop visits every missing pixel in every round, as the authors' code
does; the rest of its work is NumPy and PyTorch without loops. The last line is JSON.
"""

import json
import time
import tracemalloc

import numpy as np
import torch
import torch.nn.functional as F
from absl import app, flags

from ast_jax.data import depth

QUICK = flags.DEFINE_bool("quick", False, "Fewer repetitions.")
SIDE = 24


def cloud(size: int = 400) -> np.ndarray:
    """z of a tilted plane with a disc on it, holes and speckles missing [size,size]."""
    rng = np.random.default_rng(0)
    rows, columns = np.meshgrid(*2 * [np.linspace(-1, 1, size)], indexing="ij")
    radius = np.hypot(rows, columns)
    z = 0.55 + 0.01 * rows - 0.03 * (radius < 0.4)
    missing = (radius > 0.72) & (radius < 0.95) | (rng.random(z.shape) < 0.12)
    return np.where(missing, 0, z).astype(np.float32)


def fill_by_loop(z: np.ndarray, rounds: int = 3) -> np.ndarray:
    """`depth.fill_missing`, pixel by pixel."""
    for _ in range(rounds):
        result = z.copy()
        for row, column in np.argwhere(z == 0):
            window = z[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            present = np.count_nonzero(window)
            if present:
                result[row, column] = window.sum() / present
        z = result
    return z


def preprocess_by_loop(z: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """`depth.preprocess_depth` for a cloud with four corners and a foreground."""
    z = fill_by_loop(z)
    corners = [
        block[block != 0].mean(dtype=np.float64)
        for block in (z[:2, :2], z[:2, -2:], z[-2:, :2], z[-2:, -2:])
    ]
    plane = F.interpolate(
        torch.tensor(corners).reshape(1, 1, 2, 2),
        size=z.shape,
        mode="bilinear",
        align_corners=True,
    )[0, 0].numpy()
    foreground = (np.abs(z - plane) > depth.DEFAULT.foreground_distance) & (z != 0)
    mean = z[foreground].mean()
    relative = (np.where(foreground, z, mean) - mean) * depth.DEPTH_SCALE
    both = torch.from_numpy(np.stack([relative, foreground]).astype(np.float32))
    both = F.interpolate(both[None], size=2 * [8 * side], mode="bilinear")
    # An 8×8 box whose output pixel i sees inputs i − 3 … i + 4.
    dilated = F.max_pool2d(F.pad((both[:, 1:] > 0).float(), (3, 4, 3, 4)), 8, stride=1)
    weight = F.interpolate(dilated, size=2 * [side], mode="bilinear")
    channels = F.pixel_unshuffle(both[:, :1], 8)[0].permute(1, 2, 0)
    return channels.numpy(), weight[0, 0].numpy()


def seconds(function, z: np.ndarray) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    function(z, SIDE)
    return time.perf_counter() - start


def main(_: list[str]) -> None:
    """Checks that the two agree, times them in turn, prints medians and the ratio."""
    torch.set_num_threads(1)
    z = cloud()
    pairs = zip(
        preprocess_by_loop(z, SIDE), depth.preprocess_depth(z, SIDE), strict=True
    )
    for loop, ours in pairs:
        np.testing.assert_allclose(ours, loop, rtol=0, atol=1e-4 * np.abs(loop).max())
    tracemalloc.start()
    depth.preprocess_depth(z, SIDE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ours, loop = [], []
    for _ in range(3 if QUICK.value else 10):
        loop.append(seconds(preprocess_by_loop, z))
        ours.extend(seconds(depth.preprocess_depth, z) for _ in range(10))
    ours_s, torch_s = float(np.median(ours)), float(np.median(loop))
    print(f"{np.mean(z == 0):.0%} of {z.shape} pixels are missing")
    print(f"loop {torch_s * 1e3:.0f} ms, ours {ours_s * 1e3:.1f} ms a cloud")
    figures = {
        "ours_s": ours_s,
        "torch_s": torch_s,
        "ratio": torch_s / ours_s,
        "roof_share": None,  # it has almost no matrix products
        "peak_mb": peak / 1e6,
        "quick": QUICK.value,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    app.run(main)
