"""The cost of each step from a picture to the backbone's input, and peak memory.

    python -m benchmarks.pictures [--quick] [--pictures=10000]

Pictures of a camera with 4 megapixels, JPEG and PNG, of noise, edges and gradients.
Times are a core's; all parts run in threads side by side. Decoders of other libraries
are tried where they are installed (opencv-python-headless, simplejpeg, imagecodecs,
pyvips), and held against our pixels. With `--pictures` so many links to a few files are
prepared for the network, and the peak memory is told on the way. The last line is JSON.
"""

import importlib.util
import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
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
    """A lit, grainy surface with objects."""
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


def encode(image: Image.Image, kind: str, **options: int) -> bytes:
    """The picture as a file's bytes; other options replace those of `KINDS`."""
    buffer = io.BytesIO()
    image.save(buffer, kind.upper(), **{**KINDS[kind], **options})
    return buffer.getvalue()


def decoders(kind: str) -> Iterator[tuple[str, Decode]]:
    """Our decoder, and those of other installed libraries, for one kind of file."""
    yield "Pillow", decode_image

    def is_installed(name: str) -> bool:
        return importlib.util.find_spec(name) is not None

    if is_installed("cv2"):
        import cv2

        cv2.setNumThreads(1)
        yield (
            "OpenCV",
            lambda content: cv2.cvtColor(
                cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR),
                cv2.COLOR_BGR2RGB,
            ),
        )
    if is_installed("imagecodecs"):
        import imagecodecs

        yield "imagecodecs", getattr(imagecodecs, f"{kind}_decode")
    if is_installed("simplejpeg") and kind == "jpeg":
        import simplejpeg

        yield "simplejpeg", simplejpeg.decode_jpeg
    if is_installed("pyvips"):
        import pyvips

        logging.getLogger("pyvips").setLevel(logging.WARNING)
        yield (
            "pyvips",
            lambda content: pyvips.Image.new_from_buffer(content, "").numpy(),
        )


def core_ms(function: Callable, item: object, repeats: int) -> float:
    """Milliseconds of one core for one call, independent of other work."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function(item)
        times.append(time.process_time() - start)
    return float(np.median(times)) * 1e3


def costs(repeats: int) -> dict[str, dict[str, float]]:
    """Part → "core_ms", and of decoders the largest "difference" from our pixels."""
    found: dict[str, dict[str, float]] = {}
    image = picture(0)
    for kind in KINDS:
        content = encode(image, kind)
        right = decode_image(content).astype(int)
        for name, decode in decoders(kind):
            difference = np.abs(decode(content).astype(int) - right).max()
            found[f"{kind} decode, {name}"] = {
                "core_ms": core_ms(decode, content, repeats),
                "difference": float(difference),
            }
    pixels, z = np.asarray(image), cloud()
    resize, process = f"resize to {NETWORK_SIZE}", "3D of a cloud, 400 by 400"
    found[resize] = {
        "core_ms": core_ms(lambda p: resize_image(p, NETWORK_SIZE), pixels, repeats)
    }
    found[process] = {
        "core_ms": core_ms(lambda z: depth.preprocess_depth(z, 24), z, repeats)
    }
    return found


def memory(count: int) -> list[tuple[int, float]]:
    """Peak megabytes after so many pictures of a list of `count`."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for kind in KINDS:
            for seed in range(2):
                path = Path(folder, f"{seed}.{kind}")
                path.write_bytes(encode(picture(seed), kind))
                files.append(path)
        links = []
        for number in range(count):
            links.append(Path(folder, f"link{number}"))
            os.link(files[number % len(files)], links[-1])
        told, done = [], 0
        pictures = batches(
            lambda path: resize_image(decode_image(path), NETWORK_SIZE), links, 8
        )
        for batch in pictures:
            np.stack(batch)
            done += len(batch)
            if done % max(8, count // 10 // 8 * 8) == 0:
                told.append((done, peak_mb()))
                print(f"{done} pictures, peak {told[-1][1]:.0f} MB", flush=True)
    return told


def main(_: list[str]) -> None:
    """Prints the table and the figures."""
    # First, because the parts' own arrays would be the peak.
    peaks = memory(_PICTURES.value) if _PICTURES.value else []
    found = costs(5 if QUICK.value else 25)
    print("| part | ms of a core | pictures/s, two cores | difference |")
    for name, figures in found.items():
        spent, difference = figures["core_ms"], figures.get("difference", "")
        print(f"| {name} | {spent:.3g} | {2000 / spent:.3g} | {difference} |")
    print(json.dumps({"parts": found, "peak_mb": peaks, "threads": WORKERS}))


if __name__ == "__main__":
    app.run(main)
