"""Whether the numbers of a depth map can be what they are taken for.

A wrong unit, a number that stands for "missing", or a cloud without a pixel grid would
train and score without a word, and badly. Each is told by what gives it away.
"""

import numpy as np
from absl import logging
from jaxtyping import Float32, Shaped

from ast_jax.data.depth_options import DepthOptions
from ast_jax.errors import UserError

FARTHEST = 100.0  # metres: no camera of parts looks so far
FAR = 20.0  # metres: worth a warning
_THINNEST, _THIN, _ELONGATED = 4, 16, 20  # pixels, pixels, length over width
_ORDER, _ORDERS = 10.0, 100.0  # one and two orders of magnitude
_ENDS = frozenset(
    float(end)
    for kind in (np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)
    for end in (np.iinfo(kind).min, np.iinfo(kind).max)
    if end
)
_LARGEST = float(np.finfo(np.float32).max)
_SAMPLE, _FEW = 50_000, 0.04


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Refuses what has no pixel grid: a list of points, a row, a column.

    Raises:
        UserError: the shape can't be a map's.
    """
    short, long = sorted(shape[:2])
    if short < _THINNEST or (short <= _THIN and long >= _ELONGATED * short):
        raise UserError(
            f"{name}: got shape {shape}, a list of points rather than a map; write z"
            " [h, w] or x, y, z [h, w, 3] on the image's pixel grid"
        )


def check_values(values: Shaped[np.ndarray, "h w"], name: str) -> None:
    """Refuses a number that seems to stand for "missing", other than 0 and NaN.

    Args:
        values: z as the file has it, in its own unit and type.
        name: what an error calls it.

    Raises:
        UserError: some value is foreign to all others.
    """
    present = values[(values != 0) & np.isfinite(values)]
    if not present.size:
        return
    low, high = present.min(), present.max()
    for value in dict.fromkeys((low, high)):
        if _is_foreign(value, present):
            count = np.count_nonzero(present == value)
            raise UserError(
                f"{name}: {count} of {values.size} depth values are {_plain(value)},"
                " which no other is near; if it means that depth is missing, set"
                f" --config.depth.missing={_plain(value)}, else write 0 there"
            )


def check_range(
    z: Float32[np.ndarray, "h w"], kind: str, name: str, options: DepthOptions
) -> None:
    """Refuses distances in metres that no camera has.

    Args:
        z: in metres, 0 = missing.
        kind: of the values that it was read from: "f" floats, "i" or "u" integers.
        name: what an error calls it.
        options: an explicit unit is believed.

    Raises:
        UserError: z is beyond any camera's reach.
    """
    some = _some(z.reshape(-1))
    present = np.abs(some[some != 0])
    if not present.size or options.unit != "auto":
        return
    distance = float(np.percentile(present, 95))
    read_as = "metres" if kind == "f" else "millimetres"
    other = "mm" if kind == "f" else "m"
    if distance >= FARTHEST:
        hint = (
            "set --config.depth.unit=mm if they are millimetres, m if they are metres"
            if kind == "f"
            else "write millimetres, or set --config.depth.unit=mm if they are"
        )
        raise UserError(
            f"{name}: depth of {distance:.4g} m, its values read as {read_as}, is more "
            f"than a camera's; {hint}"
        )
    if distance >= FAR:
        logging.log_first_n(
            logging.WARNING,
            "%s: depth of %.4g m, its values read as %s; if that is wrong, set "
            "--config.depth.unit=%s",
            1,
            *(name, distance, read_as, other),
        )


def _is_foreign(value: np.number, present: Shaped[np.ndarray, " n"]) -> bool:
    """Whether the lowest or highest value stands for something else than depth."""
    extreme, value_is = _is_extreme(value), float(value)
    if not extreme and value_is > 0:
        some = _some(present)
        usual = np.percentile(np.abs(some.astype(np.float64)), 95)
        if value_is < _ORDER * usual and np.mean(some == value) < _FEW:
            return False  # as nearly always
    others = present[present != value].astype(np.float64)
    if not others.size:
        return extreme
    low, high = float(others.min()), float(others.max())
    count, gap = present.size - others.size, max(low - value_is, value_is - high)
    usual = float(np.percentile(np.abs(_some(others)), 95))
    if extreme and (abs(value_is) >= _LARGEST or gap > (high - low) / 2):
        return True
    if value_is < 0 < low and (count > 1 or value_is == -1):
        # The only negative one. Heights about 0 would go on close to it.
        whole = not np.any(others % 1)
        if gap >= 10 if whole else low >= -value_is / 20:
            return True
    repeated = count > 2 and abs(value_is) >= _ORDER * usual
    outlier = repeated or abs(value_is) >= _ORDERS * usual
    return outlier and gap > high - low


def _is_extreme(value: np.number) -> bool:
    """Whether a number is the end of its own type, or of one that it came from."""
    if value.dtype.kind == "f" and abs(value) >= np.finfo(value.dtype).max:
        return True
    return abs(float(value)) >= _LARGEST or float(value) in _ENDS


def _some(values: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " m"]:
    """Every so manyth value: enough for a percentile."""
    return values[:: max(1, values.size // _SAMPLE)]


def _plain(value: np.number) -> str:
    wide = value.astype(np.float32) if value.dtype == np.float16 else value
    return str(wide).removesuffix(".0")
