"""An ablation is a folder of ordinary runs, which share networks, and a table."""

import json
import shutil
from pathlib import Path

import jax
import layouts
import numpy as np
import pytest
import tiny_runs

from ast_jax import ablation
from ast_jax.ablation import ablate, median_seconds, variants
from ast_jax.config import ast_plus, default, flatten, validate
from ast_jax.errors import UserError
from ast_jax.inference.pair import load_pair
from ast_jax.pipeline import train
from ast_jax.report.ablation import Row, losses, table
from ast_jax.report.tables import DASH
from ast_jax.run import Run
from ast_jax.training.progress import read_rows
from configs import ablation as configuration

pytestmark = pytest.mark.usefixtures(
    "quick_compilation", "one_device", "library_convolutions"
)

VARIANTS = (
    ("asymmetric", {}),
    ("symmetric", {"student.kind": "flow"}),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Tiny networks on a stand-in of MVTec 3D-AD, in two variants."""
    tmp_path = tmp_path_factory.mktemp("data")
    root = layouts.mvtec_3d_ad(tmp_path / "data", "bagel", train=8, validation=0)
    config = default()
    config.dataset.update(name="mvtec_3d_ad", root=str(root), image_size=64)
    config.dataset.data_dir = str(tmp_path / "cache")
    config.mode = "3d"
    config.teacher.update(blocks=1, hidden=4, epochs=2)
    config.student.update(blocks=1, width=8, epochs=2)
    with config.unlocked():
        config.variants = VARIANTS
    return config


@pytest.fixture(scope="module")
def ablated(
    config, tmp_path_factory, quick_compilation, one_device, library_convolutions
):
    """The ablation's folder and rows."""
    directory = tmp_path_factory.mktemp("ablation")
    return directory, ablate(config, directory)


def parameters(directory, network):
    """A trained network's leaves."""
    pair = load_pair(Run.open(directory), "bagel", 0)
    return jax.tree.leaves(pair.variables[network])


def assert_same_networks(run, other):
    """All parameters are equal, bit for bit."""
    for network in ("teacher", "student"):
        pairs = zip(parameters(run, network), parameters(other, network), strict=True)
        for one, another in pairs:
            np.testing.assert_array_equal(one, another)


def test_every_variant_is_an_ordinary_run(config, ablated):
    directory, rows = ablated
    for name, changes in VARIANTS:
        run = Run.open(directory / name)
        assert "variants" not in run.config
        results = json.loads((run.directory / "results.json").read_text())
        row = next(row for row in rows if row.name == name)
        assert row.changes == changes
        assert row.figures == results["mean"]


def test_the_teacher_alone_is_the_first_variants(ablated):
    directory, rows = ablated
    results = json.loads((directory / "asymmetric" / "results.json").read_text())
    (alone,) = (row for row in rows if row.name == "teacher alone")
    assert alone.figures == results["teacher"]["mean"]
    size = sum(leaf.size for leaf in parameters(directory / "asymmetric", "teacher"))
    assert alone.parameters == size


def test_baselines_on_the_same_features_stand_first(ablated):
    directory, rows = ablated
    assert [row.name for row in rows[:2]] == ["whitened Gaussian", "nearest patch"]
    results = json.loads((directory / "asymmetric" / "results.json").read_text())
    for row in rows[:2]:
        assert row.figures.keys() == results["mean"].keys()
        assert row.categories.keys() == {"bagel"}
        assert 0.5 < row.figures["pixel_auroc"] <= 1


def test_a_variant_that_a_baseline_beats_is_named():
    def row(name, auroc, parameters=None):
        figures = {"image_auroc": auroc, "au_pro_0.3": 0.9, "au_pro_0.01": None}
        return Row(name, {}, figures, parameters, categories={"screw": figures})

    rows = [row("gaussian", 0.95), row("patch", 0.9301)]
    rows += [row("teacher alone", 0.5, 3), row("plus", 0.9304, 3), row("same", 0.8, 3)]
    assert losses(rows) == [
        "plus loses to the gaussian on screw: Image AUROC 93.0 < 95.0.",
        "same loses to the gaussian on screw: Image AUROC 80.0 < 95.0.",
        "same loses to the patch on screw: Image AUROC 80.0 < 93.0.",
    ]


def test_a_shared_teacher_gives_the_run_that_trains_its_own(config, ablated, tmp_path):
    directory, _ = ablated
    alone = train(variants(config)["symmetric"], tmp_path / "alone").directory
    assert_same_networks(directory / "symmetric", alone)


def test_a_teacher_is_trained_once_and_its_curve_stands_in_each_run(ablated):
    directory, _ = ablated

    def curves(name):
        path = directory / name / "bagel" / "seed_0" / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["stage"] for row in rows] == ["teacher"] * 2 + ["student"] * 2
        return rows[:2], rows[2:]

    (teacher, student), (shared, other) = curves("asymmetric"), curves("symmetric")
    assert shared == teacher  # down to the speed, which no second training repeats
    assert other != student


