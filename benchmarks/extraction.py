"""Peak memory while a folder of many large pictures is listed and extracted (Linux).

    python -m benchmarks.extraction --files=3000 [--folder=DIR]

Writes JPEG files of 4 megapixels, each with another content and all of one size, opens
them as `train.py` does, and extracts scattering features at 64 pixels. Then it lists
10,000 links to a small picture. The last line is JSON.
"""

import os
import tempfile
import threading
import time
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

from ast_jax.config import default
from ast_jax.features.category import Category, open_categories
from benchmarks.common import peak_mb, report
from benchmarks.pictures import encode, picture

_FILES = flags.DEFINE_integer("files", 3000, "To extract.")
_LINKS = flags.DEFINE_integer("links", 10_000, "To list.")
_FOLDER = flags.DEFINE_string("folder", None, "For a temporary folder.")


def write_pictures(folder: Path, count: int) -> None:
    """Writes pictures that differ in the bytes behind the end of the image."""
    folder.mkdir(parents=True)
    content = encode(picture(0), "jpeg", quality=50)
    for number in range(count):
        path = folder / f"{number:05d}.jpg"
        path.write_bytes(content + number.to_bytes(8, "little"))


def link_pictures(source: Path, folder: Path, count: int) -> None:
    """Makes links to one file."""
    folder.mkdir(parents=True)
    for number in range(count):
        os.link(source, folder / f"{number:05d}.jpg")


def configure(root: Path, data_dir: Path) -> ConfigDict:
    """The configuration of a folder of good pictures, with the smallest features."""
    config = default()
    config.mode, config.backbone.name = "rgb", "scattering"
    config.dataset.update(name="folder", root=str(root), image_size=64)
    config.dataset.data_dir = str(data_dir)
    return config


def watch_extraction(category: Category, folder: Path) -> dict[str, float]:
    """Extracts all features; peak megabytes at a tenth, a third and the end."""
    count, peaks = len(category.parts["train"]), {"before": peak_mb()}
    worker = threading.Thread(target=category.inputs, args=("train",))
    worker.start()
    for mark in (count // 10, count // 3):
        while worker.is_alive() and len(list(folder.rglob("*.npy"))) < mark:
            time.sleep(0.2)
        peaks[str(mark)] = peak_mb()
        print(f"{mark} pictures, peak {peaks[str(mark)]:.0f} MB", flush=True)
    worker.join()
    done = len(list(folder.rglob("*.npy")))
    if done != count:
        raise SystemExit(f"{done} of {count} pictures have features.")
    return peaks | {str(count): peak_mb()}


def main(_: list[str]) -> None:
    """Measures."""
    found = {}
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as temporary:
        folder = Path(temporary)
        write_pictures(folder / "parts" / "good", _FILES.value)
        small = folder / "small.jpg"  # now, because drawing it takes memory
        small.write_bytes(encode(picture(0).resize((64, 48)), "jpeg"))
        start = time.perf_counter()
        (category,) = open_categories(configure(folder / "parts", folder / "cache"))
        found["open_s"] = time.perf_counter() - start
        start = time.perf_counter()
        found["peak_mb"] = watch_extraction(category, folder / "cache" / "features")
        found["extract_s"] = time.perf_counter() - start
        link_pictures(small, folder / "links" / "good", _LINKS.value)
        start = time.perf_counter()
        (category,) = open_categories(configure(folder / "links", folder / "cache"))
        found["links"] = len(category.parts["train"])
        found["links_open_s"] = time.perf_counter() - start
        found["links_peak_mb"] = peak_mb()
    report(found)


if __name__ == "__main__":
    app.run(main)
