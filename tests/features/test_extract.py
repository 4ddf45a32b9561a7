"""Feature extraction: right features whatever the batches, devices and damage."""

import contextlib
import itertools
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


class Station:
    """Random parts in memory, and a record of which were decoded.

    Only by threads: the type checker of the tests takes a look at a part, too.
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
        digests = {"image": "i", "z": "z"}  # the ids tell these parts apart
        entries = [Entry(part.id, part.defect, digests) for part in self.parts]

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


def test_features_are_mapped_from_the_disk_and_read_only(tmp_path):
    result = extracted(Station(2), tmp_path)
    for array in (result.rgb, result.depth, result.foreground):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


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
    assert not list(tmp_path.glob("**/array.npy"))


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

    parts = Parts([Entry("a", "good", {}), Entry("b", "good", {})], read)
    with pytest.raises(UserError, match="part 0 is truncated"):
        extracted(lambda: parts, tmp_path)


@pytest.mark.parametrize(("size", "proposal"), [(100, 96), (20, 32)])
def test_an_image_size_off_the_stride_is_refused(tmp_path, size, proposal):
    with pytest.raises(UserError, match=rf"{size} is not a multiple.*{proposal}"):
        extracted(Station(1), tmp_path, image_size=size)


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="Got 'RGB'"):
        extracted(Station(1), tmp_path, mode="RGB")
    with pytest.raises(ValueError, match="Got 'int8'"):
        extracted(Station(1), tmp_path, storage_dtype="int8")
    with pytest.raises(ValueError, match="needs a backbone"):
        extracted(Station(1), tmp_path, backbone=None)


def test_an_interrupted_extraction_goes_on_where_it_was(tmp_path, monkeypatch):
    station = Station(9)
    store = extract._stored

    def interrupt(block, ids, dtype):
        if "train/good/008" in ids:
            raise KeyboardInterrupt
        return store(block, ids, dtype)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(extract, "_stored", interrupt)
        extracted(station, tmp_path, mode="rgb")
    station.decoded.clear()
    assert_right(extracted(station, tmp_path), station)
    assert station.decoded[0] == 8
    assert sorted(station.decoded[1:]) == list(range(9))  # for the depth


def test_prefetching_keeps_the_order_and_a_bounded_store():
    started = []
    results = extract._prefetched(
        lambda item: started.append(item) or -item, itertools.count(), ahead=5
    )
    with contextlib.closing(results):
        assert list(itertools.islice(results, 20)) == [-item for item in range(20)]
        assert len(started) <= 25


def test_closing_ends_the_prefetching_threads():
    before = threading.active_count()
    results = extract._prefetched(abs, itertools.count(), ahead=5)
    next(results)
    results.close()
    assert threading.active_count() == before


def flip(rng, path, _other):
    content = bytearray(path.read_bytes())
    for position in rng.integers(len(content), size=rng.integers(1, 9)):
        content[position] ^= int(rng.integers(1, 256))
    path.write_bytes(content)


def truncate(rng, path, _other):
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def swap_files(_rng, path, other):
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def swap_entries(_rng, path, other):
    aside = path.parent.with_name("aside")
    path.parent.rename(aside)
    other.parent.rename(path.parent)
    aside.rename(other.parent)


def damages(folders):
    """Eleven ways to damage one or both of two entries of a kind, as
    (function, file, file that it is swapped with, indices of the damaged)."""
    for name, first in itertools.product(("array.npy", "blocks.txt"), (0, 1)):
        paths = folders[first] / name, folders[1 - first] / name
        for damage in (flip, truncate):
            yield damage, *paths, (first,)
        if not first:
            yield swap_files, *paths, (0, 1)
    yield swap_entries, *paths, (0, 1)


@pytest.mark.parametrize(("mode", "kind"), [("rgb", "rgb"), ("3d", "depth")])
def test_five_hundred_damaged_files_are_replaced_and_none_is_believed(
    tmp_path, caplog, mode, kind
):
    rng = np.random.default_rng(0)
    stations = [Station(3, seed) for seed in range(2)]
    folders, expected = [], []
    for station in stations:
        result = extracted(station, tmp_path, mode)
        expected.append([np.array(array) for array in vars(result).values()])
        folders.extend({*tmp_path.glob(f"{kind}-*/")} - {*folders})
    count = 0
    while count < 500:
        for damage, path, other, damaged in damages(folders):
            damage(rng, path, other)
            for index in damaged:
                caplog.clear()
                result = vars(extracted(stations[index], tmp_path, mode)).values()
                for array, right in zip(result, expected[index], strict=True):
                    np.testing.assert_array_equal(array, right)
                assert f"{folders[index]}: damaged" in caplog.text
                count += 1
