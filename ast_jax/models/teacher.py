"""The teacher: a normalizing flow over feature maps, conditioned on the position.

Paper, section 3.2. Distrax, which takes half a second, is imported where a flow is
built: a detector that finds its traced programs builds none.
"""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ast_jax.models.groups import Group
from ast_jax.models.layers import Conv, positional_encoding
from ast_jax.parameter import parameter

if TYPE_CHECKING:
    import distrax


class Conditioner(nn.Module):
    """conv(k×k, hidden) → ReLU → conv(k×k, features) → × γ, on [x, encoding].

    Attributes:
      features: channels of the output; for an affine coupling scale and shift together.
      hidden: channels between the convolutions.
      kernel_size: k.
      encoding: [h, w, d] positional encoding after the input, or None.
      gamma: whether γ is learned. It starts at 0, so that the flow starts as its
        permutations. Otherwise γ = 1.
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
        """Returns the shift; for an affine coupling the scale, then the shift."""
        conv = {"padding": "replicate", "dtype": self.dtype}
        conv1 = Conv(self.hidden, self.kernel_size, **conv, name="conv1")
        x = nn.relu(conv1(x, self.encoding))
        conv2 = Conv(self.features, self.kernel_size, **conv, name="conv2")
        gamma = None
        if self.gamma:
            gamma = parameter(self, "gamma", nn.initializers.zeros, (1,))
        return conv2(x, scale=gamma)


class Flow(nn.Module):
    """A module with a `bijector` from features x to z, for both directions."""

    def bijector(self) -> "distrax.Bijector":
        """The flow from features x to z, over the channels of every position."""
        raise NotImplementedError

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


class Teacher(Flow):
    """A flow of `blocks` × (fixed permutation, two-sided coupling).

    Permutation k is `numpy.random.RandomState(k).permutation(c)`, as in the authors'
    code.

    Attributes:
      height: h of the feature map.
      width: w of the feature map.
      channels: c of the feature map.
      blocks: number of coupling blocks; 0, with "additive", leaves the scales.
      hidden: channels inside the conditioners.
      clamp: bound of affine couplings' log-scales.
      encoding_channels: d of the positional encoding; 0 for no encoding.
      gamma: whether a learned factor lets the conditioners start at zero.
      coupling: "affine", or "additive" with one learned log-scale per channel after
        the last block.
      last_kernel_size: k of the last block; the others have 3.
      dtype: of the factors in the conditioners' convolutions; all else is float32.
    """

    height: int
    width: int
    channels: int
    blocks: int = 4
    hidden: int = 64
    clamp: float = 1.9
    encoding_channels: int = 32
    gamma: bool = True
    coupling: str = "affine"
    last_kernel_size: int = 5
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Makes two conditioners for each block."""
        encoding = None
        if self.encoding_channels:
            encoding = positional_encoding(
                self.height, self.width, self.encoding_channels
            )
        first = self.channels // 2
        outputs = 2 if self.coupling == "affine" else 1

        def conditioners(features: int) -> list[Conditioner]:
            # The paper's last block sees 5×5 positions (docs/method.md "Teacher").
            sizes = [3] * self.blocks
            sizes[-1:] = [self.last_kernel_size] * bool(sizes)
            return [
                Conditioner(features, self.hidden, k, encoding, self.gamma, self.dtype)
                for k in sizes
            ]

        self.f1 = conditioners(outputs * (self.channels - first))
        self.f2 = conditioners(outputs * first)
        if self.coupling == "additive":
            shape = (self.channels,)
            zeros = nn.initializers.zeros
            self.log_scale = parameter(self, "log_scale", zeros, shape)

    def bijector(self) -> "distrax.Bijector":
        """The flow from features x to z, over the channels of every position."""
        import distrax

        from ast_jax.models import coupling

        steps = []
        for k in range(self.blocks):
            permutation = np.random.RandomState(k).permutation(self.channels)
            steps.append(coupling.ChannelPermutation(permutation))
            if self.coupling == "affine":
                steps.append(
                    coupling.AffineCoupling(self.f1[k], self.f2[k], self.clamp)
                )
            else:
                steps.append(coupling.AdditiveCoupling(self.f1[k], self.f2[k]))
        if self.coupling == "additive":
            steps.append(coupling.ChannelScale(self.log_scale))
        return distrax.Chain(steps[::-1])  # a chain applies its last element first

    def log_prob(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w"]:
        """Returns the log-density of x under a standard normal z, at each position."""
        import distrax

        base = distrax.MultivariateNormalDiag(jnp.zeros(self.channels))
        flow = distrax.Inverse(self.bijector())
        return distrax.Transformed(base, flow).log_prob(x)


class ParallelTeacher(Flow):
    """Teachers side by side, each for a group of channels; z is in the groups' order.

    Attributes:
      teachers: one for each group.
      groups: the channels of each; every channel is in one group.
    """

    teachers: tuple[Teacher, ...]
    groups: tuple[Group, ...]

    @property
    def height(self) -> int:
        """h of the feature map."""
        return self.teachers[0].height

    @property
    def width(self) -> int:
        """w of the feature map."""
        return self.teachers[0].width

    @property
    def channels(self) -> int:
        """c of the feature map."""
        return sum(group.size for group in self.groups)

    @property
    def dtype(self) -> DTypeLike:
        """The type of the convolutions' factors, the same in all teachers."""
        return self.teachers[0].dtype

    def bijector(self) -> "distrax.Bijector":
        """The flow from features x to z, over the channels of every position."""
        import distrax

        from ast_jax.models import coupling

        order = np.concatenate(
            [np.arange(*ends) for group in self.groups for ends in group.channels]
        )
        sizes = [group.size for group in self.groups]
        flows = coupling.Parallel(
            [teacher.bijector() for teacher in self.teachers], sizes
        )
        if np.array_equal(order, np.arange(self.channels)):
            return flows
        return distrax.Chain([flows, coupling.ChannelPermutation(order)])
