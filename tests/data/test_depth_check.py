"""Depth with a wrong unit or value is refused; unusual depth is accepted."""

import io
import re

import numpy as np
import pytest
import tifffile

from ast_jax.data import depth_check
from ast_jax.data.decode import decode_z, z_of_array
from ast_jax.data.depth import preprocess_depth
from ast_jax.data.depth_options import DepthOptions
from ast_jax.errors import UserError
from ast_jax.inference import read_part

RNG = np.random.default_rng(0)


def part(near=0.45, far=0.5, size=(40, 50)):
    """A box on a plane, with a scanner's noise; a tenth is missing."""
    z = np.full(size, float(far))
    z[10:30, 15:35] = near
    z += RNG.normal(0, (far - near) / 100, size)
    z[RNG.random(size) < 0.1] = 0
    return z.astype(np.float32)


def with_value(z, value, count=200):
    z = z.copy()
    z.flat[RNG.choice(z.size, count, replace=False)] = value
    return z


def millimetres(kind=np.uint16):
    return np.round(part() * 1000).astype(kind)


FOREIGN = {
    "uint16 end": (with_value(millimetres(), 65535), "65535"),
    "one pixel of it": (with_value(millimetres(), 65535, 1), "65535"),
    "int16 start": (with_value(millimetres(np.int16), -32768), "-32768"),
    "int16 -1": (with_value(millimetres(np.int16), -1), "-1"),
    "int32 end": (with_value(millimetres(np.int32), 2**31 - 1), "2147483647"),
    "the end of 12 bits": (with_value(millimetres(), 4095), "4095"),
    "float -1": (with_value(part(), -1), "-1"),
    "-1 of a microscope": (with_value(part(4e-3, 5e-3), -1), "-1"),
    "float -9999": (with_value(part(), -9999), "-9999"),
    "float 9999": (with_value(part(), 9999), "9999"),
    "-1e30": (with_value(part(), -1e30, 1), r"-1e\+30"),
    "1e10": (with_value(part(), 1e10, 1), r"1e\+10"),
    "float32 end": (with_value(part(), np.finfo(np.float32).max), r"3.4028235e\+38"),
    "float16 end": (with_value(part().astype(np.float16), 65504), "65504"),
    "65535 in floats": (with_value(part(450, 500), 65535), "65535"),
    "nothing but -1": (np.full((9, 9), -1, np.float32), "-1"),
    "nothing but 65535": (np.full((9, 9), 65535, np.uint16), "65535"),
}
SOUND = {
    "a bench": part(),
    "a microscope": part(4e-3, 5e-3),
    "micrometres off a plane": part(1e-5, 2e-5),
    "a hall": part(8, 18),
    "heights about 0": RNG.normal(0, 1e-3, (40, 50)),
    "a part on heights about 0": np.where(part() > 0.47, 0, 0.05)
    + np.abs(RNG.normal(0, 1e-5, (40, 50))),
    "an axis towards the camera": -part(),
    "whole heights about 0": np.maximum(RNG.integers(-1, 30, (40, 50)), -1),
    "millimetres": millimetres(),
    "all of 16 bits but the far ones": RNG.integers(1, 15_000, (40, 50)).astype("u2"),
    "a pixel that flies off": with_value(part(), 9.5, 1),
    "a rendered background": np.where(part() > 0.47, np.float32(1), part(0.3, 0.31)),
    "flat": np.full((40, 50), 0.5, np.float32),
    "empty": np.zeros((40, 50), np.float32),
}


@pytest.mark.parametrize("values, value", FOREIGN.values(), ids=FOREIGN)
def test_a_number_that_stands_for_missing_is_told(values, value):
    options = DepthOptions(unit="mm" if np.median(np.abs(values)) > 100 else "auto")
    with pytest.raises(UserError, match=rf"^a\.npy: .*missing=({value}),"):
        z_of_array(values, "a.npy", options)


@pytest.mark.parametrize("values", [v for v, _ in FOREIGN.values()], ids=FOREIGN)
def test_once_named_it_is_missing(values):
    most_foreign = max(values.min(), values.max(), key=lambda v: abs(float(v) - 400))
    options = DepthOptions(unit="mm", missing=float(most_foreign))
    z = z_of_array(values, "a.npy", options)
    np.testing.assert_array_equal(z == 0, (values == most_foreign) | (values == 0))


@pytest.mark.parametrize(
    "values, value", [(part(), 1e-6), (millimetres(), 1)], ids=["metres", "mm"]
)
def test_a_number_next_to_zero_is_told(values, value):
    values = with_value(values, value)
    with pytest.raises(UserError, match=r"^a\.npy: .*missing=(1e-06|1),"):
        z_of_array(values, "a.npy")
    z = z_of_array(values, "a.npy", DepthOptions(missing=value))
    assert z[z > 0].min() > 0.4


