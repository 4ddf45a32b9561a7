"""Every file in configs/: its values, its variants and what its docstring promises."""

import importlib
import re

import pytest

from ast_jax import data
from ast_jax.config import ast_plus, default, flatten, validate
from ast_jax.data.datasets import elpv
from ast_jax.errors import UserError

BENCHMARKS = ("mvtec_ad", "mvtec_3d_ad", "visa", "mvtec_loco", "folder")


@pytest.mark.parametrize("variant", ["", "small", "plus"])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_a_valid_configuration_of_its_data_set(name, variant):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config(variant)
    validate(config)
    assert config.dataset.name == name
    assert flatten(config.to_dict()).keys() == flatten(default().to_dict()).keys()
    assert config.mode == "rgb" or data.builder_class(name).HAS_DEPTH
    assert config.calibration.fraction == (0.2 if name == "folder" else 0.0)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_docstring_has_the_command_and_the_laptops_variant(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    assert f"python train.py --config=configs/{name}.py --workdir=runs/" in text
    assert "--config.dataset.root=" in text and ":small" in text


@pytest.mark.parametrize("name", BENCHMARKS)
def test_small_has_a_narrow_student_and_few_epochs(name):
    config = importlib.import_module(f"configs.{name}").get_config("small")
    assert config.student.width <= 128 and config.teacher.hidden <= 64
    assert max(config.teacher.epochs, config.student.epochs) <= 24


def test_a_folder_is_learned_by_ast_plus_unless_it_asks_for_the_papers():
    get_config = importlib.import_module("configs.folder").get_config
    assert get_config() == get_config("plus")
    paper, faithful = flatten(get_config("ast").to_dict()), flatten(default().to_dict())
    changed = {key for key in paper if paper[key] != faithful[key]}
    others = ("dataset.", "calibration.", "backbone.name", "mode")
    assert all(key.startswith(others) for key in changed)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_unknown_variant_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"unknown variant 'huge'; there .* small"):
        importlib.import_module(f"configs.{name}").get_config("huge")


@pytest.mark.parametrize("name", [*BENCHMARKS, "solar", "quickstart"])
def test_plus_is_the_same_method_whatever_the_data(name):
    plus = importlib.import_module(f"configs.{name}").get_config("plus")
    validate(plus)
    flat = flatten(plus.to_dict())
    expected = flatten(ast_plus(default()).to_dict())
    sections = ("method", "features.", "fusion", "teacher.", "student.", "depth.input")
    for key in expected:
        if key.startswith(sections) or key.startswith(("train.", "evaluation.")):
            assert flat[key] == expected[key], key
    assert plus.backbone.name != "tf_efficientnet_b5.aa_in1k"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"features.whiten": True}, "features.whiten=True is no part of method=ast"),
        ({"method": "ast_plus"}, "take the :plus variant"),
        ({"features.taps": (5, 4)}, "features.taps must be stages"),
        ({"teacher.last_kernel_size": 4}, "teacher.last_kernel_size must be odd"),
        ({"teacher.blocks": 0}, "teacher.blocks=0 needs teacher.coupling=additive"),
    ],
)
def test_a_method_that_the_keys_do_not_make_is_refused(changes, said):
    config = default()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=re.escape(said)):
        validate(config)


def test_a_flow_as_student_sees_what_its_teacher_sees():
    config = ast_plus(default())
    config.student.kind = "flow"
    with pytest.raises(UserError, match=re.escape("student.input=same. Got cross")):
        validate(config)
    config.student.input = "same"
    validate(config)


def test_laptops_and_folders_take_the_backbone_that_needs_no_network():
    for name in BENCHMARKS:
        config = importlib.import_module(f"configs.{name}").get_config("small")
        assert config.backbone.name == "auto"
    assert (
        importlib.import_module("configs.folder").get_config().backbone.name == "auto"
    )
    assert "backbone.name=auto" in importlib.import_module("configs.folder").__doc__


def test_solar_is_a_valid_configuration_whose_threshold_can_be_had():
    config = importlib.import_module("configs.solar").get_config()
    validate(config)
    held_out = int(elpv.TRAIN_GOOD * config.calibration.fraction)
    assert config.dataset.name == elpv.ELPV.name
    assert 1 / (held_out + 1) <= config.calibration.alpha


@pytest.mark.parametrize("name", ["mvtec_ad", "visa", "mvtec_loco"])
def test_rgb_benchmarks_have_the_papers_settings_for_mvtec_ad(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert (config.teacher.hidden, config.teacher.clamp) == (1024, 3.0)
    assert config.teacher.epochs == config.student.epochs == 240
