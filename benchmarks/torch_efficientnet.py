"""The same network in plain PyTorch, layer by layer as timm's, for comparison.

Convolutions, batch norm and activations stay separate, as in a timm model in evaluation
mode. Serves the network that `benchmarks.backbone` describes in a folder, and needs no
JAX, so that its peak memory is PyTorch's:

    python -m benchmarks.torch_efficientnet FOLDER contiguous|channels_last
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from benchmarks.common import serve


class TorchEfficientNet:
    """An `Architecture` (its fields as JSON) on NCHW images, with timm's tensors."""

    def __init__(self, net: SimpleNamespace, tensors: dict[str, torch.Tensor]):
        """Takes kernels in OIHW."""
        self.net, self.tensors = net, tensors

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The feature map [b,c,h,w] of the last stage."""
        x = self._activate(self._conv(self.net.stem, x))
        for block in (block for stage in self.net.stages for block in stage):
            x = self._block(block, x)
        return x

    def _block(self, block: SimpleNamespace, x: torch.Tensor) -> torch.Tensor:
        y = self._activate(self._conv(block.expand, x)) if block.expand else x
        y = self._activate(self._conv(block.depthwise, y))
        if block.squeeze:
            reduce, expand = block.squeeze
            pooled = y.mean((2, 3), keepdim=True)
            gate = self._conv(expand, self._activate(self._conv(reduce, pooled)))
            y = y * gate.sigmoid()
        y = self._conv(block.project, y)
        return x + y if x.shape == y.shape else y

    def _conv(self, conv: SimpleNamespace, x: torch.Tensor) -> torch.Tensor:
        rows, columns = (same_pads(n, conv.kernel, conv.stride) for n in x.shape[2:])
        if any((*rows, *columns)):
            x = F.pad(x, (*columns, *rows))
        weight = self.tensors[f"{conv.key}.weight"]
        bias = None if conv.norm else self.tensors[f"{conv.key}.bias"]
        groups = conv.inputs if conv.depthwise else 1
        x = F.conv2d(x, weight, bias, stride=conv.stride, groups=groups)
        return self._norm(conv.norm, x) if conv.norm else x

    def _norm(self, key: str, x: torch.Tensor) -> torch.Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        tensors = (self.tensors[f"{key}.{part}"] for part in parts)
        return F.batch_norm(x, *tensors, eps=1e-3)

    def _activate(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(x, inplace=True) if self.net.lite else F.silu(x, inplace=True)


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding (low, high) of one axis."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def load(
    folder: Path, device: str = "cpu"
) -> tuple[TorchEfficientNet, tuple[torch.Tensor, torch.Tensor]]:
    """Reads the network of `random_backbone`, and mean and deviation [3,1,1]."""
    text = (folder / "network.json").read_text()
    net = json.loads(text, object_hook=lambda fields: SimpleNamespace(**fields))
    tensors = load_file(folder / "weights.safetensors", device)
    mean, std = (torch.tensor(v)[:, None, None] for v in (net.mean, net.std))
    return TorchEfficientNet(net, tensors), (mean, std)


def main(folder: Path, layout: str) -> None:
    """Serves the network on the folder's images; leaves its features there."""
    model, (mean, std) = load(folder)
    images = torch.from_numpy(np.load(folder / "images.npy")).permute(0, 3, 1, 2)
    if layout == "contiguous":  # the NHWC images are channels_last already
        images = images.contiguous()

    @torch.inference_mode()
    def run() -> np.ndarray:
        return model((images / 255 - mean) / std).permute(0, 2, 3, 1).numpy()

    serve(run, keep=folder / f"{layout}.npz")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