@pytest.mark.parametrize("values, unit", [(part(), "mm"), (millimetres(), "m")])
def test_a_unit_that_gives_no_cameras_distances_is_warned_of(monkeypatch, values, unit):
    told = []
    monkeypatch.setattr(
        depth_check.logging,
        "log_first_n",
        lambda level, text, n, *values: told.append(text % values),
    )
    z_of_array(values, "a.npy", DepthOptions(unit=unit))
    assert re.match(rf"a\.npy: .*--config\.depth\.unit={unit};", told[0])
    z_of_array(values, "a.npy", DepthOptions())
    assert len(told) == 1


@pytest.mark.parametrize("values", SOUND.values(), ids=SOUND)
def test_what_a_camera_may_see_is_read(values):
    values = np.asarray(values)
    scale = 1e-3 if values.dtype.kind in "iu" else 1
    np.testing.assert_allclose(z_of_array(values, "a"), values * scale, rtol=1e-6)


@pytest.mark.parametrize("near, far", [(450, 500), (120, 125), (8_000, 30_000)])
def test_millimetres_in_floats_are_told_and_read(near, far):
    values = part(near, far)
    with pytest.raises(UserError, match=r"^a\.npy: .*--config\.depth\.unit=mm"):
        z_of_array(values, "a.npy")
    z = z_of_array(values, "a.npy", DepthOptions(unit="mm"))
    np.testing.assert_allclose(z, values / 1000, rtol=1e-6)
    np.testing.assert_array_equal(
        z_of_array(values, "a.npy", DepthOptions(unit="m")), values
    )


def test_integers_may_be_metres():
    values = RNG.integers(1, 60, (40, 50)).astype(np.uint16)
    np.testing.assert_array_equal(z_of_array(values, "a", DepthOptions("m")), values)


def test_infinity_may_mean_missing():
    values = with_value(part(), np.inf)
    with pytest.raises(UserError, match=re.escape("--config.depth.missing=inf")):
        z_of_array(values, "a")
    z = z_of_array(values, "a", DepthOptions(missing=np.inf))
    np.testing.assert_array_equal(z, np.where(np.isinf(values), 0, values))


@pytest.mark.parametrize(
    "shape", [(5000, 3), (5000, 1, 3), (1, 5000, 3), (3, 5000), (50, 3), (5000, 6)]
)
def test_a_list_of_points_is_no_map(shape):
    with pytest.raises(UserError, match=rf"^a\.npy: .*{re.escape(str(shape))}.*grid"):
        z_of_array(np.full(shape, 0.5, np.float32), "a.npy")


def test_files_and_arrays_of_a_part_are_looked_at_with_the_runs_options(tmp_path):
    values = with_value(part(450, 500), -1)
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, values)
    options = DepthOptions(unit="mm", missing=-1)
    for xyz, name in ((path, str(path)), (values, "xyz")):
        with pytest.raises(UserError, match=f"^{re.escape(name)}: "):
            read_part.decode("3d", None, xyz)
        z = read_part.decode("3d", None, xyz, depth_options=options).z
        np.testing.assert_allclose(z, np.maximum(values, 0) / 1000, rtol=1e-6)


def test_prepared_data_are_not_looked_at_again():
    file = io.BytesIO()
    np.save(file, part(450, 500))
    z = decode_z(file.getvalue(), "a", checked=False)
    assert z.max() > 400


def test_the_foreground_starts_where_it_is_said_to():
    z = np.full((64, 64), 0.5, np.float32)
    z[20:44, 20:44] -= 0.004
    _, whole = preprocess_depth(z, 8)
    _, weight = preprocess_depth(z, 8, DepthOptions(foreground_distance=0.002))
    assert whole.min() == 1
    assert weight.min() == 0
    assert weight[3:5, 3:5].min() == 1


@pytest.mark.parametrize("dilation", [1, 4, 7, 15])
def test_the_foreground_grows_by_the_box_that_is_said(dilation):
    z = np.full((64, 64), 0.5, np.float32)
    z[24:40, 24:40] -= 0.05
    areas = []
    for size in (dilation, dilation + 1):
        _, weight = preprocess_depth(z, 8, DepthOptions(dilation=size))
        areas.append(weight.sum())
    assert areas[0] <= areas[1] <= 64


def test_gaps_are_filled_as_far_as_is_said():
    z = np.full((64, 64), 0.5, np.float32)
    z[20:44, 20:44] -= 0.05
    z[30:34, 30:34] = 0
    _, none = preprocess_depth(z, 64, DepthOptions(fill_rounds=0, dilation=1))
    _, all_of_it = preprocess_depth(z, 64, DepthOptions(fill_rounds=2, dilation=1))
    assert none[31, 31] == 0
    assert all_of_it[31, 31] == 1


def test_only_what_differs_from_the_default_names_another_cache_entry():
    assert not DepthOptions().reading
    assert not DepthOptions().processing
    options = DepthOptions(unit="mm", fill_rounds=1)
    assert options.reading == {"unit": "mm"}
    assert options.processing == {"fill_rounds": 1}
