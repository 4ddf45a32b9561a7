"""A score map laid over its part, in the category's colours."""

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from ast_jax.inference.colours import OUTLINE, ColourScale, depth_picture, score_picture
from ast_jax.inference.prediction import Prediction

_OPACITY = 0.9  # of the brightest colour
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def overlay(prediction: Prediction, scale: ColourScale) -> UInt8[np.ndarray, "h w 3"]:
    """The part in grey under the map's colours, with outlines of marked regions.

    The higher the score, the more its colour covers the part; at the scale's low end it
    covers nothing. A part without an image is shown as its relief.
    """
    part = prediction.part
    picture = depth_picture(part.z) if part.image is None else part.image
    grey = picture @ _GREY
    position = scale.position(prediction.map)[..., None]
    opacity = _OPACITY * position
    colours = score_picture(position[..., 0])
    mixed = (1 - opacity) * grey[..., None] + opacity * colours
    picture = np.round(mixed).astype(np.uint8)
    if prediction.pixel_threshold is not None:
        picture[_outline(prediction.map > prediction.pixel_threshold)] = OUTLINE
    return picture


def _outline(marked: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """A line around the marked pixels."""
    thickness = max(1, round(max(marked.shape) / 400))
    return ndimage.binary_dilation(marked, iterations=thickness) & ~marked
