"""From pictures to a backbone's door: pictures a second by part, and peak memory.

    python -m benchmarks.pictures [--quick] [--pictures=10000]

Pictures of a camera with 4 megapixels, JPEG and PNG, of noise, edges and gradients, on
as many threads as the extraction has. Decoders of other libraries are tried where they
are installed (opencv-python-headless, simplejpeg, imagecodecs, pyvips), and held
against the pixels that Pillow gives. With `--pictures` so many links to a few files are
prepared for the network, and the peak memory is told on the way. The last line is JSON.
"""

import importlib.util
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw

from ast_jax.data import depth
from ast_jax.data.decode import decode_image, resize_image
from ast_jax.features.prefetch import WORKERS, batches
from benchmarks.common import peak_mb
from benchmarks.preprocessing import QUICK, cloud

_PICTURES = flags.DEFINE_integer("pictures", 0, "To prepare for the memory's sake.")
SIZE = (2288, 1712)  # 3.9 megapixels
NETWORK_SIZE = 768
KINDS = {"jpeg": {"quality": 90}, "png": {"compress_level": 6}}
Decode = Callable[[bytes], np.ndarray]


def picture(seed: int) -> Image.Image:
    """A lit, grainy surface with things on it."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    light = np.add.outer(np.linspace(60, 140, height), np.linspace(0, 60, width))
    grain = rng.normal(0, 4, (height, width))
    pixels = (light + grain)[..., None] * np.array([1.0, 0.95, 0.85])
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, size = rng.uniform((0, 0, 20), (width, height, 300))
        colour = tuple(rng.integers(0, 256, 3).tolist())
        draw.ellipse((x, y, x + size, y + size / 2), fill=colour)
    return image


def encoded(image: Image.Image, kind: str) -> bytes:
    """The picture as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind.upper(), **KINDS[kind])
    return buffer.getvalue()


def decoders(kind: str) -> Iterator[tuple[str, Decode]]:
    """Ours, and what the other libraries that are installed have for this kind."""
    yield "Pillow", decode_image

    def installed(name: str) -> bool:
        return importlib.util.find_spec(name) is not None

    if installed("cv2"):
        import cv2

        cv2.setNumThreads(1)
        yield (
            "OpenCV",
            lambda content: cv2.cvtColor(
                cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR),
                cv2.COLOR_BGR2RGB,
            ),
        )
    if installed("imagecodecs"):
        import imagecodecs

        yield "imagecodecs", getattr(imagecodecs, f"{kind}_decode")
    if installed("simplejpeg") and kind == "jpeg":
        import simplejpeg

        yield "simplejpeg", simplejpeg.decode_jpeg
    if installed("pyvips"):
        import pyvips

        yield (
            "pyvips",
            lambda content: pyvips.Image.new_from_buffer(content, "").numpy(),
        )


def rate(function: Callable, items: list) -> float:
    """Items a second, in as many threads as the extraction has."""
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(function, items[:WORKERS]))
        start = time.perf_counter()
        list(pool.map(function, items))
        return len(items) / (time.perf_counter() - start)


def rates(rounds: int, repeats: int) -> dict[str, dict[str, float]]:
    """Part → {"pictures_s", "difference"}; the decoders of a kind take turns."""
    found: dict[str, dict[str, float]] = {}
    image = picture(0)
    for kind in KINDS:
        content = encoded(image, kind)
        known = dict(decoders(kind))
        right = known["Pillow"](content).astype(int)
        times = {name: [] for name in known}
        for _ in range(rounds):
            for name, decode in known.items():
                times[name].append(rate(decode, [content] * repeats))
        for name, decode in known.items():
            difference = np.abs(decode(content).astype(int) - right).max()
            found[f"{kind} decode, {name}"] = {
                "pictures_s": float(np.median(times[name])),
                "difference": float(difference),
            }
    pixels, z = np.asarray(image), cloud()
    parts = {
        f"resize to {NETWORK_SIZE}": (lambda p: resize_image(p, NETWORK_SIZE), pixels),
        "3D of a cloud, 400 by 400": (lambda z: depth.preprocess_depth(z, 24), z),
    }
    for name, (function, item) in parts.items():
        figures = [rate(function, [item] * repeats) for _ in range(rounds)]
        found[name] = {"pictures_s": float(np.median(figures))}
    return found


def memory(count: int) -> list[tuple[int, float]]:
    """Peak megabytes after so many pictures of a list of `count`."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for kind in KINDS:
            for seed in range(2):
                path = Path(folder, f"{seed}.{kind}")
                path.write_bytes(encoded(picture(seed), kind))
                files.append(path)
        links = []
        for number in range(count):
            links.append(Path(folder, f"link{number}"))
            os.link(files[number % len(files)], links[-1])
        told, done = [], 0
        prepared = batches(
            lambda path: resize_image(decode_image(path), NETWORK_SIZE), links, 8
        )
        for batch in prepared:
            np.stack(batch)
            done += len(batch)
            if done % max(8, count // 10 // 8 * 8) == 0:
                told.append((done, peak_mb()))
                print(f"{done} pictures, peak {told[-1][1]:.0f} MB", flush=True)
    return told


def main(_: list[str]) -> None:
    """Prints the table and the figures."""
    rounds, repeats = (2, 4) if QUICK.value else (5, 16)
    found = rates(rounds, repeats)
    print(
        "| part | pictures/s | largest difference from Pillow's pixels |\n|---|---|---|"
    )
    for name, figures in found.items():
        difference = figures.get("difference", "")
        print(f"| {name} | {figures['pictures_s']:.3g} | {difference} |")
    peaks = memory(_PICTURES.value) if _PICTURES.value else []
    print(json.dumps({"parts": found, "peak_mb": peaks, "threads": WORKERS}))


if __name__ == "__main__":
    app.run(main)
