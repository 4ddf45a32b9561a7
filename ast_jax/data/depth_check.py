"""Checks that the numbers of a depth map can be distances.

Without these checks, a wrong unit, a number that means "missing", or a cloud without a
pixel grid would give a bad detector without any error.
"""

import numpy as np
from absl import logging
from jaxtyping import Float32, Shaped

from ast_jax.data.depth_options import DepthOptions
from ast_jax.errors import UserError

FARTHEST = 100.0  # metres; no camera that looks at parts reaches so far
FAR = 20.0  # metres; a warning from here on
NEAREST = 1e-3  # metres; a warning up to here: metres that are read as millimetres
_THINNEST, _THIN, _ELONGATED = 4, 16, 20  # pixels, pixels, length over width
_ORDER, _ORDERS = 10.0, 100.0  # one and two orders of magnitude
_ENDS = frozenset(
    float(end)
    for kind in (np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)
    for end in (np.iinfo(kind).min, np.iinfo(kind).max)
    if end
) | {1023.0, 4095.0, 16383.0}  # of sensors of 10, 12 and 14 bits
_LARGEST = float(np.finfo(np.float32).max)
_SAMPLE, _FEW = 50_000, 0.04


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Refuses arrays without a pixel grid: a list of points, a row, a column.

    Raises:
        UserError: the shape cannot be a map's.
    """
    short, long = sorted(shape[:2])
    if short < _THINNEST or (short <= _THIN and long >= _ELONGATED * short):
        raise UserError(
            f"{name}: got shape {shape}, a list of points rather than a map; write z"
            " [h, w] or x, y, z [h, w, 3] on the image's pixel grid"
        )


def check_values(values: Shaped[np.ndarray, "h w"], name: str) -> None:
    """Refuses a number, other than 0 and NaN, that seems to mean "missing".

    Args:
        values: z as the file has it, in its own unit and type.
        name: the name in an error.

    Raises:
        UserError: a value is far from all others.
    """
    present = values[(values != 0) & np.isfinite(values)]
    if not present.size:
        return
    low, high = present.min(), present.max()
    for value in dict.fromkeys((low, high)):
        if _is_foreign(value, present):
            count = np.count_nonzero(present == value)
            text = _number_text(value)
            raise UserError(
                f"{name}: {count} of {values.size} depth values are {text}, which no "
                "other is near; if it means that depth is missing, set "
                f"--config.depth.missing={text}, else write 0 there"
            )


def check_range(
    z: Float32[np.ndarray, "h w"], kind: str, name: str, options: DepthOptions
) -> None:
    """Refuses distances in metres that no camera has.

    Args:
        z: in metres, 0 = missing.
        kind: of the values in the file: "f" floats, "i" or "u" integers.
        name: the name in an error.
        options: if they have an explicit unit, nothing is checked.

    Raises:
        UserError: z is beyond any camera's reach.
    """
    some = _sample(z.reshape(-1))
    present = np.abs(some[some != 0])
    if not present.size:
        return
    distance = float(np.percentile(present, 95))
    if options.unit != "auto":
        if not NEAREST < distance < FARTHEST:
            logging.log_first_n(
                logging.WARNING,
                "%s: depth of %.4g m with --config.depth.unit=%s; is it that unit?",
                1,
                *(name, distance, options.unit),
            )
        return
    read_as = "metres" if kind == "f" else "millimetres"
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
        remedy = "set --config.depth.unit=mm" if kind == "f" else "write millimetres"
        logging.log_first_n(
            logging.WARNING,
            "%s: depth of %.4g m, its values read as %s; if that is wrong, %s",
            1,
            *(name, distance, read_as, remedy),
        )


def _is_foreign(value: np.number, present: Shaped[np.ndarray, " n"]) -> bool:
    """Whether the lowest or highest value probably is no depth."""
    extreme, number = _is_extreme(value), float(value)
    if not extreme and number > 0:
        some = _sample(present)
        usual = np.percentile(np.abs(some.astype(np.float64)), 95)
        near = usual / _ORDERS < number < _ORDER * usual
        if near and np.mean(some == value) < _FEW:
            return False  # a quick answer for nearly all maps
    others = present[present != value].astype(np.float64)
    if not others.size:
        return extreme or number < 0
    low, high = float(others.min()), float(others.max())
    count, gap = present.size - others.size, max(low - number, number - high)
    usual = float(np.percentile(np.abs(_sample(others)), 95))
    if extreme and (abs(number) >= _LARGEST or gap > (high - low) / 2):
        return True
    if number < 0 < low and (count > 1 or number == -1):
        # The only negative value. Real heights around 0 would have neighbours close by.
        whole = not np.any(others % 1)
        if gap >= 10 if whole else low >= -number / 20:
            return True
    if number > 0 and count > 2 and number * _ORDERS <= low:
        return True
    repeated = count > 2 and abs(number) >= _ORDER * usual
    outlier = repeated or abs(number) >= _ORDERS * usual
    return outlier and gap > high - low


def _is_extreme(value: np.number) -> bool:
    """Whether a number is the limit of its own type, or of an integer type."""
    if value.dtype.kind == "f" and abs(value) >= np.finfo(value.dtype).max:
        return True
    return abs(float(value)) >= _LARGEST or float(value) in _ENDS


def _sample(values: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " m"]:
    """An even sample of the values, enough for a percentile."""
    return values[:: max(1, values.size // _SAMPLE)]


def _number_text(value: np.number) -> str:
    wide = value.astype(np.float32) if value.dtype == np.float16 else value
    return str(wide).removesuffix(".0")
