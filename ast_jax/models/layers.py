"""Layers: convolution, batch norm and initialisation as PyTorch's; the encoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ast_jax.models.ops.convolution import Padding, convolve, transform_kernel
from ast_jax.parameter import parameter

TRANSFORMED = "transformed"
"""The Flax collection of kernels that inference has transformed ahead, for a CPU."""

# PyTorch's default for kernels, uniform in ±1/√fan_in: docs/method.md "Initialisation".
torch_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias_init(fan_in: int) -> nn.initializers.Initializer:
    """Uniform in ±1/√fan_in, PyTorch's default for the bias of such a kernel."""
    bound = 1 / np.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """A k×k convolution with bias, initialised as `torch.nn.Conv2d`.

    Attributes:
      features: channels of the output.
      kernel_size: k, odd.
      padding: the values beyond the map's border.
      encoding_first: whether an encoding comes before x or after it.
      dtype: of the factors of products, see `convolve`; all else is float32.
    """

    features: int
    kernel_size: int = 3
    padding: Padding = "zero"
    encoding_first: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        encoding: Float[np.ndarray, "h w d"] | None = None,
        scale: Float[Array, "1"] | None = None,
    ) -> Float[Array, "b h w c2"]:
        """Convolves [x, encoding], or [encoding, x], and multiplies by `scale`.

        All images have the same encoding, so its part of the result is computed once
        and added to every image. `scale` multiplies kernel and bias, because these are
        smaller than a batch's maps.
        """
        d = 0 if encoding is None else encoding.shape[-1]
        k, c = self.kernel_size, x.shape[-1] + d
        shape = (k, k, c, self.features)
        kernel = parameter(self, "kernel", torch_kernel_init, shape)
        bias = parameter(self, "bias", torch_bias_init(k * k * c), (self.features,))
        # In place of maps that are not used, because convolutions are slow to trace.
        zeros = functools.partial(jnp.zeros, (*x.shape[:3], self.features))
        if self.is_initializing():
            return zeros()
        if scale is not None:
            kernel, bias = kernel * scale, bias * scale
        for_x = for_encoding = kernel
        if self.encoding_first and d:
            for_encoding, for_x = jnp.split(kernel, [d], axis=2)
        elif d:
            for_x, for_encoding = jnp.split(kernel, [x.shape[-1]], axis=2)
        if self.is_mutable_collection(TRANSFORMED):
            made = transform_kernel(for_x, x.shape, self.dtype)
            self.put_variable(TRANSFORMED, "kernel", made)
            return zeros()
        if encoding is None:
            return self._convolve(x, for_x) + bias
        share = jnp.asarray(encoding)[None]
        bias = convolve(share, for_encoding, self.padding, self.dtype) + bias
        # A product with ones, because XLA sums a broadcast's gradient 8 times slower.
        ones = jnp.ones((x.shape[0], 1))
        bias = jnp.matmul(ones, bias.reshape(1, -1), precision="highest")
        y = self._convolve(x, for_x)
        return y + bias.reshape(y.shape)

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Uses the transformed kernel, if there is one."""
        transformed = None
        if self.has_variable(TRANSFORMED, "kernel"):
            transformed = self.get_variable(TRANSFORMED, "kernel")
        return convolve(x, kernel, self.padding, self.dtype, transformed)


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's *unbiased* running variance.

    `flax.linen.BatchNorm` tracks the biased variance; PyTorch's factor is n/(n−1) with
    n = b·h·w over all devices, and evaluation depends on it (docs/method.md "Student").

    Attributes:
      axis_name: mapped axis over which the statistics are shared, or None.
      momentum: weight of the old running statistics (PyTorch's 0.1 is 0.9 here).
      epsilon: added to the variance.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Normalises with the batch's statistics if `train`, else the running ones."""
        c = x.shape[-1]
        scale = parameter(self, "scale", nn.initializers.ones, (c,))
        bias = parameter(self, "bias", nn.initializers.zeros, (c,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (c,))
        var = self.variable("batch_stats", "var", jnp.ones, (c,))
        if not train:
            return self._normalise(x, mean.value, var.value, scale, bias)
        batch_mean, batch_var, count = self._statistics(x)
        if not self.is_initializing():
            unbiased = batch_var * (count / (count - 1))
            mean.value += (1 - self.momentum) * (batch_mean - mean.value)
            var.value += (1 - self.momentum) * (unbiased - var.value)
        return self._normalise(x, batch_mean, batch_var, scale, bias)

    def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Mean and biased variance over the batch of all devices."""
        count = x.size // x.shape[-1]
        mean = x.mean((0, 1, 2))
        if self.axis_name is None or self.is_initializing():
            return mean, jnp.square(x - mean).mean((0, 1, 2)), count
        mean = lax.pmean(mean, self.axis_name)
        # Around the global mean, because E[x²] − E[x]² loses digits.
        var = lax.pmean(jnp.square(x - mean).mean((0, 1, 2)), self.axis_name)
        return mean, var, count * lax.axis_size(self.axis_name)

    def _normalise(self, x, mean, var, scale, bias) -> jax.Array:
        multiplier = scale * lax.rsqrt(var + self.epsilon)
        return x * multiplier + (bias - mean * multiplier)


def positional_encoding(
    height: int, width: int, channels: int = 32
) -> Float[np.ndarray, "h w d"]:
    """Sine and cosine of the column (first half of the channels) and the row (second).

    Frequencies fall from 1 to nearly 1e-4 per position, as in Vaswani et al. (2017).

    Raises:
      ValueError: `channels` does not divide by four.
    """
    if channels % 4:
        raise ValueError(f"channels must divide by 4. Got {channels}.")
    half = channels // 2
    frequencies = np.exp(np.arange(0, half, 2) * (-np.log(1e4) / half))
    encoding = np.zeros((height, width, channels), np.float32)
    columns = np.arange(width)[:, None] * frequencies
    rows = np.arange(height)[:, None, None] * frequencies
    encoding[..., 0:half:2], encoding[..., 1:half:2] = np.sin(columns), np.cos(columns)
    encoding[..., half::2], encoding[..., half + 1 :: 2] = np.sin(rows), np.cos(rows)
    return encoding
