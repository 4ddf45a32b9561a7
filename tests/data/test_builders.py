import multiprocessing
import os
import sys
import threading
from pathlib import Path

import layouts
import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict

from ast_jax import data
from ast_jax.errors import UserError

MAKERS = {
    "mvtec_3d_ad": (layouts.mvtec_3d_ad, "bagel"),
    "mvtec_ad": (layouts.mvtec_ad, "screw"),
    "visa": (layouts.visa, "candle"),
    "mvtec_loco": (layouts.mvtec_loco, "pushpins"),
    "folder": (layouts.folder, "bolts"),
}


def config(name: str, tmp_path: Path, **changes) -> ConfigDict:
    return ConfigDict(
        {
            "name": name,
            "root": str(tmp_path / "source"),
            "categories": (),
            "data_dir": str(tmp_path / "prepared"),
        }
        | changes
    )


def make(name: str, tmp_path: Path, **options) -> tuple[ConfigDict, str]:
    """Write a stand-in; return its configuration and category."""
    maker, category = MAKERS[name]
    source = tmp_path / "source"
    if name == "folder":
        source = tmp_path / category
        maker(source, **options)
    else:
        maker(source, category, **options)
    return config(name, tmp_path, root=str(source)), category


def nothing_is_left(tmp_path: Path) -> bool:
    return not [path for path in (tmp_path / "prepared").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", MAKERS)
def test_every_part_comes_out_as_it_was_written(name, tmp_path):
    dataset, category = make(name, tmp_path)
    assert data.categories(dataset) == (category,)
    splits = data.load(dataset, category, mode="rgb")
    assert set(splits) == {"train", "validation", "test"}
    assert len(splits["train"]) == 6
    assert set(splits["train"].defects) == {"good"}
    has_validation = name in ("mvtec_3d_ad", "mvtec_loco")
    assert len(splits["validation"]) == 2 * has_validation
    for split, parts in splits.items():
        assert len(set(parts.ids)) == len(parts)
        for identity, defect, part in zip(parts.ids, parts.defects, parts, strict=True):
            assert (part.id, part.defect) == (identity, defect)
            assert identity.startswith(f"{split}/{defect}/")
            assert part.image.shape == (*layouts.SIZE, 3)
            assert part.z is None
            if not part.anomalous:
                assert part.masks == ()
                continue
            assert part.mask[layouts.DEFECT].all()
            if name != "mvtec_loco":
                assert part.mask.sum() == part.mask[layouts.DEFECT].size
    assert any(part.anomalous for part in splits["test"])


@pytest.mark.parametrize("mode", ["3d", "rgb3d"])
@pytest.mark.parametrize("name", ["mvtec_3d_ad", "folder"])
def test_depth_is_read_where_the_mode_wants_it(name, mode, tmp_path):
    options = {"depth": True} if name == "folder" else {}
    dataset, category = make(name, tmp_path, **options)
    for part in data.load(dataset, category, mode=mode)["test"]:
        assert part.z.shape == layouts.SIZE
        assert 0.4 < part.z.max() < 0.6
        assert part.z.min() == 0
        assert part.image is not None


def test_prepared_data_hold_the_publishers_bytes_and_only_z(tmp_path):
    dataset, category = make("mvtec_3d_ad", tmp_path)
    builder_class = data.builder_class("mvtec_3d_ad")
    builder = builder_class.from_config(dataset, category, depth=True)
    builder.prepare()
    from tensorflow_datasets import decode

    source = builder.as_data_source("test", decoders={"image": decode.SkipDecoding()})
    record = source[0]
    bent = Path(dataset.root, category, "test", "bent")
    assert record["id"] == b"test/bent/000"
    assert record["image"] == (bent / "rgb" / "000.png").read_bytes()
    assert record["masks"][0] == (bent / "gt" / "000.png").read_bytes()
    assert record["z"].shape == layouts.SIZE
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["mvtec_3d_ad", "mvtec_ad", "visa", "mvtec_loco"])
def test_prepared_data_are_read_from_anywhere_without_the_publishers_folder(
    name, tmp_path
):
    """As from a bucket: by tfds alone, and every byte is the publisher's."""
    import tensorflow_datasets as tfds

    dataset, category = make(name, tmp_path)
    parts = data.load(dataset, category, mode="rgb")["test"]
    published = {path.read_bytes() for path in Path(dataset.root).rglob("*.*")}
    Path(dataset.root).rename(tmp_path / "gone")
    elsewhere = Path(dataset.data_dir).rename(tmp_path / "bucket")
    (folder,) = (elsewhere / name).glob("*/1.0.0")
    raw = {"image": tfds.decode.SkipDecoding()}
    source = tfds.builder_from_directory(folder).as_data_source("test", decoders=raw)
    assert len(source) == len(parts)
    for record in source:
        assert record["image"] in published
        assert all(mask in published for mask in record["masks"])


def test_order_is_that_of_the_files(tmp_path):
    dataset, category = make("mvtec_ad", tmp_path, train=12)
    parts = data.load(dataset, category, mode="rgb")
    assert parts["train"].ids == tuple(f"train/good/{i:03d}" for i in range(12))
    assert list(parts["test"].ids) == sorted(parts["test"].ids)


def test_second_load_prepares_nothing(tmp_path, monkeypatch):
    dataset, category = make("mvtec_ad", tmp_path)
    first = data.load(dataset, category, mode="rgb")
    monkeypatch.setattr("ast_jax.data.builder.check", None)
    second = data.load(dataset, category, mode="rgb")
    assert second["test"].fingerprint == first["test"].fingerprint
    np.testing.assert_array_equal(second["test"][0].image, first["test"][0].image)


