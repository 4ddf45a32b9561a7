"""The authors' `.pth` pair becomes a run with their code's scores, or is refused."""

import subprocess
import sys
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch_files
from reference_arrays import CASES, load, relative_error

from ast_jax.config import default
from ast_jax.errors import UserError
from ast_jax.features.extract import Features
from ast_jax.features.inputs import Inputs
from ast_jax.inference.calibration_file import read_calibration
from ast_jax.inference.pair import load_pair, score
from ast_jax.interop.official_checkpoint import import_pair
from ast_jax.interop.official_state_dict import student_variables, teacher_params
from ast_jax.pipeline import evaluate
from ast_jax.run import Run

REPOSITORY = Path(__file__).parents[2]
MODES = {"combi": "rgb3d", "rgb": "rgb", "depth": "3d"}
pytestmark = pytest.mark.usefixtures("quick_compilation")
STAND_IN = "tf_efficientnet_b0"  # its stage 2 has the recorded pairs' 40 channels


def recorded_config(mode: str):
    """The configuration of the recorded pairs: hidden 16, width 32, map 8×8."""
    config = default()
    config.mode = mode
    config.teacher.hidden, config.student.width = 16, 32
    # Map side 8: with the backbone's stride of 8 from 64 pixels, without it from 256.
    config.dataset.image_size = 256 if mode == "3d" else 64
    config.backbone.name, config.backbone.stage = STAND_IN, 2
    return config


@pytest.fixture
def files(tmp_path):
    """Writes a recorded pair as the authors' code does, with changed tensors."""

    def write(name: str, **changes) -> dict[str, Path]:
        paths = {}
        for network in ("teacher", "student"):
            state = load(name).state_dict(network)
            tensors = {key: array.copy() for key, array in state.items()}
            changes.get(network, lambda tensors: None)(tensors)
            paths[network] = tmp_path / f"{name}_{network}.pth"
            paths[network].write_bytes(torch_files.state_dict_file(tensors))
        return paths

    return write


def recorded_inputs(case) -> Inputs:
    x, rgb = case.x("in"), case.name != "depth"
    depth = x[..., -64:] if case.name != "rgb" else None
    foreground = None if depth is None else case.foreground("in")
    features = Features(x[..., :40] if rgb else None, depth, foreground)
    return Inputs.of(features, binary_mask=False)


@pytest.mark.parametrize("name", ["combi", "depth"])
def test_an_imported_pair_scores_as_the_authors_code(files, tmp_path, name):
    config = recorded_config(MODES[name])
    run = import_pair(config, tmp_path / "run", "bagel", files(name))
    case = load(name)
    scores = score(load_pair(run, "bagel", 0), recorded_inputs(case), batch_size=8)
    assert relative_error(scores["student"]["max"], case["score_max"]) < 1e-5
    assert relative_error(scores["student"]["mean"], case["score_mean"]) < 1e-5
    nll = scores["teacher"]["mean"]
    assert relative_error(nll, case["nll_sample"]) < 1e-5
    assert run.config.dataset.categories == ("bagel",)
    assert read_calibration(run, "bagel") == (None, {})  # without a data set


@pytest.mark.parametrize("name", CASES)
def test_permutations_are_drawn_as_the_authors_do(name):
    """They are not in the state dict; number k has seed k, and is module 2k + 2."""
    case = load(name)
    for k in range(4):
        recorded = case[f"perm/{2 * k + 2}"]
        ours = np.random.RandomState(k).permutation(len(recorded))
        np.testing.assert_array_equal(ours, recorded)


@pytest.fixture
def data_set(tmp_path):
    """Makes a stand-in of MVTec 3D-AD, and the configuration of an import with it."""

    def make(validation: int):
        few = {"train": 2, "validation": validation, "good": 1, "defects": {"hole": 1}}
        for category in ("bagel", "peach"):
            root = layouts.mvtec_3d_ad(tmp_path / "data", category, **few)
        config = recorded_config("3d")
        config.dataset.update(root=str(root), data_dir=str(tmp_path / "cache"))
        config.calibration.alpha = 0.25
        return config

    return make


def test_a_validation_split_calibrates_and_a_second_category_joins(
    files, tmp_path, data_set
):
    config, directory = data_set(validation=3), tmp_path / "run"
    pair, root = files("depth"), config.dataset.root
    import_pair(config, directory, "bagel", pair)
    calibration, _ = read_calibration(Run.open(directory), "bagel")
    assert len(calibration.scores) == 3
    config.dataset.root = ""
    run = import_pair(config, directory, "peach", pair)
    assert run.config.dataset.categories == ("bagel", "peach")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    # evaluate.py --dataset_root, of the one category.
    config.dataset.update(root=root, categories=("peach",))
    results = evaluate(run, config)
    assert 0 <= results["categories"]["peach"]["image_auroc"] <= 1
    assert len(read_calibration(run, "peach")[0].scores) == 3


def test_without_a_validation_split_there_is_no_threshold(files, tmp_path, data_set):
    config = data_set(validation=0)
    run = import_pair(config, tmp_path / "run", "bagel", files("depth"))
    assert read_calibration(run, "bagel") == (None, {})
    record = run.read_record("bagel", 0)
    assert len(record["train"]) == 2 and not record["held_out"]


def test_data_that_are_not_there_leave_no_run(files, tmp_path):
    config = recorded_config("3d")
    config.dataset.root = "/nowhere"
    with pytest.raises(UserError, match="/nowhere"):
        import_pair(config, tmp_path / "run", "bagel", files("depth"))
    assert not (tmp_path / "run").exists()


