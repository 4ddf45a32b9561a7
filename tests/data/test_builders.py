import multiprocessing
import os
import sys
import threading
from pathlib import Path

import layouts
import numpy as np
import pytest
from ml_collections import ConfigDict
from stand_ins import MAKERS, config, make

from ast_jax import data
from ast_jax.errors import UserError


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
    """As from a bucket, by tfds alone; every byte is the publisher's."""
    import tensorflow_datasets as tfds

    dataset, category = make(name, tmp_path)
    parts = data.load(dataset, category, mode="rgb")["test"]
    published = {path.read_bytes() for path in Path(dataset.root).rglob("*.*")}
    Path(dataset.root).rename(tmp_path / "gone")
    elsewhere = Path(dataset.data_dir).rename(tmp_path / "bucket")
    (folder,) = (elsewhere / name).glob("*/1.1.0")
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

    def wait_once(sample, *options):
        if first:  # both processes have found nothing prepared
            first.clear()
            barrier.wait(60)
        return check(sample, *options)

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
    assert [folder.name for folder in folders] == ["1.1.0"]


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
