"""A full or read-only disk below the caches: one line, and nothing half-written."""

import layouts
import numpy as np
import pytest
import tifffile
from small_disk import fill, make_read_only, mounted

from ast_jax import data
from ast_jax.config import default
from ast_jax.errors import UserError
from ast_jax.features import cache
from ast_jax.features.extract import extract

KIND = cache.Kind("rgb", "image", (50, 50), "float32", {})  # 10 kB a part


def array(number):
    return np.full(KIND.shape, number, np.float32)


@pytest.fixture
def disk(tmp_path):
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, "1m"):
        yield folder


@pytest.fixture
def config(tmp_path):
    root = layouts.mvtec_3d_ad(tmp_path / "data", "bagel")
    config = default()
    config.dataset.update(name="mvtec_3d_ad", root=str(root), image_size=64)
    return config


def prepared(config, data_dir):
    config.dataset.data_dir = str(data_dir)
    return data.load(config.dataset, "bagel", mode="3d")


def features(parts, cache_dir):
    options = {"mode": "3d", "image_size": 64, "backbone": None}
    return extract(parts, cache_dir=cache_dir, **options)


def test_a_disk_that_another_process_fills_is_one_line_and_leaves_nothing(disk):
    store = cache.Store(disk / "features", KIND)
    store.write("0", array(0))
    fill(disk, leave=4096)
    with pytest.raises(UserError, match=r"No space left on device.*dataset\.data_dir"):
        store.write("1", array(1))
    assert list(store.folder.iterdir()) == [store.path("0")]
    (disk / "filler").unlink()
    store.write("1", array(1))
    assert store.find_missing(["0", "1"]) == []


def test_a_disk_too_small_is_noticed_before_anything_is_computed(disk):
    fill(disk, leave=100_000)
    with pytest.raises(UserError, match=r"need 0.00 GB and 0.00 GB are free"):
        cache.Store(disk / "features", KIND).require_room(40)


def test_prepared_data_on_a_full_disk_are_one_line_and_leave_nothing(disk, config):
    fill(disk, leave=4096)
    with pytest.raises(UserError, match=r"cannot be written.*dataset\.data_dir") as e:
        prepared(config, disk / "cache")
    assert "\n" not in str(e.value)
    (disk / "filler").unlink()
    assert len(prepared(config, disk / "cache")["train"]) == 6


def test_prepared_data_on_a_read_only_disk(disk, config):
    before = prepared(config, disk / "cache")["train"].ids
    stored = features(prepared(config, disk / "cache")["train"], disk / "features")
    make_read_only(disk)
    parts = prepared(config, disk / "cache")["train"]
    assert parts.ids == before
    again = features(parts, disk / "features")
    np.testing.assert_array_equal(again.depth, stored.depth)
    with pytest.raises(UserError, match=r"Read-only file system.*dataset\.data_dir"):
        prepared(config, disk / "other")


def test_a_value_that_is_no_number_is_caught_where_it_enters(tmp_path, config):
    """NaN means "missing" for scanners; infinity is an error that names the file."""
    good = tmp_path / "data" / "bagel" / "train" / "good" / "xyz"
    for name, value in (("000.tiff", np.nan), ("001.tiff", np.inf)):
        points = tifffile.imread(good / name)
        points[20:24, 20:24, 2] = value
        tifffile.imwrite(good / name, points, photometric="rgb")
    with pytest.raises(UserError, match=r"good/xyz/001\.tiff: 16 of .* are infinite"):
        prepared(config, tmp_path / "cache")
    layouts.save(good / "001.tiff", layouts.cloud(1))
    parts = prepared(config, tmp_path / "cache")["train"]
    assert np.isfinite(features(parts, tmp_path / "features").depth).all()