def test_training_images_cannot_calibrate_what_has_seen_them(tmp_path):
    config = recorded_config("rgb")
    config.calibration.fraction = 0.2
    with pytest.raises(UserError, match="have seen every training image"):
        import_pair(config, tmp_path / "run", "bagel", {})


def widened(tensors):
    tensors["conv1.weight"] = tensors["conv1.weight"].repeat(2, axis=0)


def spoilt(tensors):
    tensors["conv2.bias"][3] = float("nan")


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"student": lambda t: t.pop("res.2.l1.weight")}, {}, r"no 'res.2.l1.weight'"),
        ({"student": widened}, {}, r"params/conv1/kernel is .*, 64\].* makes it"),
        ({"student": spoilt}, {}, "'conv2.bias' holds numbers that are not finite"),
        ({}, {"teacher.hidden": 64}, r"f1_0/conv1/kernel.*check mode.*teacher.hidden"),
        ({}, {"mode": "3d"}, "check mode"),
        ({}, {"teacher.blocks": 5}, "has 4 coupling blocks.*teacher.blocks is 5"),
        (
            {},
            {"teacher.blocks": 3},
            r"no place .*module_list.9.*configuration's blocks",
        ),
        ({}, {"student.blocks": 3}, r"student: .*no place .*res.3"),
        ({}, {"teacher.gamma": False}, r"no place .*module_list.3.s1.gamma"),
        ({}, {"backbone.stage": 1}, "check mode, backbone"),
    ],
)
def test_a_misfit_is_one_line_and_leaves_the_run_as_it_was(
    files, tmp_path, changes, settings, message
):
    directory = tmp_path / "run"
    import_pair(recorded_config("rgb"), directory, "bagel", files("rgb"))
    before = sorted(directory.rglob("*"))
    config = recorded_config("rgb")
    config.update_from_flattened_dict(settings)
    with pytest.raises(UserError, match=message) as error:
        import_pair(config, directory, "peach", files("rgb", **changes))
    assert "\n" not in str(error.value)
    assert sorted(directory.rglob("*")) == before
    assert Run.open(directory).config.dataset.categories == ("bagel",)


def test_neither_a_present_category_nor_another_run_is_overwritten(files, tmp_path):
    directory, pair = tmp_path / "run", files("rgb")
    import_pair(recorded_config("rgb"), directory, "bagel", pair)
    with pytest.raises(UserError, match="has a 'bagel' already"):
        import_pair(recorded_config("rgb"), directory, "bagel", pair)
    config = recorded_config("rgb")
    config.teacher.clamp = 3.0
    with pytest.raises(UserError, match=r"teacher.clamp is 1.9 there and 3.0 here"):
        import_pair(config, directory, "peach", pair)
    with pytest.raises(UserError, match="not the name of a category"):
        import_pair(recorded_config("rgb"), directory, "../peach", pair)
    with (
        Run.open(directory).lock(),
        pytest.raises(UserError, match="another process"),
    ):
        import_pair(recorded_config("rgb"), directory, "peach", pair)


def test_nothing_but_tensors_is_read(files, tmp_path):
    pair, config = files("rgb"), recorded_config("rgb")
    module = torch_files.Call("torch.nn.modules.linear Linear", ())
    pair["student"].write_bytes(torch_files.archive(module, {}))
    with pytest.raises(UserError, match=r"a whole pickled module.*state_dict"):
        import_pair(config, tmp_path / "run", "bagel", pair)
    pair["student"].write_bytes(torch_files.archive([], {}))
    with pytest.raises(UserError, match="not a dictionary of tensors"):
        import_pair(config, tmp_path / "run", "bagel", pair)
    pair["teacher"].write_bytes(pair["teacher"].read_bytes()[:1000])
    with pytest.raises(UserError, match=r"rgb_teacher.pth: not a state dict"):
        import_pair(config, tmp_path / "run", "bagel", pair)
    assert not (tmp_path / "run").exists()


def test_the_command_imports(files, tmp_path):
    pair = files("rgb")
    command = [sys.executable, "-m", "ast_jax.interop.official_checkpoint"]
    command += [f"--{name}={path}" for name, path in pair.items()]
    command += ["--config=configs/mvtec_3d_ad.py", f"--workdir={tmp_path / 'run'}"]
    command += ["--category=bagel", "--config.mode=rgb", "--config.teacher.hidden=16"]
    command += ["--config.student.width=32", "--config.dataset.image_size=64"]
    command += [f"--config.backbone.name={STAND_IN}", "--config.backbone.stage=2"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "there is no threshold" in done.stderr
    assert "backbone.padding=efficientnet_pytorch_0.7.1" in done.stderr
    assert Run.open(tmp_path / "run").categories() == ("bagel",)


def test_kernels_are_transposed_and_the_students_gamma_is_not_needed():
    state = load("rgb").state_dict("student")
    kernel = student_variables(state)["params"]["conv1"]["kernel"]
    assert kernel.shape == (*state["conv1.weight"].shape[2:], 72, 32)
    del state["gamma"]
    assert student_variables(state)["params"].keys() >= {"conv1", "block3", "conv2"}


def test_a_teacher_without_positional_encoding_starts_one_module_earlier():
    """Without it their list has one input module instead of two."""
    state = load("rgb").state_dict("teacher")
    earlier = {}
    for name, tensor in state.items():
        head, number, rest = name.split(".", 2)
        earlier[f"{head}.{int(number) - 1}.{rest}"] = tensor
    ours, moved = teacher_params(state), teacher_params(earlier)
    np.testing.assert_equal(moved, ours)
