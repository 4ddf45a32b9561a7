"""A moved run finds its backbone's weights by SHA-256, or an error names the flag."""

import re
import shutil

import pytest
from huggingface_hub import constants

from ast_jax.backbones import run_weights, timm_weights
from ast_jax.config import default
from ast_jax.errors import UserError
from ast_jax.run import Run


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A run whose weights were at a relative path that does not exist any more."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.pth").write_bytes(b"weights")
    config = default()
    config.backbone.weights = "old.pth"
    run = Run.create(tmp_path / "runs" / "x", config)
    digest = timm_weights.sha256(tmp_path / "old.pth")
    run.write_record("bagel", 0, {"weights_sha256": digest})
    return Run.open(tmp_path / "runs" / "x")


def found(run, chosen=None):
    return run_weights.with_weights(run.config.backbone, run, chosen).weights


def test_a_relative_path_is_recorded_as_an_absolute_one(made, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert found(made) == str(tmp_path / "old.pth")


@pytest.mark.parametrize(
    "place",
    [
        "runs/x/old.pth",
        "runs/another_name.pth",
        "cache/models--timm--tf_efficientnet_b5.in1k/snapshots/1/model.safetensors",
    ],
)
def test_the_same_content_is_found_wherever_it_was_put(made, tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "runs" / "other.pth").write_bytes(b"other weights")
    shutil.move(tmp_path / "old.pth", path)
    assert found(made) == str(path)


def test_what_the_user_names_is_taken(made, tmp_path):
    (tmp_path / "old.pth").rename(tmp_path / "new.pth")
    assert found(made, "new.pth") == str(tmp_path / "new.pth")


def test_what_is_nowhere_names_the_flag_that_every_command_has(made, tmp_path):
    (tmp_path / "old.pth").unlink()
    (tmp_path / "runs" / "old.pth").write_bytes(b"the same name, other content")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "old.pth"))) as error:
        found(made)
    assert "--backbone_weights=FILE" in str(error.value)
    assert made.weights_sha256() in str(error.value)


def test_a_run_of_an_earlier_version_knows_the_path_alone(made, tmp_path):
    made.write_record("bagel", 0, {})
    assert found(made) == str(tmp_path / "old.pth")
