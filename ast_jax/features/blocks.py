"""What the channels of x are: one block a modality and depth of the backbone."""

from typing import NamedTuple

from ml_collections import ConfigDict

from ast_jax.backbones import Backbone
from ast_jax.data.depth import UNSHUFFLE
from ast_jax.mode import Mode


class Block(NamedTuple):
    """Channels that come from one place.

    Attributes:
      modality: "rgb" or "depth".
      channels: how many.
    """

    modality: str
    channels: int


def channel_blocks(config: ConfigDict, backbone: Backbone | None) -> tuple[Block, ...]:
    """The blocks of x: colour's before depth's, each in the order of its taps."""
    mode, taps = Mode(config.mode), ()
    if backbone is not None:
        taps = backbone.taps or (backbone.channels,)
    of_depth = taps if config.depth.input == "normals" else (UNSHUFFLE**2,)
    blocks = [Block("rgb", size) for size in taps if mode.has_colour]
    return (*blocks, *(Block("depth", size) for size in of_depth if mode.has_depth))
