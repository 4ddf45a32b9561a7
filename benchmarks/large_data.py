"""Memory of a run on many images of one category: python -m benchmarks.large_data

Writes 20,000 parts once (64×64 depth maps, 0.33 GB), then trains and evaluates tiny
networks on maps of 24×24 positions, the paper's, in a process whose memory is watched.
With depth alone, whose 64 channels need no backbone, the network inputs take 3 GB and
the teacher's outputs as much again: more than may be resident.

Anonymous memory belongs to the process; the rest of the resident memory is mapped
files, whose pages the kernel can free.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

SIZE = 64  # pixels
GIGABYTE = 1e9
_TEST_SHARE = 20  # every so many-th part is a test image, half of those defective


def write_parts(root: Path, count: int) -> None:
    """A category in the layout of `configs/folder.py`; existing files are kept."""
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = np.hypot(y - SIZE / 2, x - SIZE / 2) < 0.4 * SIZE
    for number in tqdm(range(count), "writing parts", disable=None):
        testing, bad = number % _TEST_SHARE == 0, number % (2 * _TEST_SHARE) == 0
        folder = root / "good"
        if testing:
            folder = root / "test" / ("dent" if bad else "good")
        path = folder / "xyz" / f"{number:05d}.npy"
        if path.exists():
            continue
        rng = np.random.default_rng(number)
        z = np.where(disc, 0.45, 0.5) + rng.normal(0, 2e-4, disc.shape)
        defect = np.zeros(disc.shape, bool)
        if bad:
            row, column = rng.integers(20, 36, 2)
            defect[row : row + 8, column : column + 8] = True
            mask = root / "masks" / "dent" / f"{number:05d}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(defect).save(mask)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, (z + 0.01 * defect).astype(np.float32))


def command(root: Path, folder: Path, batch_size: int) -> list[str]:
    """Trains and evaluates tiny networks for an epoch each."""
    settings = {
        "mode": "3d",
        "dataset.root": root,
        "dataset.data_dir": folder / "cache",
        "dataset.image_size": 768,
        "teacher.blocks": 1,
        "teacher.hidden": 4,
        "teacher.epochs": 1,
        "student.blocks": 1,
        "student.width": 8,
        "student.epochs": 1,
        "train.batch_size": batch_size,
        "calibration.fraction": 0.05,
    }
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    script = [sys.executable, "train.py", "--config=configs/folder.py:ast"]
    return [*script, f"--workdir={folder / 'run'}", *flags]


def memory(process: int) -> dict[str, float]:
    """A process's memory in GB (Linux): resident, the most so far, and anonymous."""
    status = Path(f"/proc/{process}/status").read_text()
    lines = (line.split() for line in status.splitlines())
    fields = {words[0]: words[1] for words in lines if len(words) > 1}
    return {
        name: int(fields.get(f"{key}:", 0)) * 1024 / GIGABYTE
        for name, key in (("peak", "VmHWM"), ("anonymous", "RssAnon"))
    }


def run_and_watch(command: list[str]) -> tuple[float, float, float]:
    """Runs a command; returns its seconds, peak resident and peak anonymous GB.

    Raises:
      CalledProcessError: it failed.
    """
    start = time.perf_counter()
    peak = anonymous = 0.0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            now = memory(process.pid)
            peak, anonymous = max(peak, now["peak"]), max(anonymous, now["anonymous"])
            time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - start, peak, anonymous


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/large_data"))
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch_size", type=int, default=64)
    arguments = parser.parse_args()
    root = arguments.folder / f"parts_{arguments.images}"
    write_parts(root, arguments.images)
    line = command(root, arguments.folder, arguments.batch_size)
    seconds, peak, anonymous = run_and_watch(line)
    array = arguments.images * 24 * 24 * 65 * 4 / GIGABYTE
    print(
        f"{arguments.images} images, inputs of {array:.2f} GB: {seconds:.0f} s, "
        f"peak resident {peak:.2f} GB, of it anonymous {anonymous:.2f} GB"
    )


if __name__ == "__main__":
    main()
