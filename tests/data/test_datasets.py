"""The quirks of single data sets."""

import csv
import hashlib
import json
from pathlib import Path

import layouts
import numpy as np
import pytest
from ml_collections import ConfigDict

from ast_jax import data
from ast_jax.errors import UserError


def load(name: str, root: Path, category: str, mode: str = "rgb"):
    dataset = ConfigDict(
        {
            "name": name,
            "root": str(root),
            "categories": (),
            "data_dir": str(root.parent / "prepared"),
        }
    )
    return data.load(dataset, category, mode=mode)


def test_mvtec_3d_ad_counts_class_numbers_as_one_defect(tmp_path):
    root = layouts.mvtec_3d_ad(tmp_path / "3d", size=(40, 50))
    truth = root / "bagel" / "test" / "hole" / "gt" / "000.png"
    layouts.save(truth, layouts.ground_truth(252, (40, 50)))
    test = load("mvtec_3d_ad", root, "bagel")["test"]
    part = test[test.ids.index("test/hole/000")]
    assert len(part.masks) == 1
    np.testing.assert_array_equal(
        part.mask, layouts.ground_truth(size=(40, 50)).astype(bool)
    )


def test_mvtec_3d_ad_ignores_defects_among_what_it_learns_from(tmp_path, caplog):
    root = layouts.mvtec_3d_ad(tmp_path / "3d")
    image = root / "bagel" / "train" / "hole" / "rgb" / "000.png"
    layouts.save(image, layouts.picture(1))
    train = load("mvtec_3d_ad", root, "bagel")["train"]
    assert set(train.defects) == {"good"}
    assert "train/hole: ignored" in caplog.text


def test_grey_images_have_three_equal_channels(tmp_path):
    root = layouts.mvtec_ad(tmp_path / "ad", grey=True)
    image = load("mvtec_ad", root, "screw")["train"][0].image
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_visa_follows_its_split_file(tmp_path):
    root = layouts.visa(tmp_path / "visa")
    layouts.visa(root, "pcb1", train=4)
    splits = load("visa", root, "candle")
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [6, 0, 6]
    assert set(splits["test"].defects) == {"good", "anomaly"}
    assert splits["test"].ids[0] == "test/anomaly/000"
    assert len(load("visa", root, "pcb1")["train"]) == 4


def test_visa_names_listed_files_that_are_missing(tmp_path):
    root = layouts.visa(tmp_path / "visa")
    base = root / "candle" / "Data"
    (base / "Images" / "Normal" / "0002.JPG").unlink()
    (base / "Masks" / "Anomaly" / "001.png").unlink()
    with pytest.raises(UserError) as error:
        load("visa", root, "candle")
    assert "2 problems" in str(error.value)
    assert "Normal/0002.JPG: missing, though split_csv/1cls.csv" in str(error.value)
    assert "Masks/Anomaly/001.png: missing" in str(error.value)


def test_visa_without_its_split_file_says_what_is_expected(tmp_path):
    root = layouts.visa(tmp_path / "visa")
    split_file = root / "split_csv" / "1cls.csv"
    split_file.write_text(split_file.read_text().replace("mask\n", "truth\n"))
    with pytest.raises(UserError, match=r"1cls\.csv: no column mask"):
        load("visa", root, "candle")
    split_file.unlink()
    with pytest.raises(UserError, match=r"1cls\.csv: cannot be read .* expected split"):
        load("visa", root, "candle")


