"""The number of bits of a camera is estimated once, and kept for later images."""

import re
from pathlib import Path

import layouts
import numpy as np
import pytest
from absl import logging
from stand_ins import config

from ast_jax import data
from ast_jax.errors import UserError
from ast_jax.inference import read_part


def deep(seed: int, bits: int, **options) -> np.ndarray:
    """A grey picture of which the brightest pixels fill all bits."""
    grey = layouts.picture(seed, **options)[..., 0].astype(int)
    return (grey * ((1 << bits) - 1) // grey.max()).astype(np.uint16)


def folder(tmp_path: Path, bits: int, test_bits: int | None = None):
    root = tmp_path / "bolts"
    for number in range(4):
        # Single pictures are darker: only all of them together show the bits.
        pixels = deep(number, bits) // (1 if number == 2 else 8)
        layouts.save(root / "good" / f"{number}.png", pixels)
    layouts.save(root / "test" / "good" / "0.png", deep(9, test_bits or bits))
    return config("folder", tmp_path, root=str(root))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_bits_are_estimated_over_all_training_images_and_said(
    bits, tmp_path, caplog
):
    logging.get_absl_logger().propagate = True
    caplog.set_level("INFO", "absl")
    dataset = folder(tmp_path, bits)
    for _ in range(2):  # prepared, and opened again
        caplog.clear()
        parts = data.load(dataset, "bolts", mode="rgb")
        assert f"read as {bits} bits" in caplog.text
        assert {split.bit_depth for split in parts.values() if len(split)} == {bits}
        image = parts["test"][0].image[..., 0]
        np.testing.assert_array_equal(image, deep(9, bits) >> (bits - 8))
        assert parts["train"].subset([1])[0].image.max() == 255 // 8


def test_pictures_of_eight_bits_have_nothing_to_say(tmp_path, caplog):
    caplog.set_level("INFO", "absl")
    root = layouts.folder(tmp_path / "bolts")
    dataset = config("folder", tmp_path, root=str(root))
    parts = data.load(dataset, "bolts", mode="rgb")
    assert parts["train"].bit_depth == 16
    assert "read as" not in caplog.text


def test_the_configuration_or_the_run_says_otherwise(tmp_path):
    dataset = folder(tmp_path, 10)
    estimated = data.load(dataset, "bolts", mode="rgb")["train"][0].image
    dataset.bit_depth = 12
    for options, bits in (({}, 12), ({"bit_depth": 14}, 14)):
        parts = data.load(dataset, "bolts", mode="rgb", **options)["train"]
        assert parts.bit_depth == bits
        np.testing.assert_array_equal(parts[0].image, estimated >> (bits - 10))


def test_a_later_image_with_more_bits_is_named(tmp_path):
    dataset = folder(tmp_path, 10, test_bits=12)
    path = Path(dataset.root, "test", "good", "0.png")
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: .*bit_depth=12"):
        data.load(dataset, "bolts", mode="rgb")
    with pytest.raises(UserError, match=r"image: .*4095.*bit_depth=12"):
        read_part.decode("rgb", deep(9, 12), None, bit_depth=10)


def test_arrays_and_files_of_a_part_are_read_with_the_runs_bits(tmp_path):
    pixels = deep(0, 12)
    path = layouts.save(tmp_path / "a.png", pixels)
    expected = np.repeat((pixels >> 4).astype(np.uint8)[..., None], 3, axis=-1)
    for image in (path, str(path), pixels, pixels.astype(">u2"), pixels[..., None]):
        part = read_part.decode("rgb", image, None, bit_depth=12)
        np.testing.assert_array_equal(part.image, expected)