@pytest.mark.slow
def test_going_on_trains_nothing_again(config, ablated, tmp_path):
    directory, rows = ablated
    copied = Path(shutil.copytree(directory, tmp_path / "ablation"))
    logs = {path: path.read_text() for path in copied.rglob("metrics.jsonl")}
    again = ablate(config, copied)
    assert {path: path.read_text() for path in logs} == logs
    assert [row.figures for row in again] == [row.figures for row in rows]


def test_the_table_stands_with_times_for_both_batches(ablated):
    directory, rows = ablated
    tree = json.loads((directory / "ablation.json").read_text())
    assert [row["name"] for row in tree["rows"]] == [row.name for row in rows]
    assert all(row["milliseconds"].keys() == {"1", "8"} for row in tree["rows"])
    assert all(min(row.milliseconds.values()) > 0 for row in rows)
    text = (directory / "ablation.md").read_text()
    assert table(rows).markdown() in text
    assert "student.kind=flow" in text
    assert f"jax: {jax.__version__}" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.seeds", (1,)),
        ("teacher.positional_encoding", False),
        ("dataset.image_size", 96),
    ],
)
def test_another_teacher_is_not_copied(config, ablated, tmp_path, key, value):
    directory, _ = ablated
    changed = variants(config)["asymmetric"]
    changed.update_from_flattened_dict({key: value})
    twin = Run.open(directory / "asymmetric")
    ablation.share_networks(changed, tmp_path / "run", [twin])
    assert not (tmp_path / "run").exists()


def test_a_student_is_shared_by_variants_of_the_evaluation_alone(
    config, ablated, tmp_path
):
    directory, _ = ablated
    changed = variants(config)["asymmetric"]
    changed.evaluation.smoothing = 2.0
    twin = Run.open(directory / "asymmetric")
    pair = Path("bagel", "seed_0")
    changed.student.blocks = 2
    ablation.share_networks(changed, tmp_path / "wider", [twin])
    assert not (tmp_path / "wider" / pair / "student").exists()
    changed.student.blocks = 1
    curve = read_rows(twin.directory / pair / "metrics.jsonl")
    for _ in range(2):  # the second time there is nothing left to copy
        ablation.share_networks(changed, tmp_path / "run", [twin])
        assert read_rows(tmp_path / "run" / pair / "metrics.jsonl") == curve
    run = train(changed, tmp_path / "run").directory
    assert_same_networks(run, twin.directory)
    assert read_rows(run / pair / "metrics.jsonl") == curve  # nothing was trained


def test_pairs_of_folds_share_teachers_too(config, tmp_path):
    changed = variants(config)["asymmetric"]
    changed.calibration.update(method="cross", folds=2)
    twin = train(changed, tmp_path / "first")
    changed.student.width = 16
    ablation.share_networks(changed, tmp_path / "second", [twin])
    for member in twin.members("bagel"):
        steps = [
            sorted(path.name for path in (seed / "teacher").iterdir())
            for seed in (
                twin.seed_directory("bagel", member),
                Run.open(tmp_path / "second").seed_directory("bagel", member),
            )
        ]
        assert steps[0] and steps[0] == steps[1]


def test_a_mistake_is_told_before_anything_is_written(config, tmp_path):
    changed = config.copy_and_resolve_references()
    changed.dataset.root = "/nowhere"
    with pytest.raises(UserError, match="/nowhere"):
        ablate(changed, tmp_path / "ablation")
    assert not (tmp_path / "ablation").exists()


