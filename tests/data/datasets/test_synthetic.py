"""The synthetic data set: what shows where, that it is reproducible, its builder."""

import numpy as np
import pytest
from scipy import ndimage

from ast_jax.data.datasets.synthetic import SIZE, Synthetic, plan, render
from ast_jax.data.depth import background_plane, fill_missing, foreground_mask
from ast_jax.data.synthetic.defects import DEFECTS
from ast_jax.data.synthetic.rendering import FIELD, noise
from ast_jax.data.synthetic.shapes import CATEGORIES
from ast_jax.errors import UserError

SMALL = 128
ONLY_RGB = [name for name, defect in DEFECTS.items() if defect.shows == {"rgb"}]
ONLY_3D = [name for name, defect in DEFECTS.items() if defect.shows == {"3d"}]
BOTH = [name for name, defect in DEFECTS.items() if defect.shows == {"rgb", "3d"}]

each_category = pytest.mark.parametrize("category", CATEGORIES)


def test_there_are_categories_and_defects_of_every_kind():
    assert len(CATEGORIES) >= 3
    assert ONLY_RGB and ONLY_3D and BOTH


def test_plan_numbers_are_unique_in_a_split_and_training_is_good():
    ids = plan(5, 3, 2)
    assert len(ids) == 5 + 3 + 2 * len(DEFECTS)
    assert len({tuple(i.split("/")[::2]) for i in ids}) == len(ids)
    assert {i.split("/")[1] for i in ids if i.startswith("train")} == {"good"}


@each_category
def test_rendering_depends_on_seed_category_and_id_alone(category):
    first = render(category, 3, "test/hole/004", SMALL)
    render(category, 3, "test/hole/005", SMALL)
    again = render(category, 3, "test/hole/004", SMALL)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.z, again.z)
    np.testing.assert_array_equal(first.mask, again.mask)
    for seed, part_id in [(4, "test/hole/004"), (3, "test/hole/005")]:
        other = render(category, seed, part_id, SMALL)
        assert (other.image != first.image).any() and (other.z != first.z).any()
    train = render(category, 3, "train/good/004", SMALL)
    assert (train.image != render(category, 3, "test/good/004", SMALL).image).any()


@each_category
@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_shows_in_its_modalities_alone(category, defect):
    good = render(category, 0, "test/good/007", SMALL)
    bad = render(category, 0, f"test/{defect}/007", SMALL)
    shows = DEFECTS[defect].shows
    assert (bad.image != good.image).any() == ("rgb" in shows)
    assert (bad.z != good.z).any() == ("3d" in shows)
    assert bad.anomalous and not good.anomalous and not good.mask.any()


@each_category
@pytest.mark.parametrize("defect", DEFECTS)
def test_mask_covers_the_change_and_lies_on_the_part(category, defect):
    for number in range(3):
        good = render(category, 0, f"test/good/{number:03d}", SMALL)
        bad = render(category, 0, f"test/{defect}/{number:03d}", SMALL)
        assert bad.mask.sum() * (FIELD / SMALL) ** 2 > 15  # square millimetres
        assert not (bad.mask & ~ndimage.binary_dilation(_foreground(good))).any()
        change = _change(good, bad)
        assert change[bad.mask].mean() > 5 * change[~bad.mask].mean()


def _change(good, bad):
    """How far image (in grey levels) and depth (in tenths of a millimetre) moved."""
    colour = np.abs(bad.image.astype(float) - good.image).max(-1)
    present = (good.z > 0) & (bad.z > 0)
    return colour + np.where(present, np.abs(bad.z - good.z) * 1e4, 0)


def _foreground(part):
    """The part itself, by docs/method.md's corner plane, its gaps closed."""
    z = fill_missing(part.z)
    found = foreground_mask(z, background_plane(z))
    return ndimage.binary_closing(found, iterations=2)


@each_category
def test_foreground_is_the_part_and_nothing_else(category):
    for number in range(4):
        part = render(category, 1, f"train/good/{number:03d}", SMALL)
        foreground = _foreground(part)
        labels, _ = ndimage.label(foreground)
        share = np.bincount(labels.ravel())[1:].max() / foreground.sum()
        assert share > 0.99  # one piece
        assert 0.1 < foreground.mean() < 0.5
        border = np.ones_like(foreground)
        border[2:-2, 2:-2] = False
        assert not foreground[border].any()


@each_category
def test_depth_is_metres_with_some_pixels_missing(category):
    z = render(category, 0, "train/good/000").z
    assert z.dtype == np.float32 and z.shape == (SIZE, SIZE)
    assert 0.005 < (z == 0).mean() < 0.2
    assert 0.3 < z[z > 0].min() < z.max() < 0.6


@pytest.mark.parametrize(("scale", "slope"), [(2.0, 1.5), (8.0, 3.0)])
def test_noise_has_variance_one(scale, slope):
    rng = np.random.default_rng(0)
    draws = np.stack([noise(rng, 64, scale, slope) for _ in range(50)])
    np.testing.assert_allclose(draws.var(), 1, rtol=0.1)
    np.testing.assert_allclose(draws.mean(), 0, atol=1e-6)


def _small(monkeypatch):
    ids = plan(2, 1, 1)
    monkeypatch.setattr("ast_jax.data.datasets.synthetic.plan", lambda: ids)
    return ids


def test_builder_gives_back_what_was_drawn(monkeypatch, tmp_path):
    ids = _small(monkeypatch)
    builder = Synthetic(category="bolt", data_dir=tmp_path, seed=5, depth=True)
    builder.prepare()
    parts = [part for split in ("train", "test") for part in builder.parts(split)]
    assert tuple(part.id for part in parts) == ids
    for part in (parts[0], parts[-1]):
        drawn = render("bolt", 5, part.id)
        np.testing.assert_array_equal(part.image, drawn.image)
        np.testing.assert_array_equal(part.z, drawn.z)
        np.testing.assert_array_equal(part.mask, drawn.mask)


def test_builder_keeps_seeds_apart_and_leaves_depth_out_of_mode_rgb(
    monkeypatch, tmp_path
):
    _small(monkeypatch)
    builders = [
        Synthetic(category="bolt", data_dir=tmp_path, seed=seed) for seed in (0, 1)
    ]
    for builder in builders:
        builder.prepare()
    first, second = (builder.parts("train") for builder in builders)
    assert first[0].z is None
    assert first.fingerprint != second.fingerprint


def test_unknown_category_is_refused_with_the_near_match(tmp_path):
    with pytest.raises(UserError, match="flange"):
        Synthetic(category="flanges", data_dir=tmp_path)
