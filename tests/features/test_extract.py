"""Feature extraction gives the same features for all batches, devices and damage."""

import dataclasses
import hashlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.backbones import Backbone
from ast_jax.data import depth
from ast_jax.data.decode import resize_image
from ast_jax.data.part import Entry, Part, Parts
from ast_jax.errors import UserError
from ast_jax.features import extract

SIZE = 64  # a map of 2 × 2
CHANNELS = 3
KERNEL = np.random.default_rng(0).normal(size=(32, 32, 3, CHANNELS)).astype(np.float32)
TRACES = []


def apply(variables, images):
    TRACES.append(images.shape)
    return jax.lax.conv_general_dilated(
        images.astype(jnp.float32) / 255,
        variables["kernel"],
        window_strides=(32, 32),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def backbone(kernel=KERNEL, fingerprint="b"):
    return Backbone(
        name="patches",
        channels=CHANNELS,
        stride=32,
        fingerprint=fingerprint,
        variables={"kernel": jnp.asarray(kernel)},
        apply=apply,
        standardise=False,
    )


def in_a_thread():
    return threading.current_thread() is not threading.main_thread()


def digests(part):
    kinds = {"image": part.image, "z": part.z}
    return {
        kind: hashlib.sha256(content.tobytes()).hexdigest()
        for kind, content in kinds.items()
        if content is not None
    }


class Station:
    """Random parts in memory, and a record of which were decoded.

    Counts threads only, because the tests' type checker decodes a part too.
    """

    def __init__(self, count, seed=0, image=True, z=True):
        rng = np.random.default_rng(seed)
        self.decoded = []
        self.parts = []
        for i in range(count):
            height = (0.5 + 0.02 * (rng.random((20, 30)) > 0.7)).astype(np.float32)
            picture = rng.integers(0, 256, (20, 30, 3), np.uint8)
            self.parts.append(
                Part(
                    id=f"train/good/{seed}{i:02d}",
                    defect="good",
                    image=picture if image else None,
                    z=height if z else None,
                    masks=(),
                )
            )

    def __call__(self):
        entries = [Entry(part.id, part.defect, digests(part)) for part in self.parts]

        def read(index):
            if in_a_thread():
                self.decoded.append(index)
            return self.parts[index]

        return Parts(entries, read)

    def rgb(self):
        images = np.stack([resize_image(part.image, SIZE) for part in self.parts])
        cells = images.reshape(-1, 2, 32, 2, 32, 3) / 255.0
        return np.einsum("bikjlc,klcd->bijd", cells, KERNEL)

    def depth(self):
        pairs = [depth.preprocess_depth(part.z, SIZE // 32) for part in self.parts]
        return tuple(np.stack(each) for each in zip(*pairs, strict=True))


def extracted(station, directory, mode="rgb3d", **options):
    options = {"image_size": SIZE, "backbone": backbone(), "batch_size": 4} | options
    return extract.extract(station(), mode=mode, cache_dir=directory, **options)


def assert_right(result, station):
    np.testing.assert_allclose(result.rgb, station.rgb(), atol=1e-3)
    channels, weight = station.depth()
    np.testing.assert_array_equal(result.depth, channels)
    np.testing.assert_array_equal(result.foreground, weight)


@pytest.mark.parametrize("count", [1, 4, 6, 8])
def test_features_are_the_backbones_and_the_preprocessings(tmp_path, count):
    station = Station(count)
    assert_right(extracted(station, tmp_path), station)


def test_uneven_batches_compile_once(tmp_path):
    TRACES.clear()
    jax.clear_caches()
    for seed, count in enumerate([7, 2, 9]):
        extracted(Station(count, seed), tmp_path, mode="rgb")
    assert TRACES == [(4, SIZE, SIZE, 3)]


def test_modes_share_what_they_have_in_common(tmp_path):
    station = Station(3)
    rgb = extracted(station, tmp_path, mode="rgb")
    assert rgb.depth is rgb.foreground is None
    only_depth = extracted(station, tmp_path, mode="3d", backbone=None)
    assert only_depth.rgb is None
    station.decoded.clear()
    assert_right(extracted(station, tmp_path), station)
    assert not station.decoded


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": backbone(2 * KERNEL, fingerprint="c")},
        {"image_size": 2 * SIZE},
        {"storage_dtype": "float16"},
    ],
)
def test_other_settings_are_other_features(tmp_path, change):
    station = Station(2)
    extracted(station, tmp_path, mode="rgb")
    station.decoded.clear()
    extracted(station, tmp_path, mode="rgb", **change)
    assert sorted(station.decoded) == [0, 1]


def test_other_parts_have_other_features(tmp_path):
    stations = [Station(3, seed) for seed in range(3)]
    for station in stations * 2:
        assert_right(extracted(station, tmp_path), station)


def test_an_added_picture_costs_one_and_splits_share(tmp_path):
    station = Station(5)
    extracted(station, tmp_path, mode="rgb")
    station.parts.insert(2, Station(1, seed=9).parts[0])
    station.decoded.clear()
    assert_right(extracted(station, tmp_path), station)
    assert sorted(station.decoded) == [0, 1, 2, 2, 3, 4, 5]  # all for the depth
    subset = Station(0)
    subset.parts = station.parts[3:1:-1]
    assert_right(extracted(subset, tmp_path), subset)
    assert not subset.decoded


def test_parts_with_the_same_picture_are_computed_once(tmp_path):
    station = Station(3)
    station.parts[2] = dataclasses.replace(station.parts[0], id="train/good/copy")
    assert_right(extracted(station, tmp_path), station)
    assert sorted(station.decoded) == [0, 0, 1, 1]


@pytest.mark.parametrize("shared", [True, False])
def test_processes_divide_the_parts_and_merge_nothing(tmp_path, monkeypatch, shared):
    first, second = Station(7), Station(7)
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def meet(_):
        assert sorted(first.decoded) == [0, 2, 4, 6]
        if shared:  # the second process has done its part by now
            with monkeypatch.context() as patch:
                patch.setattr(jax, "process_index", lambda: 1)
                patch.setattr(extract, "barrier", lambda _: None)
                extracted(second, tmp_path, mode="rgb")

    monkeypatch.setattr(extract, "barrier", meet)
    result = extracted(first, tmp_path, mode="rgb")
    np.testing.assert_allclose(result.rgb, first.rgb(), atol=1e-3)
    if shared:
        assert sorted(first.decoded) == [0, 2, 4, 6]
        assert sorted(second.decoded) == [1, 3, 5]
    else:
        assert sorted(first.decoded) == list(range(7))


def test_no_parts_have_no_features(tmp_path):
    result = extracted(Station(0), tmp_path)
    assert result.rgb.shape == (0, 2, 2, CHANNELS)
    assert result.depth.shape == (0, 2, 2, 64)
    assert result.foreground.shape == (0, 2, 2)


def test_half_precision_takes_half_the_room(tmp_path):
    station = Station(5)
    result = extracted(station, tmp_path, storage_dtype="float16")
    assert result.rgb.dtype == result.depth.dtype == np.float16
    np.testing.assert_allclose(result.rgb, station.rgb(), rtol=1e-3, atol=5e-2)
    np.testing.assert_array_equal(result.foreground, station.depth()[1])


def test_several_devices_extract_the_same_features(tmp_path):
    station = Station(5)
    seen = []
    devices = jax.devices()[:3]

    def watched(variables, images):
        jax.debug.inspect_array_sharding(images, callback=seen.append)
        return apply(variables, images)

    several = Backbone(**vars(backbone()) | {"apply": watched})
    assert_right(
        extracted(station, tmp_path, backbone=several, devices=devices), station
    )
    assert len(seen[0].device_set) == 3


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_that_are_not_finite_name_the_part(tmp_path, dtype):
    station = Station(6)
    huge = backbone(np.full_like(KERNEL, 1e38 if dtype == "float32" else 1e4))
    for part in station.parts[:5]:
        part.image[:] = 0
    with pytest.raises(UserError, match=rf"train/good/005.*not finite in {dtype}"):
        extracted(station, tmp_path, mode="rgb", backbone=huge, storage_dtype=dtype)
    assert not list(tmp_path.glob(f"**/{digests(station.parts[5])['image']}.npy"))


def test_a_part_without_what_the_mode_needs_is_named(tmp_path):
    with pytest.raises(UserError, match=r"train/good/000.*no point cloud"):
        extracted(Station(2, z=False), tmp_path / "rgb")
    with pytest.raises(UserError, match=r"train/good/000.*no image"):
        extracted(Station(2, image=False), tmp_path / "3d")


def test_a_part_that_cannot_be_decoded_stops_the_extraction(tmp_path):
    def read(index):
        if in_a_thread():
            raise UserError(f"part {index} is truncated")
        return Station(1).parts[0]

    entries = [Entry(name, "good", {"image": name, "z": name}) for name in "ab"]
    parts = Parts(entries, read)
    with pytest.raises(UserError, match="part 0 is truncated"):
        extracted(lambda: parts, tmp_path)


@pytest.mark.parametrize(("size", "proposal"), [(100, 96), (20, 32)])
def test_an_image_size_off_the_stride_is_refused(tmp_path, size, proposal):
    with pytest.raises(UserError, match=rf"{size} is not a multiple.*{proposal}"):
        extracted(Station(1), tmp_path, image_size=size)


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="'RGB' is not a valid Mode"):
        extracted(Station(1), tmp_path, mode="RGB")
    with pytest.raises(ValueError, match="Got 'int8'"):
        extracted(Station(1), tmp_path, storage_dtype="int8")
    with pytest.raises(ValueError, match="needs a backbone"):
        extracted(Station(1), tmp_path, backbone=None)


def test_an_interrupted_extraction_goes_on_where_it_was(tmp_path, monkeypatch):
    station = Station(9)
    check = extract._convert

    def interrupt(block, ids, dtype):
        if "train/good/008" in ids:
            raise KeyboardInterrupt
        return check(block, ids, dtype)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(extract, "_convert", interrupt)
        extracted(station, tmp_path, mode="rgb")
    station.decoded.clear()
    assert_right(extracted(station, tmp_path), station)
    assert station.decoded[0] == 8
    assert sorted(station.decoded[1:]) == list(range(9))  # for the depth


def test_damaged_features_are_computed_again(tmp_path, caplog):
    station = Station(5)
    extracted(station, tmp_path)
    damaged = [path for path in sorted(tmp_path.glob("*/*.npy")) if "rgb" in str(path)]
    content = damaged[1].read_bytes()
    damaged[1].write_bytes(content[:-40] + b"?" + content[-39:])
    damaged[3].write_bytes(content)
    station.decoded.clear()
    assert_right(extracted(station, tmp_path), station)
    assert len(station.decoded) == 2
    for at in (1, 3):
        assert f"{damaged[at]}: damaged" in caplog.text
