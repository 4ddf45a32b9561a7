import base64
import dataclasses
import io

import numpy as np
import pytest
from fabricated import part
from PIL import Image

from ast_jax.inference.colours import ColourScale, depth_picture
from ast_jax.report import pictures

DEFECTIVE, GOOD = part("test/bent/000", "bent"), part("test/good/000", "good")


def decoded(uri: str) -> Image.Image:
    kind, _, data = uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/webp")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def positions(part=DEFECTIVE) -> dict[str, np.ndarray]:
    size = pictures.thumbnail_size(part.size)
    return {name: np.full(size, 0.5) for name in ("student", "teacher", "combined")}


def test_the_pixel_threshold_is_half_way_up_the_colour_scale():
    maps = np.random.default_rng(0).random((5, 4, 4))
    scale = ColourScale.of(maps, maps.max((1, 2)), 3.0)
    assert scale.calibrated
    assert scale.position(np.array([[scale.low, 3.0, 1e9, -1e9]])).tolist() == [
        [0, 0.5, 1, 0]
    ]


def test_without_a_threshold_most_good_images_stay_in_the_lower_half():
    maps = np.random.default_rng(0).random((100, 4, 4))
    scale = ColourScale.of(maps, maps.max((1, 2)), None)
    above = [scale.position(score_map).max() > 0.5 for score_map in maps]
    assert not scale.calibrated and sum(above) == 5


@pytest.mark.parametrize("constant", [0.0, -1e6])
def test_constant_maps_have_a_colour(constant):
    maps = np.full((2, 3, 3), constant)
    position = ColourScale.of(maps, maps.max((1, 2)), None).position(maps[0])
    assert np.isfinite(position).all()


def test_pictures_come_in_the_order_of_the_views():
    assert list(pictures.pictures(DEFECTIVE, positions())) == list(pictures.VIEWS)


@pytest.mark.parametrize(
    ("lacking", "view"), [("image", "input"), ("z", "depth"), ("masks", "truth")]
)
def test_what_a_part_lacks_is_left_out(lacking, view):
    less = dataclasses.replace(DEFECTIVE, **{lacking: None})
    views = pictures.pictures(less, positions())
    assert view not in views and len(views) == len(pictures.VIEWS) - 1


def test_large_parts_shrink_with_their_shape_and_small_ones_stay():
    assert pictures.thumbnail_size((800, 1600)) == (200, 400)
    assert pictures.thumbnail_size((48, 64)) == (48, 64)
    assert pictures.thumbnail_size((4000, 1)) == (400, 1)


def test_the_smallest_defect_is_seen_in_the_thumbnail():
    mask = np.zeros((1600, 1600), bool)
    mask[801, 803] = True
    large = dataclasses.replace(
        DEFECTIVE, image=np.zeros((1600, 1600, 3), np.uint8), z=None, masks=(mask,)
    )
    truth = pictures.pictures(large, {})["truth"]
    assert np.asarray(truth).max() == 255


def test_depth_shows_near_bright_and_missing_grey():
    picture = depth_picture(GOOD.z)
    luminance = picture.astype(int).sum(-1)
    assert luminance[24, 32] > luminance[2, 60]
    empty = depth_picture(np.zeros_like(GOOD.z))
    assert (empty == empty[0, 0]).all()


def test_depth_that_is_not_finite_counts_as_missing():
    z = GOOD.z.copy()
    z[10:30, 10:30] = np.nan
    assert (depth_picture(z)[20, 20] == depth_picture(0 * GOOD.z)[0, 0]).all()


def test_data_uris_hold_the_pictures_and_an_outline_around_the_defect():
    uris = pictures.data_uris(DEFECTIVE, pictures.pictures(DEFECTIVE, positions()))
    assert {decoded(uri).size for uri in uris.values()} == {(64, 48)}
    alpha = np.asarray(decoded(uris["outline"]).convert("RGBA"))[..., 3] > 0
    assert alpha.any() and not (alpha & DEFECTIVE.mask).any()
    truth = np.asarray(decoded(uris["truth"]))
    np.testing.assert_array_equal(truth, DEFECTIVE.mask)


def test_a_good_part_has_no_outline():
    assert "outline" not in pictures.data_uris(
        GOOD, pictures.pictures(GOOD, positions())
    )


def test_a_strip_holds_all_pictures_side_by_side():
    views = pictures.pictures(DEFECTIVE, positions())
    sheet = pictures.strip("a title, 標題", views)
    assert sheet.width >= len(views) * 64 and sheet.height > 48