def test_loco_has_one_mask_and_saturation_a_defect(tmp_path):
    root = layouts.mvtec_loco(tmp_path / "loco")
    test = load("mvtec_loco", root, "pushpins")["test"]
    parts = {part.id.removeprefix("test/"): part for part in test}
    area = layouts.ground_truth().astype(bool).sum()
    logical = parts["logical_anomalies/000"]
    assert [mask.sum() for mask in logical.masks] == [area, 25]
    assert logical.saturations == (area // 2, 25)  # relative; the defect's whole area
    assert logical.mask.sum() == area + 25
    assert parts["structural_anomalies/001"].saturations == (60,)
    assert parts["good/000"].saturations == ()
    assert parts["good/000"].masks == ()


def test_loco_prepares_anew_when_its_configuration_changes(tmp_path):
    root = layouts.mvtec_loco(tmp_path / "loco")
    load("mvtec_loco", root, "pushpins")
    path = root / "pushpins" / "defects_config.json"
    entries = json.loads(path.read_text())
    entries[1]["saturation_threshold"] = 70
    path.write_text(json.dumps(entries))
    part = load("mvtec_loco", root, "pushpins")["test"][-1]
    assert part.saturations == (70,)


def test_loco_names_a_mask_of_no_known_type(tmp_path):
    root = layouts.mvtec_loco(tmp_path / "loco")
    truth = root / "pushpins" / "ground_truth" / "logical_anomalies" / "001" / "000.png"
    layouts.save(truth, layouts.ground_truth(77))
    with pytest.raises(UserError, match=r"001/000\.png: grey values \[77\], expected"):
        load("mvtec_loco", root, "pushpins")
    config = root / "pushpins" / "defects_config.json"
    config.write_text('[{"pixel_value": 255}]')
    with pytest.raises(UserError, match=r"defects_config\.json: not a"):
        load("mvtec_loco", root, "pushpins")
    config.unlink()
    with pytest.raises(UserError, match=r"defects_config\.json: cannot be read"):
        load("mvtec_loco", root, "pushpins")


def test_loco_image_without_its_masks_is_a_problem(tmp_path):
    root = layouts.mvtec_loco(tmp_path / "loco")
    truth = root / "pushpins" / "ground_truth" / "logical_anomalies" / "001"
    (truth / "000.png").unlink()
    with pytest.raises(UserError, match=r"no mask.* of test/logical_anomalies/001"):
        load("mvtec_loco", root, "pushpins")


# The user's own folder


def test_folder_refers_to_its_files_by_path_size_and_hash(tmp_path):
    root = layouts.folder(tmp_path / "bolts", depth=True)
    builder = data.builder_class("folder")(
        root=root, category="bolts", data_dir=tmp_path / "prepared", depth=True
    )
    builder.prepare()
    record = builder.as_data_source("test")[3]
    content = (root / "test" / "stain" / "rgb" / "part 1.bmp").read_bytes()
    assert record["image"] == {
        "path": b"test/stain/rgb/part 1.bmp",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest().encode(),
    }
    assert record["xyz"]["path"] == b"test/stain/xyz/part 1.tiff"
    assert record["masks"]["path"] == [b"masks/stain/part 1.png"]
    prepared = b"".join(
        path.read_bytes()
        for path in (tmp_path / "prepared").rglob("*")
        if path.is_file()
    )
    assert content[1000:1100] not in prepared


def test_folder_notices_a_file_that_changed_since(tmp_path):
    root = layouts.folder(tmp_path / "bolts")
    splits = load("folder", root, "bolts")
    layouts.save(root / "good" / "part 0.bmp", layouts.picture(77))
    with pytest.raises(UserError, match=r"part 0\.bmp: changed since the data were"):
        splits["train"][0]
    again = load("folder", root, "bolts")["train"][0].image
    np.testing.assert_array_equal(again, layouts.picture(77))


def test_folder_takes_only_good_images(tmp_path):
    root = tmp_path / "bolts"
    for number in range(3):
        layouts.save(root / "good" / f"{number}.png", layouts.picture(number))
    splits = load("folder", root, "bolts")
    assert [len(parts) for parts in splits.values()] == [3, 0, 0]


def test_folder_without_masks_still_has_its_labels(tmp_path):
    root = layouts.folder(tmp_path / "bolts")
    for path in (root / "masks" / "stain").iterdir():
        path.unlink()
    test = load("folder", root, "bolts")["test"]
    assert [part.masks for part in test] == [(), (), None, None]


def test_folder_finds_masks_beside_depth_or_by_ending(tmp_path):
    root = layouts.folder(tmp_path / "bolts", depth=True)
    for path in (root / "masks" / "stain").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    first = load("folder", root, "bolts", mode="3d")["test"]
    assert first[-1].mask.any()
    (root / "masks" / "stain").rename(root / "test" / "stain" / "gt")
    for path in (root / "test" / "stain" / "gt").iterdir():
        path.rename(path.with_name(path.name.replace("_mask", "")))
    second = load("folder", root, "bolts", mode="3d")["test"]
    assert second.fingerprint == first.fingerprint


def test_folder_may_hold_depth_alone(tmp_path):
    root = tmp_path / "bolts"
    depth = (1000 * layouts.cloud(1)[..., 2]).astype(np.uint16)
    layouts.save(root / "good" / "xyz" / "a.png", depth)
    np.save(root / "good" / "xyz" / "b.npy", layouts.cloud(2))
    parts = load("folder", root, "bolts", mode="3d")["train"]
    assert [part.image for part in parts] == [None, None]
    assert parts[0].size == parts[1].size == layouts.SIZE
    np.testing.assert_allclose(parts[0].z, depth / 1000, rtol=1e-6)
    with pytest.raises(UserError, match=r"no images; set --config\.mode=3d"):
        load("folder", root, "bolts", mode="rgb3d")
    with pytest.raises(UserError, match="no good training image"):
        load("folder", root, "bolts", mode="rgb")


def test_folder_called_good_in_capitals_is_no_defect_type(tmp_path):
    root = layouts.folder(tmp_path / "bolts")
    (root / "test" / "good").rename(root / "test" / "Good")
    with pytest.raises(UserError, match=r"test/Good: write 'good' in lower case"):
        load("folder", root, "bolts")


def test_folder_that_is_missing_or_empty_says_what_is_expected(tmp_path):
    for root in ("", str(tmp_path / "none")):
        dataset = ConfigDict({"name": "folder", "root": root, "categories": ()})
        with pytest.raises(UserError, match=r"expected good/\*\.png"):
            data.categories(dataset)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no good training image"):
        load("folder", tmp_path / "empty", "empty")


def test_folder_is_named_by_its_base_name_even_from_inside(tmp_path, monkeypatch):
    root = layouts.folder(tmp_path / "bolts")
    monkeypatch.chdir(root)
    dataset = ConfigDict({"name": "folder", "root": ".", "categories": ()})
    assert data.categories(dataset) == ("bolts",)


def manifest_rows(root: Path) -> list[dict[str, str]]:
    """Write files in two folders with equal names; return the rows that list them."""
    rows = []
    for camera in ("left", "right"):
        image, depth = f"{camera}/1.png", f"{camera}/1.tiff"
        layouts.save(root / image, layouts.picture(1))
        layouts.save(root / depth, layouts.cloud(1))
        rows.append({"image": image, "depth": depth, "split": "train"})
    layouts.save(root / "bad.png", layouts.picture(2, defect=True))
    layouts.save(root / "bad.tiff", layouts.cloud(2, defect=True))
    layouts.save(root / "truth.png", layouts.ground_truth())
    bad = {"image": "bad.png", "depth": "bad.tiff", "split": "test"}
    return [*rows, bad | {"defect": "stain", "mask": "truth.png"}]


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.jsonl", "my list.csv"])
def test_manifest_says_what_each_file_is(name, tmp_path):
    root = tmp_path / "bolts"
    path = write_manifest(root / name, manifest_rows(root))
    place = root if name.startswith("manifest") else path
    splits = load("folder", place, "bolts", mode="rgb3d")
    assert splits["train"].ids == ("train/good/left_1", "train/good/right_1")
    (bad,) = splits["test"]
    assert (bad.id, bad.defect) == ("test/stain/bad", "stain")
    assert bad.mask[layouts.DEFECT].all()
    assert bad.z.shape == layouts.SIZE


def test_manifest_may_give_several_masks_of_a_part(tmp_path):
    root = tmp_path / "bolts"
    rows = manifest_rows(root)
    rows[-1]["mask"] = ["truth.png", "truth.png"]
    write_manifest(root / "manifest.jsonl", rows)
    (bad,) = load("folder", root, "bolts")["test"]
    assert len(bad.masks) == 2


def test_manifest_problems_are_told_with_their_lines(tmp_path):
    root = tmp_path / "bolts"
    rows = manifest_rows(root)
    rows += [
        {"image": "gone.png"},
        {"image": "left/1.png", "split": "tset"},
        {"image": "bad.png", "defect": "stain"},
        {"image": "left/1.png"},
        {"split": "test"},
    ]
    path = write_manifest(root / "manifest.csv", rows)
    with pytest.raises(UserError) as error:
        load("folder", root, "bolts")
    message = str(error.value)
    assert "5 problems" in message
    assert f"{path}:5: {root}/gone.png: no such file" in message
    assert f"{path}:6: unknown split 'tset': did you mean 'test'?" in message
    assert f"{path}:7: a part of split 'train' must be good, not 'stain'" in message
    assert f"{path}:8: train/good/left_1 was listed before" in message
    assert f"{path}:9: neither image nor depth" in message


def test_manifest_whose_files_are_elsewhere_names_them(tmp_path):
    root = tmp_path / "bolts"
    root.mkdir()
    write_manifest(root / "manifest.csv", [{"image": "a.png"}])
    with pytest.raises(UserError, match=r"1 problem .*bolts/a\.png: no such file"):
        load("folder", root, "bolts")


def test_mask_that_marks_nothing_is_worth_a_warning(tmp_path, caplog):
    root = layouts.mvtec_ad(tmp_path / "ad")
    truth = root / "screw" / "ground_truth" / "scratch" / "001_mask.png"
    layouts.save(truth, layouts.ground_truth(0))
    assert len(load("mvtec_ad", root, "screw")["test"]) == 7
    assert "001_mask.png: marks no defect" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("manifest.csv", "image,maks\na.png,b.png\n", "unknown column 'maks'.*'mask'"),
        ("manifest.csv", "image\na.png,b.png\n", "more values than columns"),
        ("manifest.jsonl", '{"image": "a.png"', "not a CSV or JSONL manifest"),
        ("manifest.jsonl", "7\n", "expected an object"),
        ("manifest.csv", "", "a manifest without a line"),
    ],
)
def test_manifest_that_cannot_be_read_is_named(name, text, expected, tmp_path):
    root = tmp_path / "bolts"
    root.mkdir()
    (root / name).write_text(text)
    with pytest.raises(UserError, match=expected):
        load("folder", root, "bolts")
