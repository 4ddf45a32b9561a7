"""Teacher and student in plain PyTorch, by docs/method.md's equations, for comparison.

Maps are [b,c,h,w], contiguous or channels_last as the caller lays them out. Tensors are
named as our parameters' paths, with PyTorch's own names for the leaves (`f1.0.conv1`,
`block.0.bn1.running_mean`). Needs no JAX.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENCODING_CHANNELS = 32
LEARNING_RATE, WEIGHT_DECAY = 2e-4, 1e-5


def positional_encoding(side: int, channels: int = ENCODING_CHANNELS) -> Tensor:
    """Sine and cosine of the column, then of the row [1,channels,side,side]."""
    half = channels // 2
    frequencies = torch.exp(torch.arange(0, half, 2) * (-math.log(1e4) / half))
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).T
    columns = waves[:, None, :].expand(half, side, side)
    return torch.cat([columns, columns.transpose(1, 2)])[None]


def conv(inputs: int, outputs: int, kernel_size: int = 3, **options) -> nn.Conv2d:
    """A convolution that keeps the map's size."""
    return nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, **options)


class Conditioner(nn.Module):
    """conv → ReLU → conv → × γ, on [x, encoding]; the border is repeated."""

    def __init__(self, inputs: int, hidden: int, outputs: int, kernel_size: int):
        """γ starts at 0."""
        super().__init__()
        edge = {"kernel_size": kernel_size, "padding_mode": "replicate"}
        self.conv1 = conv(inputs + ENCODING_CHANNELS, hidden, **edge)
        self.conv2 = conv(hidden, outputs, **edge)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, encoding: Tensor) -> Tensor:
        """Scale and shift, side by side."""
        x = torch.cat([x, encoding.expand(len(x), -1, -1, -1)], dim=1)
        return self.conv2(F.relu(self.conv1(x))) * self.gamma


class TorchTeacher(nn.Module):
    """The flow: blocks × (fixed permutation, two-sided affine coupling)."""

    def __init__(
        self,
        side: int,
        channels: int,
        hidden: int = 64,
        clamp: float = 1.9,
        blocks: int = 4,
    ):
        """Makes two conditioners for each block, with 5×5 kernels in the last one."""
        super().__init__()
        first, second = channels // 2, channels - channels // 2
        self.clamp, self.sizes = clamp, (first, second)
        self.f1, self.f2 = nn.ModuleList(), nn.ModuleList()
        for k, kernel_size in enumerate((*[3] * (blocks - 1), 5)):
            permutation = np.random.RandomState(k).permutation(channels)
            self.register_buffer(
                f"permutation{k}", torch.from_numpy(permutation), persistent=False
            )
            self.f1.append(Conditioner(first, hidden, 2 * second, kernel_size))
            self.f2.append(Conditioner(second, hidden, 2 * first, kernel_size))
        encoding = positional_encoding(side)
        self.register_buffer("encoding", encoding, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z [b,c,h,w] and the log-det [b,h,w]."""
        log_det = 0.0
        for k, (f1, f2) in enumerate(zip(self.f1, self.f2, strict=True)):
            x = x[:, getattr(self, f"permutation{k}")]
            x1, x2 = x.split(self.sizes, dim=1)
            log_e2, t2 = self._affine(f2, x2)
            y1 = log_e2.exp() * x1 + t2
            log_e1, t1 = self._affine(f1, y1)
            y2 = log_e1.exp() * x2 + t1
            x = torch.cat([y1, y2], dim=1).clamp(-1e6, 1e6)
            log_det = log_det + log_e1.sum(1) + log_e2.sum(1)
        return x, log_det

    def _affine(self, f: Conditioner, x: Tensor) -> tuple[Tensor, Tensor]:
        # In float32 under autocast too, as ours.
        s, t = f(x, self.encoding).float().chunk(2, dim=1)
        return self.clamp * 0.636 * torch.atan(s / self.clamp), t


class ResidualBlock(nn.Module):
    """conv → BN → LeakyReLU, twice, + input."""

    def __init__(self, width: int, negative_slope: float):
        """Input and output have `width` channels."""
        super().__init__()
        self.negative_slope = negative_slope
        self.conv1, self.bn1 = conv(width, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the input's shape."""
        y = F.leaky_relu(self.bn1(self.conv1(x)), self.negative_slope)
        y = F.leaky_relu(self.bn2(self.conv2(y)), self.negative_slope)
        return x + y


class TorchStudent(nn.Module):
    """conv → LeakyReLU → residual blocks → conv, on [encoding, x]."""

    def __init__(
        self,
        side: int,
        channels: int,
        width: int = 1024,
        negative_slope: float = 0.01,
        blocks: int = 4,
    ):
        """Maps `channels` to as many, with `width` inside."""
        super().__init__()
        self.negative_slope = negative_slope
        self.conv1 = conv(channels + ENCODING_CHANNELS, width)
        self.block = nn.ModuleList(
            ResidualBlock(width, negative_slope) for _ in range(blocks)
        )
        self.conv2 = conv(width, channels)
        encoding = positional_encoding(side)
        self.register_buffer("encoding", encoding, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """ẑ [b,c,h,w]."""
        x = torch.cat([self.encoding.expand(len(x), -1, -1, -1), x], dim=1)
        x = F.leaky_relu(self.conv1(x), self.negative_slope)
        for block in self.block:
            x = block(x)
        return self.conv2(x).float()


def negative_log_likelihood(z: Tensor, log_det: Tensor, m: Tensor) -> Tensor:
    """The teacher's loss at each position [b,h,w]; m is the foreground weight."""
    return m * (0.5 * z.square().sum(1) - log_det)


def distance(z: Tensor, z_student: Tensor, m: Tensor) -> Tensor:
    """The student's loss at each position [b,h,w]."""
    return m * (z - z_student).square().mean(1)


def scores(z: Tensor, z_student: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The score map at eight times the resolution, its maximum, and the mean score."""
    loss = distance(z, z_student, m)
    score_map = F.interpolate((m * loss)[:, None], scale_factor=8, mode="bicubic")[:, 0]
    return score_map, score_map.amax((1, 2)), loss.mean((1, 2))


def adam(network: nn.Module) -> torch.optim.Adam:
    """Adam with decay in the gradient, in one fused kernel: PyTorch's fastest."""
    return torch.optim.Adam(
        network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
    )


def step(loss: Tensor, optimiser: torch.optim.Optimizer) -> Tensor:
    """One step of the optimiser; the loss without its graph."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.detach()


def train(
    network: nn.Module, epochs: Iterable[Tensor], loss: Callable[[Tensor], Tensor]
) -> list[float]:
    """Trains and leaves the network in evaluation mode; each epoch's mean loss.

    Args:
      network: what `loss` runs and differentiates.
      epochs: each one's batches, as rows of the samples [steps,b].
      loss: of some rows.
    """
    optimiser, means = adam(network.train()), []
    for epoch in epochs:
        losses = [step(loss(rows), optimiser) for rows in epoch]
        means.append(torch.stack(losses).mean().item())
    network.eval()
    return means
