"""Solar cells: labels read strictly, cells drawn by a seed, the package found."""

import importlib.util
import io

import pytest
from ml_collections import ConfigDict
from PIL import Image

from ast_jax import data
from ast_jax.config import default
from ast_jax.data.datasets import elpv
from ast_jax.errors import UserError

INSTALLED = importlib.util.find_spec("elpv_dataset") is not None
CHANCES = {"0.0": 12, "1.0": 5, "0.3333333333333333": 3, "0.6666666666666666": 2}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Both kinds of cell, a few of each probability; six good ones for training."""
    monkeypatch.setattr(elpv, "TRAIN_GOOD", 6)
    monkeypatch.setattr(elpv, "TEST_EACH_KIND", 4)
    buffer = io.BytesIO()
    Image.new("L", (30, 30), 90).save(buffer, "PNG")
    folder = tmp_path / "elpv"
    (folder / "images").mkdir(parents=True)
    rows = [
        (chance, crystal)
        for crystal in elpv.CATEGORIES
        for chance, count in CHANCES.items()
        for _ in range(count)
    ]
    lines = []
    for number, (chance, crystal) in enumerate(rows, 1):
        name = f"images/cell{number:04d}.png"
        (folder / name).write_bytes(buffer.getvalue())
        lines.append(f"{name}  {chance:20}{crystal}\n")
    (folder / "labels.csv").write_text("".join(lines))
    return folder


def section(root, tmp_path, **changes) -> ConfigDict:
    dataset = default().dataset
    dataset.update(name="elpv", root=str(root), data_dir=str(tmp_path / "prepared"))
    dataset.update_from_flattened_dict(changes)
    return dataset


def ids(root, tmp_path, category="mono", **changes):
    splits = data.load(section(root, tmp_path, **changes), category, mode="rgb")
    return {split: parts.ids for split, parts in splits.items()}


def test_good_cells_train_and_others_test(root, tmp_path):
    splits = data.load(section(root, tmp_path), "mono", mode="rgb")
    train, test = splits["train"], splits["test"]
    assert (len(train), set(train.defects)) == (6, {"good"})
    assert len(splits["validation"]) == 0
    assert (test.defects.count("good"), test.defects.count("defective")) == (4, 4)
    assert len(test) == 8 and test[0].image.shape == (30, 30, 3)
    defective = test[test.defects.index("defective")]
    assert test[0].masks == () and defective.masks is None
    stems = [part_id.split("/")[-1] for part_id in (*train.ids, *test.ids)]
    assert len(set(stems)) == len(stems)  # no cell twice


def test_doubtful_cells_are_types_of_their_own(root, tmp_path):
    splits = data.load(
        section(root, tmp_path, **{"elpv.uncertain": True}), "poly", mode="rgb"
    )
    defects = splits["test"].defects
    assert defects.count("perhaps_defective") == 3
    assert defects.count("probably_defective") == 2
    assert len(splits["train"]) == 6


def test_the_seed_draws_the_split(root, tmp_path):
    first = ids(root, tmp_path)
    assert ids(root, tmp_path) == first
    assert ids(root, tmp_path, seed=1) != first
    # Doubtful cells are added, and nothing else changes.
    more = ids(root, tmp_path, **{"elpv.uncertain": True})
    assert more["train"] == first["train"]
    assert set(more["test"]) > set(first["test"])


def test_a_missing_picture_is_named(root, tmp_path):
    for path in (root / "images").glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"cell00\d\d\.png: missing, though labels"):
        ids(root, tmp_path)


@pytest.mark.parametrize(
    "line", ["images/cell0001.png 0.5 mono", "images/cell0001.png 1.0 thin", "a b", "x"]
)
def test_a_row_of_another_kind_is_named(root, tmp_path, line):
    with (root / "labels.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=rf"labels\.csv:45: '{line}' is not a row"):
        ids(root, tmp_path)


def test_a_folder_without_labels_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match=r"no labels\.csv in it; expected labels\.csv"):
        data.categories(section(tmp_path, tmp_path))


def test_a_missing_package_is_one_line_with_pips_command(tmp_path, monkeypatch):
    def files(module):
        raise ModuleNotFoundError(module)

    monkeypatch.setattr(elpv.importlib.resources, "files", files)
    with pytest.raises(UserError, match="pip install elpv-dataset, or give"):
        data.categories(section("", tmp_path))


def test_there_is_no_depth(root, tmp_path):
    with pytest.raises(UserError, match=r"no point clouds: set --config\.mode=rgb"):
        data.load(section(root, tmp_path), "mono", mode="3d")


@pytest.mark.skipif(not INSTALLED, reason="elpv-dataset is not installed")
@pytest.mark.parametrize("category", elpv.CATEGORIES)
def test_the_package_has_what_is_documented(tmp_path, category):
    """250 good cells to train, 100 good and 100 defective ones to test."""
    builder = elpv.ELPV.from_config(section("", tmp_path), category, depth=False)
    samples = builder.listing.samples
    counts = {
        kind: sum((s.split, s.defect) == kind for s in samples)
        for kind in (("train", "good"), ("test", "good"), ("test", "defective"))
    }
    assert list(counts.values()) == [250, 100, 100] and len(samples) == 450
    assert not builder.listing.problems
