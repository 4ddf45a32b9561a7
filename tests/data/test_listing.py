"""A folder's files become parts, or the user is told that they are ignored."""

import os
import re
import shutil
import unicodedata
from pathlib import Path

import layouts
import pytest
from stand_ins import config, make

from ast_jax import data
from ast_jax.data.datasets import folder
from ast_jax.data.layout import FilesByStem
from ast_jax.errors import UserError

PICTURE = layouts.picture(0)


def builder_of(dataset, category=None, *, depth=False, **options):
    builder = data.builder_class(dataset.name)
    category = category or data.categories(dataset)[0]
    return builder.from_config(dataset, category, depth=depth, **options)


def bolts(tmp_path: Path, **options) -> Path:
    return layouts.folder(tmp_path / "bolts", **options)


def listed(root: Path, **options) -> tuple[set[str], tuple[str, ...]]:
    builder = builder_of(config("folder", root.parent, root=str(root)), **options)
    return {sample.id for sample in builder.listing.samples}, builder.listing.problems


def test_pictures_in_subfolders_belong_to_their_folders_type(tmp_path):
    root = bolts(tmp_path)
    layouts.save(root / "good" / "day2" / "part 0.png", PICTURE)
    layouts.save(root / "good" / "day2" / "late" / "a.png", PICTURE)
    layouts.save(root / "test" / "stain" / "sub" / "x.png", PICTURE)
    layouts.save(root / "masks" / "stain" / "x_mask.png", layouts.ground_truth())
    ids, problems = listed(root)
    nested = {"train/good/day2/part 0", "train/good/day2/late/a", "test/stain/sub/x"}
    assert nested <= ids
    assert "train/good/part 0" in ids
    assert not problems


def test_clouds_in_subfolders_pair_with_their_images(tmp_path):
    root = bolts(tmp_path, depth=True)
    for kind, pixels in (("rgb", PICTURE), ("xyz", layouts.cloud(0))):
        suffix = "png" if kind == "rgb" else "tiff"
        layouts.save(root / "good" / kind / "day2" / f"a.{suffix}", pixels)
        layouts.save(root / "good" / "day3" / kind / f"a.{suffix}", pixels)
    ids, problems = listed(root, depth=True)
    assert {"train/good/day2/a", "train/good/day3/a"} <= ids
    assert not problems


@pytest.mark.parametrize("name", ["validation", "val", "valid"])
@pytest.mark.parametrize("below", ["", "good", "good/day2"])
def test_validation_has_several_names_and_may_be_flat(tmp_path, name, below):
    root = bolts(tmp_path)
    layouts.save(root / name / below / "v.png", PICTURE)
    ids, _ = listed(root)
    inner = "day2/" if "day2" in below else ""
    assert f"validation/good/{inner}v" in ids


def test_two_folders_for_validation_are_one_too_many(tmp_path):
    root = bolts(tmp_path)
    for name in ("validation", "val"):
        layouts.save(root / name / "v.png", PICTURE)
    with pytest.raises(UserError, match=f"^{root}: validation and val "):
        listed(root)


def test_two_masks_for_one_image_are_both_named(tmp_path):
    root = bolts(tmp_path)
    layouts.save(root / "masks/stain/part 0_mask.png", layouts.ground_truth())
    _, (problem,) = listed(root)
    assert re.match(rf"{root}/masks/stain/part 0_mask\.png: .*part 0\.png", problem)


def test_a_mask_by_another_name_is_pointed_at(tmp_path):
    root = bolts(tmp_path)
    (root / "masks/stain/part 0.png").rename(root / "masks/stain/part 0_gt.png")
    _, (problem,) = listed(root)
    assert re.match(rf"{root}/masks/stain: .*part 0; is it part 0_gt\.png\?", problem)