def test_changed_source_is_prepared_anew(tmp_path):
    dataset, category = make("mvtec_ad", tmp_path)
    before = data.load(dataset, category, mode="rgb")
    path = Path(dataset.root, category, "train", "good", "000.png")
    layouts.save(path, layouts.picture(99))
    after = data.load(dataset, category, mode="rgb")
    assert after["train"].fingerprint != before["train"].fingerprint
    assert after["test"].fingerprint == before["test"].fingerprint
    np.testing.assert_array_equal(after["train"][0].image, layouts.picture(99))
    path.unlink()
    assert len(data.load(dataset, category, mode="rgb")["train"]) == 5


@pytest.mark.parametrize("name", ["mvtec_3d_ad", "folder"])
def test_fingerprint_does_not_depend_on_where_the_data_lie(name, tmp_path):
    fingerprints = []
    for place in ("here", "elsewhere"):
        options = {"depth": True} if name == "folder" else {}
        dataset, category = make(name, tmp_path / place, **options)
        fingerprints.append(data.load(dataset, category, mode="3d")["test"].fingerprint)
    assert fingerprints[0] == fingerprints[1]


def test_images_keep_their_fingerprint_in_every_mode(tmp_path):
    dataset, category = make("mvtec_3d_ad", tmp_path)
    rgb = data.load(dataset, category, mode="rgb")["train"]
    both = data.load(dataset, category, mode="rgb3d")["train"]
    assert rgb.fingerprint_of("image") == both.fingerprint_of("image")
    assert rgb.fingerprint != both.fingerprint


def test_rgb_never_opens_the_point_clouds(tmp_path):
    dataset, category = make("mvtec_3d_ad", tmp_path)
    clouds = list(Path(dataset.root).rglob("*.tiff"))
    assert clouds
    for path in clouds[::2]:
        path.unlink()
    for path in clouds[1::2]:
        path.write_bytes(b"broken")
    assert len(data.load(dataset, category, mode="rgb")["train"]) == 6


def test_parts_can_be_read_by_several_threads(tmp_path):
    dataset, category = make("mvtec_ad", tmp_path)
    parts = data.load(dataset, category, mode="rgb")["test"]
    expected, wrong = [part.image for part in parts], []

    def read():
        for index in range(len(parts)):
            if not np.array_equal(parts[index].image, expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def load_after(barrier, dataset, category, results):
    from ast_jax.data import builder

    check, first = builder.check, [True]

    def wait_once(sample):
        if first:  # both processes have found nothing prepared
            first.clear()
            barrier.wait(60)
        return check(sample)

    builder.check = wait_once
    parts = data.load(ConfigDict(dataset), category, mode="rgb")["test"]
    results.put((parts.fingerprint, float(sum(part.image.sum() for part in parts))))


def test_two_processes_may_prepare_the_same_data(tmp_path):
    dataset, category = make("mvtec_ad", tmp_path)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (barrier, dataset.to_dict(), category, results)
    workers = [context.Process(target=load_after, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert outcomes[0] == outcomes[1]
    folders = list(Path(dataset.data_dir, "mvtec_ad").glob("*/*"))
    assert [folder.name for folder in folders] == ["1.0.0"]


def test_damaged_prepared_data_are_noticed(tmp_path):
    dataset, category = make("mvtec_ad", tmp_path)
    data.load(dataset, category, mode="rgb")
    (records,) = Path(dataset.data_dir).rglob("*test.array_record*")
    content = bytearray(records.read_bytes())
    start = content.index(b"\x89PNG")
    content[start + 100 : start + 140] = bytes(40)
    records.write_bytes(content)
    parts = data.load(dataset, category, mode="rgb")["test"]
    with pytest.raises(UserError, match=r"damaged; delete this folder and run again"):
        list(parts)


@pytest.mark.parametrize("name", ["metadata.json", "dataset_info.json"])
@pytest.mark.parametrize("kept", [0, 100, None])
def test_damaged_description_of_prepared_data_is_noticed(name, kept, tmp_path):
    dataset, category = make("mvtec_ad", tmp_path)
    data.load(dataset, category, mode="rgb")
    (path,) = Path(dataset.data_dir).rglob(name)
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"screw-.*damaged; delete this folder and run"):
        data.load(dataset, category, mode="rgb")


def test_tfds_finds_the_builders_by_name(tmp_path):
    import tensorflow_datasets as tfds

    dataset, category = make("mvtec_3d_ad", tmp_path)
    source = tfds.data_source(
        "mvtec_3d_ad",
        split="test",
        data_dir=dataset.data_dir,
        decoders={"image": tfds.decode.SkipDecoding()},
        builder_kwargs={"root": dataset.root, "category": category, "depth": True},
    )
    assert len(source) == 7
    assert source[0]["z"].shape == layouts.SIZE


# What is wrong with the user's data


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


SHARED = Path(
    os.environ.get("AST_JAX_SHARED", Path(__file__).parents[3] / "shared"),
    "data",
    "mvtec_3d_ad",
)


@pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"no real data in {SHARED}; see AST_JAX_SHARED"
)
def test_real_cable_gland_is_read_whole(tmp_path):
    dataset = config("mvtec_3d_ad", tmp_path, root=str(SHARED))
    assert "cable_gland" in data.categories(dataset)
    splits = data.load(dataset, "cable_gland", mode="rgb3d")
    counts = {split: len(parts) for split, parts in splits.items()}
    assert counts == {"train": 120, "validation": 0, "test": 108}
    defects = splits["test"].defects
    assert (defects.count("good"), len(defects) - defects.count("good")) == (21, 87)
    for index in (0, 30, 60, 107):
        part = splits["test"][index]
        assert part.image.shape == (400, 400, 3)
        assert 0.3 < np.mean(part.z == 0) < 0.6
        assert part.mask.any() == part.anomalous