def test_several_seeds_show_mean_and_deviation():
    figures = {"image_auroc": 0.758, "std": {"image_auroc": 0.0147}}
    row = Row("blocks_8", {"student.blocks": 8}, figures, 1_234_567, {1: 12.345})
    (name, cells), head = table([row]).rows[0], table([row]).head
    shown = dict(zip(head, (cell.text for cell in cells), strict=True))
    assert name == "blocks_8"
    assert shown["Image AUROC"] == "75.8 ± 1.5"
    assert shown["AU-PRO 30 %"] == DASH
    assert shown["Parameters, million"] == "1.23"
    assert shown["ms an image, batch 1"] == "12.3"


def test_calls_take_turns_after_a_first_one_each(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(ablation.time, "perf_counter", lambda: float(next(clock)))
    called = []
    calls = {name: lambda name=name: called.append(name) for name in "ab"}
    assert median_seconds(calls, 3) == {"a": 1.0, "b": 1.0}
    assert "".join(called) == "ab" + "ababab"


@pytest.mark.parametrize("variant", ["", "small", "synthetic"])
def test_the_configurations_variants_are_valid(variant):
    config = configuration.get_config(variant)
    found = variants(config)
    assert list(found)[:3] == ["asymmetric", "symmetric", "no_encoding"]
    assert found["symmetric"].student.kind == "flow"
    assert found["blocks_8"].student.blocks == 8
    with config.unlocked():
        del config.variants
    assert found["asymmetric"] == config
    validate(config)


@pytest.mark.slow
def test_ast_plus_goes_the_whole_way(tmp_path):
    root = layouts.mvtec_ad(tmp_path / "data", "screw", train=8)
    config = ast_plus(tiny_runs.tiny(tmp_path, "mvtec_ad", root, mode="rgb"))
    config.teacher.update(hidden=4, epochs=1)
    config.student.update(blocks=1, width=8, epochs=1)
    no_flow = {"teacher.coupling": "additive", "teacher.blocks": 0}
    changes = ({}, no_flow, {"features.whiten": False})
    with config.unlocked():
        config.variants = tuple(zip(("plus", "no_flow", "raw"), changes, strict=True))
    rows = {row.name: row for row in ablate(config, tmp_path / "ablation")}
    assert rows["plus"].parameters > rows["no_flow"].parameters > 0
    assert len({row.figures["pixel_auroc"] for row in rows.values()}) > 3
    assert all(row.milliseconds[1] > 0 for row in rows.values())


@pytest.mark.parametrize("variant", ["plus", "plus_rgb", "plus_solar"])
def test_each_part_of_ast_plus_is_switched_off_once(variant):
    config = configuration.get_config(variant)
    found, whole = variants(config), flatten(ast_plus(default()).to_dict())
    flat = {name: flatten(one.to_dict()) for name, one in found.items()}
    assert flat["plus"].items() >= {("method", "ast_plus"), ("train.clip", 1.0)}
    off = {
        key for name in found for key in whole if flat[name][key] != flat["plus"][key]
    }
    parts = {"features.whiten", "features.taps", "teacher.coupling", "student.input"}
    parts |= {"student.hardest", "teacher.blocks"}
    parts |= {"evaluation.smoothing", "evaluation.image_score"}
    parts |= {"evaluation.border_units", "teacher.clamp"}
    of_depth = {"fusion", "depth.input"}
    assert parts <= off
    has_depth = found["plus"].mode != "rgb"
    assert of_depth & off == (of_depth if has_depth else set())


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((("a", {"student.widht": 3}),), r"'a'.*widht"),
        ((("a", {"student.width": "x"}),), r"'x'.*width|width.*x is of original type"),
        ((("a", {"student.width": 0}),), r"student.width must be at least 1"),
        ((("a", {}), ("a", {"mode": "3d"})), r"'a' must be a folder's name.*once"),
        ((("../a", {}),), r"'../a' must be a folder's name"),
        (("a",), r"variants: 'a'"),
        ((3,), r"variants: 3"),
        ((), "at least one"),
    ],
)
def test_a_mistaken_variant_is_named_in_a_line(pairs, message):
    config = default()
    with config.unlocked():
        config.variants = pairs
    with pytest.raises(UserError, match=message) as error:
        variants(config)
    assert "\n" not in str(error.value)