def test_every_split_says_what_it_has_and_what_it_ignores(tmp_path, caplog):
    caplog.set_level("INFO", "absl")
    root = bolts(tmp_path)
    for name in ("good/a.txt", "good/day2/b.gif", "test/scan.raw", "Good/c.png"):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    layouts.save(root / "masks" / "stain" / "of no part.png", PICTURE)
    dataset = config("folder", tmp_path, root=str(root))
    parts = data.load(dataset, "bolts", mode="rgb")
    assert parts["train"].summary == (
        "6 good; ignored: 2 files in 2 places (first: good/a.txt); ignored outside of "
        "the splits: 1 file in 1 place (first: Good/c.png)"
    )
    assert parts["test"].summary == (
        "2 good, 2 defective in 1 type; ignored: 2 files in 2 places (first: "
        "masks/stain/of no part.png)"
    )
    assert f"bolts, train: {parts['train'].summary}" in caplog.text
    assert data.load(dataset, "bolts", mode="rgb")["test"].summary.startswith("2 good,")


def test_a_split_without_parts_says_what_it_ignores(tmp_path):
    root = bolts(tmp_path, test=False)
    layouts.save(root / "test" / "of no type.png", PICTURE)
    dataset = config("folder", tmp_path, root=str(root))
    parts = data.load(dataset, "bolts", mode="rgb")["test"]
    assert not len(parts)
    assert parts.summary == (
        "0 good; ignored: 1 file in 1 place (first: test/of no type.png)"
    )


@pytest.mark.parametrize("name", ["mvtec_3d_ad", "mvtec_ad", "visa", "mvtec_loco"])
def test_of_a_benchmark_as_published_nothing_is_ignored(name, tmp_path):
    dataset, category = make(name, tmp_path)
    assert not builder_of(dataset, category).selection.unused
    (Path(dataset.root) / category / "extra.bin").write_text("x")
    assert builder_of(dataset, category).selection.unused


def test_files_that_cannot_be_used_are_named_all_at_once(tmp_path):
    root = bolts(tmp_path)
    (root / "good" / "dead.png").symlink_to("/nowhere.png")
    os.mkfifo(root / "good" / "pipe.png")
    Path(os.fsdecode(os.fsencode(root / "good") + b"/\xff.png")).write_bytes(b"x")
    (root / "good" / "round").symlink_to(root / "good")
    ids, problems = listed(root)
    dead, pipe, name = problems
    assert dead == f"{root}/good/dead.png: a link to /nowhere.png, which is not there"
    assert pipe == f"{root}/good/pipe.png: no file"
    assert name == f"{root}/good/\\udcff.png: its name is not UTF-8; rename it"
    assert len(ids) == 6 + 4


def test_links_to_files_and_folders_are_followed(tmp_path):
    root = bolts(tmp_path)
    other = layouts.save(tmp_path / "elsewhere" / "a.png", PICTURE)
    (root / "good" / "b.png").symlink_to(other)
    (root / "good" / "more").symlink_to(other.parent)
    ids, problems = listed(root)
    assert {"train/good/b", "train/good/more/a"} <= ids
    assert not problems


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_the_same_in_either_unicode_form(tmp_path, forms):
    image_form, mask_form = forms
    root = bolts(tmp_path)
    kind = unicodedata.normalize(image_form, "größe")
    stem = unicodedata.normalize(image_form, "é")
    layouts.save(root / "test" / kind / f"{stem}.png", PICTURE)
    kind = unicodedata.normalize(mask_form, "größe")
    stem = unicodedata.normalize(mask_form, "é")
    layouts.save(root / "masks" / kind / f"{stem}.png", layouts.ground_truth())
    builder = builder_of(config("folder", tmp_path, root=str(root)))
    assert not builder.listing.problems
    (sample,) = (s for s in builder.listing.samples if "größe" in s.defect)
    assert sample.id == "test/größe/é"
    assert len(sample.masks) == 1


@pytest.mark.parametrize("suffix", [".ply", ".exr", ".PCD"])
def test_point_clouds_of_other_types_are_told(tmp_path, suffix):
    root = bolts(tmp_path)
    path = root / "good" / f"a{suffix}"
    path.write_text("x")
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}.*TIFF or \.npy"):
        listed(root, depth=True)
    shutil.rmtree(root)
    root = bolts(tmp_path, depth=True)
    (root / "good" / "xyz" / "part 0.tiff").rename(root / "good/xyz" / f"a{suffix}")
    _, (told, missing) = listed(root, depth=True)
    assert f"a{suffix}" in told
    assert missing.endswith("no point cloud of train/good/part 0")


