"""A fault in the user's data is one line that names it."""

import os
from pathlib import Path

import layouts
import numpy as np
import pytest
from absl import logging
from stand_ins import MAKERS, config, make, nothing_is_left

from ast_jax import data
from ast_jax.errors import UserError


def test_missing_folder_gives_the_page_and_the_tree(tmp_path):
    for name in ("mvtec_3d_ad", "mvtec_ad", "visa", "mvtec_loco"):
        builder = data.builder_class(name)
        for root in ("", str(tmp_path / "nowhere"), str(tmp_path)):
            with pytest.raises(UserError) as error:
                data.categories(config(name, tmp_path, root=root))
            message = str(error.value)
            assert builder.HOMEPAGE in message
            assert builder.TREE in message
            assert root in message
            assert "\n" not in message


def test_category_for_a_root_names_the_root(tmp_path):
    dataset, category = make("mvtec_ad", tmp_path)
    dataset.root = str(Path(dataset.root, category))
    with pytest.raises(UserError, match=rf"root={tmp_path}/source$"):
        data.categories(dataset)


def test_unknown_category_names_the_near_match_and_all(tmp_path):
    dataset, _ = make("mvtec_ad", tmp_path)
    layouts.mvtec_ad(Path(dataset.root), "grid")
    dataset.categories = ("grid", "scrwe")
    with pytest.raises(
        UserError, match=r"'scrwe'.*did you mean 'screw'\? There are: grid, screw"
    ):
        data.categories(dataset)
    with pytest.raises(UserError, match=r"did you mean 'screw'"):
        data.load(dataset, "scrwe", mode="rgb")


def test_unknown_data_set_and_mode_name_the_near_match(tmp_path):
    with pytest.raises(UserError, match=r"'mvtec_3d_a'.*did you mean 'mvtec_3d_ad'"):
        data.categories(config("mvtec_3d_a", tmp_path))
    dataset, category = make("mvtec_3d_ad", tmp_path)
    with pytest.raises(UserError, match=r"unknown mode 'rgbd': did you mean 'rgb3d'"):
        data.load(dataset, category, mode="rgbd")


@pytest.mark.parametrize("name", MAKERS)
def test_no_good_training_image_is_an_error(name, tmp_path):
    dataset, category = make(name, tmp_path)
    if name == "visa":
        split = Path(dataset.root, "split_csv", "1cls.csv")
        split.write_text(split.read_text().replace(",train,", ",test,"))
    else:
        base = Path(dataset.root, "" if name == "folder" else category)
        for path in (base / ("good" if name == "folder" else "train")).rglob("*.*"):
            path.unlink()
    with pytest.raises(UserError, match="no good training image"):
        data.load(dataset, category, mode="rgb")
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("name", ["mvtec_ad", "visa", "mvtec_loco", "folder"])
def test_depth_of_a_data_set_without_it_is_an_error(name, tmp_path):
    dataset, category = make(name, tmp_path)
    with pytest.raises(UserError, match=r"no point clouds.*--config\.mode=rgb"):
        data.load(dataset, category, mode="rgb3d")


def test_all_problems_are_told_at_once(tmp_path, caplog):
    dataset, category = make("mvtec_3d_ad", tmp_path)
    base = Path(dataset.root, category)
    layouts.save(base / "train/good/xyz/000.tiff", layouts.cloud(0, size=(8, 9)))
    image = base / "train/good/rgb/001.png"
    image.write_bytes(image.read_bytes()[:500])
    (base / "train/good/xyz/002.tiff").unlink()
    points = layouts.cloud(3)
    points[4, 5, 2] = np.inf
    layouts.save(base / "validation/good/xyz/000.tiff", points)
    (base / "test/hole/gt/000.png").unlink()
    (base / "test/hole/gt/001.png").write_bytes(b"")
    (base / "test/bent/rgb/000.png").unlink()
    layouts.save(base / "test/good/gt/000.png", layouts.ground_truth())
    layouts.save(base / "test/bent/gt/001.png", layouts.ground_truth()[:9])
    logging.get_absl_logger().propagate = True
    with pytest.raises(UserError) as error:
        data.load(dataset, category, mode="rgb3d")
    message = str(error.value)
    assert message.startswith("9 problems with the data: ")
    assert message.endswith("and 4 more, all in the log")
    assert "\n" not in message
    for expected in (
        "train/good/xyz/000.tiff: 9 by 8 pixels, but the image",
        "train/good/rgb/001.png: damaged or truncated",
        "no point cloud of train/good/002",
        "validation/good/xyz/000.tiff: 1 of 3072 depth values are infinite",
        "no mask, though others of its type have one, of test/hole/000",
        "test/hole/gt/001.png: not a PNG",
        "no image of test/bent/000",
        "test/good/gt/000.png: marks a defect in a good part",
        "test/bent/gt/001.png: 64 by 9 pixels, but the image",
    ):
        assert expected in caplog.text
    assert nothing_is_left(tmp_path)


def test_defect_type_without_any_mask_only_loses_its_masks(tmp_path, caplog):
    dataset, category = make("mvtec_ad", tmp_path)
    truth = Path(dataset.root, category, "ground_truth")
    for path in (truth / "scratch").iterdir():
        path.unlink()
    parts = data.load(dataset, category, mode="rgb")["test"]
    for part in parts:
        assert (part.masks is None) == (part.defect == "scratch")
        assert (part.mask is None) == (part.defect == "scratch")
    assert "no ground truth of 'scratch'" in caplog.text


def test_two_files_of_one_stem_are_an_error(tmp_path):
    dataset, category = make("mvtec_ad", tmp_path)
    extra = Path(dataset.root, category, "train", "good", "000.bmp")
    layouts.save(extra, layouts.picture(0))
    with pytest.raises(
        UserError, match=r"000\.png: the stem '000' is that of 000\.bmp"
    ):
        data.load(dataset, category, mode="rgb")


def test_hidden_files_and_text_are_no_samples(tmp_path):
    dataset, category = make("mvtec_ad", tmp_path)
    good = Path(dataset.root, category, "train", "good")
    for name in ("._000.png", "Thumbs.db", "notes.txt"):
        (good / name).write_bytes(b"x")
    (Path(dataset.root) / ".cache" / "train").mkdir(parents=True)
    assert data.categories(dataset) == (category,)
    assert len(data.load(dataset, category, mode="rgb")["train"]) == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_data_dir_is_an_error(tmp_path):
    dataset, category = make("mvtec_ad", tmp_path)
    Path(dataset.data_dir).mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"choose another --config\.dataset\.data_dir"):
        data.load(dataset, category, mode="rgb")


def test_data_dir_that_is_a_file_is_an_error(tmp_path):
    dataset, category = make("mvtec_ad", tmp_path)
    Path(dataset.data_dir).write_text("a file")
    with pytest.raises(UserError, match=r"choose another --config\.dataset\.data_dir"):
        data.load(dataset, category, mode="rgb")
