"""The convolutions of an EfficientNet: the family's table, scaled, without weights.

Tan and Le, "EfficientNet: Rethinking Model Scaling" (2019, arXiv 1905.11946), table 1.
Layers have timm's names.
"""

import dataclasses
import math
from typing import NamedTuple

from ast_jax.errors import UserError

PADDINGS = ("same", "efficientnet_pytorch_0.7.1")


class Stage(NamedTuple):
    """A row of the paper's table 1: `repeats` blocks; the first one has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(repeats=1, kernel=3, stride=1, expansion=1, channels=16),
    Stage(repeats=2, kernel=3, stride=2, expansion=6, channels=24),
    Stage(repeats=2, kernel=5, stride=2, expansion=6, channels=40),
    Stage(repeats=3, kernel=3, stride=2, expansion=6, channels=80),
    Stage(repeats=3, kernel=5, stride=1, expansion=6, channels=112),
    Stage(repeats=4, kernel=5, stride=2, expansion=6, channels=192),
    Stage(repeats=1, kernel=3, stride=1, expansion=6, channels=320),
)
STEM_CHANNELS = 32


class Variant(NamedTuple):
    """The scale factors of a member of the family, and its training resolution."""

    width: float
    depth: float
    resolution: int
    lite: bool = False  # ReLU6, no squeeze-excite, stem and outer stages not deepened


VARIANTS = {
    "tf_efficientnet_b0": Variant(1.0, 1.0, 224),
    "tf_efficientnet_b1": Variant(1.0, 1.1, 240),
    "tf_efficientnet_b2": Variant(1.1, 1.2, 260),
    "tf_efficientnet_b3": Variant(1.2, 1.4, 300),
    "tf_efficientnet_b4": Variant(1.4, 1.8, 380),
    "tf_efficientnet_b5": Variant(1.6, 2.2, 456),
    "tf_efficientnet_b6": Variant(1.8, 2.6, 528),
    "tf_efficientnet_b7": Variant(2.0, 3.1, 600),
    "tf_efficientnet_lite0": Variant(1.0, 1.0, 224, lite=True),
    "tf_efficientnet_lite1": Variant(1.0, 1.1, 240, lite=True),
    "tf_efficientnet_lite2": Variant(1.1, 1.2, 260, lite=True),
    "tf_efficientnet_lite3": Variant(1.2, 1.4, 300, lite=True),
    "tf_efficientnet_lite4": Variant(1.4, 1.8, 380, lite=True),
}


@dataclasses.dataclass(frozen=True)
class Conv:
    """One convolution: its name in timm, its shape, and the batch norm folded into it.

    `norm` is timm's name of that batch norm; "" if the convolution has its own bias.
    `pads` is the (low, high) padding of both axes; None means TensorFlow's SAME for the
    input's size.
    """

    key: str
    norm: str
    kernel: int
    inputs: int
    outputs: int
    stride: int = 1
    depthwise: bool = False
    pads: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The kernel's shape, HWIO."""
        inputs = 1 if self.depthwise else self.inputs
        return (self.kernel, self.kernel, inputs, self.outputs)


