"""What every backbone is to those who call it, and what tells two of them apart."""

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
      stride: image pixels a position of the feature map.
      fingerprint: SHA-256 over everything that the features depend on.
      variables: a pytree of arrays, to be passed to `apply`.
      apply: (variables, images [b,h,w,3]) → features [b,h/stride,w/stride,channels];
        normalises the images itself and may be traced.
      standardise: whether the caller is to standardise each channel over the training
        set, because the features have no common scale.
      taps: how many channels each tap has, in the channels' order; () where all are of
        one tap.
      weights_sha256: of the file of weights; None where there is none.
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
    """SHA-256 (hex) over named values that JSON can hold, whatever their order.

    And over the type that every backbone computes in.
    """
    parts = parts | {"dtype": "float32"}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
