"""Paths, pictures and arrays become a folder, which is read back unchanged."""

import layouts
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from ast_jax import data
from ast_jax.data.write_parts import write_parts
from ast_jax.errors import UserError


def read_back(root, tmp_path, mode: str):
    config = ConfigDict(
        {"name": "folder", "root": str(root), "data_dir": str(tmp_path / "prepared")}
    )
    return data.load(config, "parts", mode=mode)["train"]


def test_every_kind_of_image_reads_back_in_order(tmp_path):
    pixels = [layouts.picture(seed) for seed in range(6)]
    images = [
        layouts.save(tmp_path / "a" / "1.png", pixels[0]),
        str(layouts.save(tmp_path / "b" / "1.png", pixels[1])),  # the same stem
        pixels[2],
        Image.fromarray(pixels[3]),
        np.dstack([pixels[4], pixels[4][..., :1]]),  # with alpha
        pixels[5][..., 0],
    ]
    write_parts(tmp_path / "parts", images, None)
    parts = read_back(tmp_path / "parts", tmp_path, "rgb")
    assert len(parts) == 6
    # Grey becomes RGB; rows are read in the order of their ids.
    expected = {pixels[i].tobytes() for i in range(5)}
    grey = np.repeat(pixels[5][..., :1], 3, axis=-1)
    assert {part.image.tobytes() for part in parts} == expected | {grey.tobytes()}


@pytest.mark.parametrize("with_images", [True, False])
def test_point_clouds_pair_with_images_by_place(tmp_path, with_images):
    clouds = np.stack([layouts.cloud(seed) for seed in range(3)])
    images = np.stack([layouts.picture(seed) for seed in range(3)])
    root = tmp_path / "parts"
    write_parts(root, images if with_images else None, clouds)
    parts = read_back(root, tmp_path, "rgb3d" if with_images else "3d")
    for part, image, cloud in zip(parts, images, clouds, strict=True):
        np.testing.assert_array_equal(part.z, cloud[..., 2])
        if with_images:
            np.testing.assert_array_equal(part.image, image)


def test_the_same_parts_again_change_nothing_and_others_are_refused(tmp_path):
    root, images = tmp_path / "parts", [layouts.picture(seed) for seed in range(2)]
    write_parts(root, images, None)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    write_parts(root, images, None)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    for others in (images[:1], images[::-1]):
        with pytest.raises(UserError, match=str(root)):
            write_parts(root, others, None)
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


@pytest.mark.parametrize(
    ("images", "xyz", "named"),
    [
        ([], None, "0"),
        (None, None, "no images"),
        ([layouts.picture(0)], [layouts.cloud(0)] * 2, "1 and 2"),
        ([np.zeros((4, 4, 2), np.uint8)], None, "image 0"),
        ([layouts.picture(0), np.zeros((4, 4))], None, "image 1: got float64"),
        (np.zeros((3, 0, 4), np.uint8), None, "image 0"),
    ],
)
def test_what_are_no_parts_is_a_user_error(tmp_path, images, xyz, named):
    with pytest.raises(UserError, match=named):
        write_parts(tmp_path / "parts", images, xyz)
    assert not any(tmp_path.iterdir())
