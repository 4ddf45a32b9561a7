"""The registry: a configuration in, a pure function and its fingerprint out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save_file
from stand_in_weights import state_dict

from ast_jax import backbones
from ast_jax.backbones import timm_weights
from ast_jax.backbones.architecture import architecture
from ast_jax.backbones.efficientnet import EfficientNet
from ast_jax.errors import UserError

NAME = "tf_efficientnet_lite0"
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    save_file(state_dict(NAME), path)
    return path


def configure(weights, **changes):
    section = {
        "name": NAME,
        "weights": str(weights),
        "stage": 1,
        "padding": "same",
        "mean": (),
        "std": (),
    }
    return ConfigDict(section | changes)


def create(weights, image_size=64, **changes):
    config = configure(weights, **changes)
    return backbones.create(config, image_size=image_size)


def features(backbone, images=IMAGES):
    return jax.jit(backbone.apply)(backbone.variables, images)


def test_the_backbone_describes_its_feature_map(weights):
    backbone = create(weights)
    got = features(backbone)
    assert (backbone.name, backbone.channels, backbone.stride) == (NAME, 24, 4)
    assert got.shape == (3, 32 // 4, 64 // 4, 24) and got.dtype == jnp.float32
    assert not backbone.standardise


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({}, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ({"mean": (0.4, 0.5, 0.6)}, (0.4, 0.5, 0.6), (0.5, 0.5, 0.5)),
        ({"std": (0.2, 0.3, 0.4)}, (0.5, 0.5, 0.5), (0.2, 0.3, 0.4)),
    ],
)
def test_images_are_normalised_by_the_backbones_mean_and_std(
    weights, changes, mean, std
):
    net = architecture(NAME, 1)
    normalised = ((IMAGES / 255 - mean) / std).astype(np.float32)
    variables = timm_weights.load(weights, net)
    expected = jax.jit(EfficientNet(net).apply)(variables, normalised)
    got = features(create(weights, **changes))
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_an_image_has_the_same_features_in_any_batch(weights):
    backbone = create(weights)
    together = features(backbone)
    alone = [features(backbone, image[None])[0] for image in IMAGES]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_fingerprint_tells_every_setting_apart(weights, tmp_path):
    other = tmp_path / "other.safetensors"
    tensors = state_dict(NAME)
    save_file(tensors | {"bn1.bias": tensors["bn1.bias"] + 1e-3}, other)
    backbone = [
        create(weights),
        create(other),
        create(weights, stage=2),
        create(weights, mean=(0.4, 0.5, 0.6)),
        create(weights, std=(0.4, 0.5, 0.6)),
    ]
    assert len({b.fingerprint for b in backbone}) == len(backbone)


def test_the_fingerprint_is_of_the_content_not_of_its_place(weights, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    tagged = create(copy, name=f"{NAME}.in1k", mean=(0.5, 0.5, 0.5))
    assert create(weights).fingerprint == tagged.fingerprint


def test_padding_is_part_of_the_fingerprint(tmp_path):
    path = tmp_path / "b0.safetensors"
    save_file(state_dict("tf_efficientnet_b0"), path)
    fingerprints = {
        create(path, name="tf_efficientnet_b0", padding=padding).fingerprint
        for padding in ("same", "efficientnet_pytorch_0.7.1")
    }
    assert len(fingerprints) == 2


def test_the_files_digest_is_logged(weights, monkeypatch):
    lines = []
    monkeypatch.setattr(
        backbones.logging, "info", lambda text, *values: lines.append(text % values)
    )
    create(weights)
    assert any(timm_weights.sha256(weights) in line for line in lines)


def test_scattering_needs_no_weights():
    backbone = create("", name="scattering")
    assert backbone.standardise and backbone.name == "scattering"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 62}, r"dataset\.image_size: 62 is not a multiple .* 4"),
        ({"name": "resnet50"}, r"backbone\.name: no 'resnet50'"),
        ({"mean": (0.5,)}, r"backbone\.mean: \(0\.5,\)"),
        ({"std": (0.5, 0.5, 0.0)}, r"backbone\.std: \(0\.5, 0\.5, 0\.0\)"),
        ({"weights": ""}, "names no pretrained weights"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(weights, changes, message):
    with pytest.raises(UserError, match=message):
        create(**({"weights": weights} | changes))
