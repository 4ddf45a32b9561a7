"""The blocks of channels of x: one for each modality and each tap of the backbone."""

from typing import NamedTuple

from ml_collections import ConfigDict

from ast_jax.backbones import Backbone
from ast_jax.data.depth import UNSHUFFLE
from ast_jax.mode import Mode


class Block(NamedTuple):
    """Channels with one origin.

    Attributes:
      modality: "rgb" or "depth".
      channels: their number.
    """

    modality: str
    channels: int


def channel_blocks(config: ConfigDict, backbone: Backbone | None) -> tuple[Block, ...]:
    """The blocks of x: first colour, then depth, each in the order of the taps."""
    mode, taps = Mode(config.mode), ()
    if backbone is not None:
        taps = backbone.taps or (backbone.channels,)
    depths = taps if config.depth.input == "normals" else (UNSHUFFLE**2,)
    blocks = [Block("rgb", size) for size in taps if mode.has_colour]
    return (*blocks, *(Block("depth", size) for size in depths if mode.has_depth))
