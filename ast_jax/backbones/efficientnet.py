"""EfficientNet up to one stage, as in timm's `tf_efficientnet_*` models.

The networks are for inference: `timm_weights.py` has folded batch norm into the
convolutions. `architecture.py` lists the layers.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ast_jax.backbones.architecture import Architecture, Block, Conv, same_pads
from ast_jax.backbones.taps import join
from ast_jax.parameter import parameter
from ast_jax.platforms import run_by_platform

Variables = Mapping[str, Mapping[str, Array | np.ndarray]]
Pads = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k i d"],
    stride: int,
    pads: Pads,
) -> Float[Array, "b y x d"]:
    """JAX's convolution; depthwise if the kernel has one input channel."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def convolve_depthwise(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k 1 c"],
    stride: int,
    pads: Pads,
) -> Float[Array, "b y x c"]:
    """A depthwise convolution as a sum of shifted, strided slices times a weight.

    XLA fuses the sum into one loop, which on a CPU is many times faster than its
    grouped convolution.
    """
    k = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    # Without the barrier XLA computes the activation before it k² times.
    x = jax.lax.optimization_barrier(x)
    rows, columns = ((n - k) // stride * stride + 1 for n in x.shape[1:3])
    taps = (
        x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
        for i in range(k)
        for j in range(k)
    )
    return sum(taps)


class Weights(NamedTuple):
    """A convolution's kernel (HWIO) and bias."""

    kernel: Float[Array, "k k i d"]
    bias: Float[Array, " d"]


class EfficientNet(nn.Module):
    """The network of an `Architecture`.

    Parameters have timm's names of layers. `shifted` is for a CPU: it computes
    depthwise convolutions by `convolve_depthwise`, and needs less memory.
    """

    net: Architecture
    shifted: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b y x c"]:
        """The feature map of normalised images.

        The intermediates "stem", "stage0" … are the outputs of the stem and each stage.
        """
        x = self._activate(self._layer(self.net.stem, x))
        self.sow("intermediates", "stem", x)
        for number, stage in enumerate(self.net.stages):
            for block in stage:
                x = self._block(block, x)
            self.sow("intermediates", f"stage{number}", x)
        return x

    def _block(self, block: Block, x: Array) -> Array:
        y = self._widen(block, x)
        gate = self._gate(block.squeeze, y) if block.squeeze else None
        y = self._layer(block.project, y, gate)
        return x + y if block.residual else y

    def _widen(self, block: Block, x: Array) -> Array:
        """The expanding and the depthwise convolution."""
        convs = (block.expand, block.depthwise) if block.expand else (block.depthwise,)

        def run(layers: tuple[Weights, ...]) -> Array:
            y = x
            for conv, weights in zip(convs, layers, strict=True):
                y = self._activate(self._convolve(conv, weights, y))
            return y

        layers = tuple(map(self._weights, convs))
        if not (self.shifted and block.expand and block.depthwise.stride > 1):
            return run(layers)
        # The expanded array before a stride is the network's largest. A third of its
        # channels at a time halves the memory on a CPU, and takes no more time.
        thirds = jax.tree.map(
            lambda a: jnp.moveaxis(a.reshape(*a.shape[:-1], 3, -1), -2, 0), layers
        )
        y = jnp.moveaxis(jax.lax.map(run, thirds), 0, -2)
        return y.reshape(*y.shape[:-2], -1)

    def _gate(self, squeeze: tuple[Conv, Conv], y: Array) -> Array:
        reduce, expand = squeeze
        pooled = jnp.mean(y, axis=(1, 2), keepdims=True)
        return nn.sigmoid(
            self._layer(expand, self._activate(self._layer(reduce, pooled)))
        )

    def _layer(self, conv: Conv, x: Array, gate: Array | None = None) -> Array:
        return self._convolve(conv, self._weights(conv), x, gate)

    def _weights(self, conv: Conv) -> Weights:
        normal, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        kernel = parameter(self, f"{conv.key}.kernel", normal, conv.shape)
        bias = parameter(self, f"{conv.key}.bias", zeros, (conv.outputs,))
        return Weights(kernel, bias)

    def _convolve(
        self, conv: Conv, weights: Weights, x: Array, gate: Array | None = None
    ) -> Array:
        """`conv` of x [b,h,w,c]; a `gate` [b,1,1,c] scales its input channels first."""
        kernel, bias = weights
        if gate is not None:  # scaling the kernel saves a pass over the larger x
            gated = gate[:, 0, 0, :, None] * kernel[0, 0]
            return jnp.einsum("bhwc,bcd->bhwd", x, gated) + bias
        if conv.kernel == 1:
            return x @ kernel[0, 0] + bias
        pads = tuple(
            conv.pads or same_pads(n, conv.kernel, conv.stride) for n in x.shape[1:3]
        )
        apply = convolve_depthwise if conv.depthwise and self.shifted else convolve
        return apply(x, kernel, conv.stride, pads) + bias

    def _activate(self, x: Array) -> Array:
        return nn.relu6(x) if self.net.lite else nn.silu(x)


def extract(
    net: Architecture,
    variables: Variables,
    images: Float[Array, "b h w 3"],
    taps: tuple[int, ...] = (),
) -> Float[Array, "b y x c"]:
    """The feature maps of normalised images, in the fastest way of the platform.

    A CPU computes one image after the other, in the memory of one image, and depthwise
    convolutions as shifted sums. Other devices compute the whole batch by JAX's
    convolution.

    Args:
      net: the architecture, up to the last tap.
      variables: its weights.
      images: normalised.
      taps: the stages whose outputs are joined; () for the last one alone.
    """

    def features(model: EfficientNet, variables: Variables, images: Array) -> Array:
        if not taps:
            return model.apply(variables, images)
        _, sown = model.apply(variables, images, mutable=["intermediates"])
        stages = sown["intermediates"]
        return join([stages[f"stage{tap}"][0] for tap in taps])

    def one_by_one(variables: Variables, images: Array) -> Array:
        model = EfficientNet(net, shifted=True)
        one = functools.partial(features, model, variables)
        return jax.lax.map(lambda x: one(x[None])[0], images)

    return run_by_platform(
        variables,
        images,
        cpu=one_by_one,
        default=functools.partial(features, EfficientNet(net)),
    )
