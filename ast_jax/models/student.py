"""The student: a residual network that imitates the teacher on good parts.

Paper, section 3.3. Unlike the teacher it is not a bijection. So outside the training
distribution it generalises differently, and the difference shows a defect.
"""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ast_jax.models.groups import Group, take
from ast_jax.models.layers import BatchNorm, Conv, positional_encoding
from ast_jax.models.teacher import Teacher


class ResidualBlock(nn.Module):
    """conv3×3 → BN → LeakyReLU → conv3×3 → BN → LeakyReLU → + input."""

    negative_slope: float = 0.01
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Returns a map of the input's shape."""
        y = x
        for k in (1, 2):
            y = Conv(x.shape[-1], dtype=self.dtype, name=f"conv{k}")(y)
            y = BatchNorm(self.axis_name, name=f"bn{k}")(y, train=train)
            y = nn.leaky_relu(y, self.negative_slope)
        return x + y


class Student(nn.Module):
    """conv3×3 → LeakyReLU → residual blocks → conv3×3, on [encoding, x].

    Attributes:
      width: channels inside the network.
      blocks: number of residual blocks.
      negative_slope: of LeakyReLU; the authors' code has 0.01, the paper 0.2.
      encoding_channels: d of the positional encoding; 0 for no encoding.
      axis_name: mapped axis that shares the batch statistics, or None.
      outputs: channels of the teacher's z; None means those of the input.
      dtype: of the convolutions' factors; all else is float32.
    """

    width: int = 1024
    blocks: int = 4
    negative_slope: float = 0.01
    encoding_channels: int = 32
    axis_name: str | None = None
    outputs: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b h w c2"]:
        """Returns ẑ [b, h, w, outputs], the student's estimate of the teacher's z."""
        conv = functools.partial(Conv, dtype=self.dtype)
        channels, encoding = self.outputs or x.shape[-1], None
        if self.encoding_channels:
            encoding = positional_encoding(*x.shape[1:3], self.encoding_channels)
        # The teacher's conditioners have x first and the encoding after it.
        conv1 = conv(self.width, encoding_first=True, name="conv1")
        x = nn.leaky_relu(conv1(x, encoding), self.negative_slope)
        for k in range(self.blocks):
            block = ResidualBlock(
                self.negative_slope, self.axis_name, self.dtype, name=f"block{k}"
            )
            x = block(x, train=train)
        return conv(channels, name="conv2")(x)


class FlowStudent(nn.Module):
    """The student of a symmetric pair: a flow; only its z is used."""

    flow: Teacher

    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Returns ẑ; a flow has no batch statistics, so `train` changes nothing."""
        del train
        return self.flow(x)[0]


class ParallelStudent(nn.Module):
    """Students side by side, one for each teacher, each on its input channels.

    Attributes:
      students: one for each group.
      groups: of the teachers.
    """

    students: tuple[Student, ...]
    groups: tuple[Group, ...]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Returns ẑ in the order of the teachers' z."""
        outputs = [
            student(take(x, group.inputs), train=train)
            for student, group in zip(self.students, self.groups, strict=True)
        ]
        return jnp.concatenate(outputs, axis=-1)