@dataclasses.dataclass(frozen=True)
class Block:
    """An inverted residual block; `expand` and `squeeze` may be None."""

    expand: Conv | None
    depthwise: Conv
    squeeze: tuple[Conv, Conv] | None
    project: Conv

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        inputs = (self.expand or self.depthwise).inputs
        return self.depthwise.stride == 1 and inputs == self.project.outputs

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The block's convolutions in the order they run."""
        middle = (self.expand, self.depthwise, *(self.squeeze or ()), self.project)
        return tuple(conv for conv in middle if conv is not None)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network up to one stage, without weights."""

    stem: Conv
    stages: tuple[tuple[Block, ...], ...]
    lite: bool

    @property
    def convs(self) -> tuple[Conv, ...]:
        """All convolutions in the order they run."""
        blocks = (block for stage in self.stages for block in stage)
        return (self.stem, *(conv for block in blocks for conv in block.convs))

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.stages[-1][-1].project.outputs

    @property
    def stride(self) -> int:
        """Image pixels per position of the feature map."""
        return math.prod(conv.stride for conv in self.convs)


def architecture(name: str, stage: int, padding: str = "same") -> Architecture:
    """The network `name` (without tag) up to and including timm's `blocks[stage]`.

    Args:
      name: a key of `VARIANTS`.
      stage: 0 to 6; later layers are left out.
      padding: "same" as in timm, or "efficientnet_pytorch_0.7.1": that package computes
        the pads for the variant's own resolution and uses them for every image size.

    Raises:
      UserError: the name, the stage or the padding is unknown.
    """
    if name not in VARIANTS:
        raise UserError(f"backbone.name: no {name!r}; known: {', '.join(VARIANTS)}")
    if stage not in range(len(STAGES)):
        raise UserError(f"backbone.stage: {stage} is not in 0 … {len(STAGES) - 1}")
    if padding not in PADDINGS:
        raise UserError(
            f"backbone.padding: {padding!r} is not one of {', '.join(PADDINGS)}"
        )
    variant = VARIANTS[name]
    if padding != "same" and variant.lite:
        raise UserError(
            f"backbone.padding: {padding} has no {name}; take backbone.padding=same"
        )
    net = _build(variant, stage)
    return net if padding == "same" else _fix_pads(net, variant.resolution)


def _build(variant: Variant, stage: int) -> Architecture:
    stem_channels = STEM_CHANNELS if variant.lite else _scale(STEM_CHANNELS, variant)
    stem = Conv("conv_stem", "bn1", 3, 3, stem_channels, stride=2)
    stages, inputs = [], stem_channels
    for s, row in enumerate(STAGES[: stage + 1]):
        outputs = _scale(row.channels, variant)
        blocks = []
        for b in range(_repeats(s, variant)):
            stride = row.stride if b == 0 else 1
            blocks.append(
                _block(f"blocks.{s}.{b}", row, inputs, outputs, stride, variant.lite)
            )
            inputs = outputs
        stages.append(tuple(blocks))
    return Architecture(stem, tuple(stages), variant.lite)


def _scale(channels: int, variant: Variant) -> int:
    """`channels` times the width, as a multiple of 8 that is at most 10 % too small."""
    scaled = channels * variant.width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def _repeats(stage: int, variant: Variant) -> int:
    outer = stage in (0, len(STAGES) - 1)
    depth = 1.0 if variant.lite and outer else variant.depth
    return math.ceil(STAGES[stage].repeats * depth)


def _block(
    key: str, row: Stage, inputs: int, outputs: int, stride: int, lite: bool
) -> Block:
    wide = inputs * row.expansion
    expands = row.expansion > 1
    names = ("bn1", "bn2", "bn3") if expands else ("", "bn1", "bn2")
    norms = [f"{key}.{name}" for name in names]
    reduced = round(inputs / 4)
    return Block(
        expand=Conv(f"{key}.conv_pw", norms[0], 1, inputs, wide) if expands else None,
        depthwise=Conv(
            f"{key}.conv_dw", norms[1], row.kernel, wide, wide, stride, depthwise=True
        ),
        squeeze=None
        if lite
        else (
            Conv(f"{key}.se.conv_reduce", "", 1, wide, reduced),
            Conv(f"{key}.se.conv_expand", "", 1, reduced, wide),
        ),
        project=Conv(
            f"{key}.conv_pw{'l' if expands else ''}", norms[2], 1, wide, outputs
        ),
    )


def _fix_pads(net: Architecture, size: int) -> Architecture:
    """The network with the fixed pads that SAME computes for images of `size`."""

    def fix(conv: Conv) -> Conv:
        nonlocal size
        pads = same_pads(size, conv.kernel, conv.stride)
        size = -(-size // conv.stride)
        return dataclasses.replace(conv, pads=pads)

    stem = fix(net.stem)
    stages = tuple(
        tuple(dataclasses.replace(b, depthwise=fix(b.depthwise)) for b in stage)
        for stage in net.stages
    )
    return dataclasses.replace(net, stem=stem, stages=stages)


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding (low, high) of one axis; an odd pixel is at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
