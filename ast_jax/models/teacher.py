"""The teacher: a normalizing flow over feature maps, conditioned on the position
(paper, section 3.2).
"""

import distrax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ast_jax.models.coupling import AffineCoupling, ChannelPermutation
from ast_jax.models.layers import Conv, positional_encoding


class Conditioner(nn.Module):
    """conv(k×k, hidden) → ReLU → conv(k×k, features) → × γ, on [x, encoding].

    Attributes:
      features: channels of the output, scale and shift together.
      hidden: channels between the convolutions.
      kernel_size: k.
      encoding: [h, w, d] positional encoding joined behind the input, or None.
      gamma: whether the output is scaled by a learned γ that starts at 0, so that the
        flow starts as its permutations; else γ = 1.
      dtype: of the convolutions' factors; all else is float32.
    """

    features: int
    hidden: int
    kernel_size: int
    encoding: np.ndarray | None
    gamma: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c2"]:
        """Returns scale and shift, side by side."""
        conv = {"padding": "replicate", "dtype": self.dtype}
        conv1 = Conv(self.hidden, self.kernel_size, **conv, name="conv1")
        x = nn.relu(conv1(x, self.encoding))
        conv2 = Conv(self.features, self.kernel_size, **conv, name="conv2")
        gamma = self.param("gamma", nn.initializers.zeros, (1,)) if self.gamma else None
        return conv2(x, scale=gamma)


class Teacher(nn.Module):
    """A flow of `blocks` × (fixed permutation, two-sided affine coupling).

    Permutation k is `numpy.random.RandomState(k).permutation(c)`, as the authors'.

    Attributes:
      height: h of the feature map.
      width: w of the feature map.
      channels: c of the feature map.
      blocks: number of coupling blocks.
      hidden: channels inside the conditioners.
      clamp: bound of the couplings' log-scales.
      encoding_channels: d of the positional encoding; 0 for none.
      gamma: whether the conditioners start at zero by a learned factor.
      dtype: of the conditioners' convolutions' factors; all else is float32.
    """

    height: int
    width: int
    channels: int
    blocks: int = 4
    hidden: int = 64
    clamp: float = 1.9
    encoding_channels: int = 32
    gamma: bool = True
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Makes two conditioners a block."""
        encoding = None
        if self.encoding_channels:
            encoding = positional_encoding(
                self.height, self.width, self.encoding_channels
            )
        first = self.channels // 2

        def conditioners(features: int) -> list[Conditioner]:
            # The last block looks further: 5×5 (docs/method.md "Teacher").
            sizes = [3] * (self.blocks - 1) + [5]
            return [
                Conditioner(features, self.hidden, k, encoding, self.gamma, self.dtype)
                for k in sizes
            ]

        self.f1 = conditioners(2 * (self.channels - first))
        self.f2 = conditioners(2 * first)

    def bijector(self) -> distrax.Bijector:
        """The flow from features x to z, over the channels of every position."""
        steps = []
        for k in range(self.blocks):
            permutation = np.random.RandomState(k).permutation(self.channels)
            steps.append(ChannelPermutation(permutation))
            steps.append(AffineCoupling(self.f1[k], self.f2[k], self.clamp))
        return distrax.Chain(steps[::-1])  # a chain applies its last element first

    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w"]]:
        """Returns z and the log-det of dz/dx at each position."""
        return self.bijector().forward_and_log_det(x)

    def inverse(
        self, z: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w"]]:
        """Returns x and the log-det of dx/dz at each position."""
        return self.bijector().inverse_and_log_det(z)

    def log_prob(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w"]:
        """Returns the log-density of x under a standard normal z, at each position."""
        base = distrax.MultivariateNormalDiag(jnp.zeros(self.channels))
        flow = distrax.Inverse(self.bijector())
        return distrax.Transformed(base, flow).log_prob(x)