def test_without_good_pictures_what_lies_there_is_told(tmp_path):
    root = bolts(tmp_path, test=False)
    (root / "good").rename(root / "Good")
    with pytest.raises(UserError, match=r"ignored: 6 files .*first: Good/part 0"):
        listed(root)


def test_a_renamed_folder_may_keep_its_category(tmp_path):
    root = bolts(tmp_path).rename(tmp_path / "bolts (copy)")
    dataset = config("folder", tmp_path, root=str(root), categories=("bolts",))
    assert data.categories(dataset) == ("bolts",)
    assert builder_of(dataset).category == "bolts"


class TestExclude:
    """`dataset.exclude` leaves named training pictures out."""

    def ids(self, tmp_path, text, encoding="utf-8", name="mvtec_ad", several=False):
        dataset, category = make(name, tmp_path)
        if several:
            layouts.mvtec_ad(Path(dataset.root), "grid")
        names = tmp_path / "names.txt"
        names.write_text(text, encoding)
        dataset.exclude = str(names)
        exclude = data._names(dataset, category)
        samples = builder_of(dataset, category, exclude=exclude).listing.samples
        return {sample.id for sample in samples if sample.split == "train"}

    @pytest.mark.parametrize(
        "name",
        ["train/good/003", "good/003", "003", "003.png", "screw/train/good/003.png"],
    )
    def test_a_picture_goes_by_many_names(self, tmp_path, name):
        ids = self.ids(tmp_path, f"# odd ones\n{name}\n")
        assert ids == {f"train/good/00{n}" for n in (0, 1, 2, 4, 5)}

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_windows_may_have_written_the_list(self, tmp_path, encoding):
        assert len(self.ids(tmp_path, "001\r\n002\r\n", encoding)) == 4

    @pytest.mark.parametrize("name", ["0003", "test/good/000", "grid/train/good/000"])
    def test_a_name_of_no_training_picture_is_told(self, tmp_path, name):
        with pytest.raises(UserError, match=f"^dataset.exclude: '{name}' is no"):
            self.ids(tmp_path, name)

    def test_of_several_categories_a_name_says_which(self, tmp_path):
        with pytest.raises(UserError, match=r"'003' does not say .*/003"):
            self.ids(tmp_path, "003", several=True)

    def test_each_category_has_its_own(self, tmp_path):
        text = "screw/train/good/003\ngrid/train/good/001\n"
        assert "train/good/003" not in self.ids(tmp_path, text, several=True)

    def test_a_list_that_is_not_there_is_told(self, tmp_path):
        dataset, category = make("mvtec_ad", tmp_path)
        dataset.exclude = "/nowhere.txt"
        with pytest.raises(UserError, match=r"/nowhere\.txt cannot be read"):
            data.load(dataset, category, mode="rgb")

    def test_a_damaged_picture_can_be_left_out(self, tmp_path):
        dataset, category = make("mvtec_ad", tmp_path)
        picture = Path(dataset.root, category, "train", "good", "002.png")
        picture.write_bytes(b"no picture")
        names = tmp_path / "names.txt"
        names.write_text(str(picture))
        dataset.exclude = str(names)
        train = data.load(dataset, category, mode="rgb")["train"]
        assert len(train) == 5
        assert train.excluded == ("train/good/002",)
        assert "1 left out by dataset.exclude" in train.summary
        names.unlink()  # a run that has recorded it does not need the list any more
        again = data.load(dataset, category, mode="rgb", excluded=train.excluded)
        assert again["train"].fingerprint == train.fingerprint


def test_a_file_belongs_to_one_stem_only(tmp_path):
    for name in ("a/000.png", "b/000.png", "001.png"):
        layouts.save(tmp_path / name, PICTURE)
    found = FilesByStem.in_folder(tmp_path, (".png",))
    assert set(found.match(["000", "c/001", "d/002"])) == {"c/001"}
    assert set(found.match(["a/000", "c/000"])) == {"a/000"}


def test_the_work_of_a_listing_grows_as_its_files(tmp_path, monkeypatch):
    looks = []
    is_within = folder._is_within
    monkeypatch.setattr(
        folder, "_is_within", lambda *a: looks.append(a) or is_within(*a)
    )
    ids, _ = listed(bolts(tmp_path, train=40, test=False))
    assert len(ids) == 40
    assert len(looks) <= 5 * 40
