"""The interface of all backbones, and the fingerprint of one."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, UInt8

PyTree = Any
Triple = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A feature extractor: arrays, and a pure function of them and of images.

    Attributes:
      name: as configured.
      channels: of the feature map.
      stride: image pixels per position of the feature map.
      fingerprint: SHA-256 over everything that the features depend on.
      variables: a pytree of arrays, the first argument of `apply`.
      apply: (variables, images [b,h,w,3]) → features [b,h/stride,w/stride,channels];
        normalises the images and may be traced.
      standardise: whether the caller must standardise each channel over the training
        set, because the features have no common scale.
      taps: the number of channels of each tap, in their order; () for a single tap.
      weights_sha256: of the file of weights; None without a file.
    """

    name: str
    channels: int
    stride: int
    fingerprint: str
    variables: PyTree
    apply: Callable[[PyTree, UInt8[Array, "b h w 3"]], Float[Array, "b i j c"]]
    standardise: bool
    taps: tuple[int, ...] = ()
    weights_sha256: str | None = None


def fingerprint(**parts: Any) -> str:
    """SHA-256 (hex) over named values, in any order, and the type of the computation.

    JSON must be able to hold the values.
    """
    parts = parts | {"dtype": "float32"}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
