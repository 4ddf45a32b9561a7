"""From each publisher's layout, and from the user's own folder, to results.json."""

import json
from pathlib import Path

import layouts
import numpy as np
import pytest
import tifffile
from PIL import Image

from ast_jax.config import default
from ast_jax.data.datasets.mvtec_loco import saturation_area
from ast_jax.evaluation.metrics import image_auroc, pixel_metrics, spro_metrics
from ast_jax.pipeline import evaluate, train
from ast_jax.run import Run

pytestmark = pytest.mark.usefixtures(
    "quick_compilation", "one_device", "library_convolutions"
)


def trained(directory: Path, name: str, root: Path, **changes) -> Run:
    """A run that trained in seconds on a stand-in."""
    config = default()
    config.dataset.update(name=name, root=str(root), image_size=64)
    config.dataset.data_dir = str(directory / "cache")
    config.mode = "rgb"
    config.backbone.name = "scattering"
    config.teacher.update(blocks=1, hidden=4, epochs=1)
    config.student.update(blocks=1, width=8, epochs=1)
    config.calibration.alpha = 0.5
    config.update_from_flattened_dict(changes)
    return train(config, directory / "run")


def evaluated(run: Run, root: Path | None = None, **options) -> dict:
    """The content of results.json; the data may have moved."""
    config = run.config.copy_and_resolve_references()
    config.dataset.root = str(root or config.dataset.root)
    evaluate(run, config, **options)
    return json.loads((run.directory / "results.json").read_text())


def page(run: Run) -> str:
    return (run.directory / "report" / "index.html").read_text()


def calibration(run: Run, category: str) -> dict | None:
    path = run.directory / category / "calibration.json"
    return json.loads(path.read_text())["calibration"]


def mask_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) > 0


# VisA


def test_visa_gives_each_category_and_their_mean(tmp_path):
    root = layouts.visa(tmp_path / "visa", "candle", train=8)
    layouts.visa(root, "pcb1", train=8, bad=2)
    results = evaluated(trained(tmp_path, "visa", root))
    assert results["categories"].keys() == {"candle", "pcb1"}
    each = [figures["pixel_auroc"] for figures in results["categories"].values()]
    assert results["mean"]["pixel_auroc"] == pytest.approx(np.mean(each))
    assert "reasons" not in results["categories"]["pcb1"]
    assert results["data"]["pcb1"] == {
        "train": "8 good",
        "test": "3 good, 2 defective in 1 type",
    }
    assert results["paper"]["mean"] == {"image_auroc": 0.949, "au_pro_0.3": 0.815}


# MVTec LOCO


@pytest.fixture(scope="module")
def loco(
    tmp_path_factory, quick_compilation, one_device, library_convolutions
) -> tuple[Run, dict]:
    directory = tmp_path_factory.mktemp("loco")
    root = layouts.mvtec_loco(directory / "loco", train=8)
    run = trained(directory, "mvtec_loco", root)
    return run, evaluated(run, save_maps=True)


def test_loco_equals_mvtecs_protocol_on_the_saved_maps(loco):
    """Maps and ground truth paired by path, as MVTec's script does it."""
    run, results = loco
    base = Path(run.config.dataset.root, "pushpins")
    config = json.loads((base / "defects_config.json").read_text())
    types = {entry["pixel_value"]: entry for entry in config}
    figures = results["categories"]["pushpins"]
    maps = run.directory / "maps" / "pushpins" / "test"
    for kind in ("logical", "structural"):
        scores, masks, areas = [], [], []
        defective = sorted((maps / f"{kind}_anomalies").iterdir())
        for path in (*sorted((maps / "good").iterdir()), *defective):
            truth = base / "ground_truth" / path.relative_to(maps).with_suffix("")
            assert truth.is_dir() == (path.parent.name != "good")
            channels = [np.asarray(Image.open(p)) for p in sorted(truth.glob("*.png"))]
            scores.append(tifffile.imread(path))
            masks.append([channel > 0 for channel in channels])
            areas.append([_area(channel, types) for channel in channels])
        expected = spro_metrics(scores, masks, areas)
        for name, value in expected.items():
            assert figures[f"{name}_{kind}"] == pytest.approx(value), name
        labels = np.array([bool(channels) for channels in masks])
        means = np.array([score_map.max() for score_map in scores])
        assert figures[f"image_auroc_max_{kind}"] == image_auroc(labels, means)
    for name in ("image_auroc", "au_spro_0.05"):
        both = [figures[f"{name}_{kind}"] for kind in ("logical", "structural")]
        assert figures[name] == pytest.approx(np.mean(both))


def _area(channel: np.ndarray, types: dict) -> float:
    entry = types[channel.max()]
    threshold, relative = entry["saturation_threshold"], entry["relative_saturation"]
    return saturation_area(channel > 0, threshold, relative=relative)


def test_loco_is_calibrated_on_its_validation_split(loco):
    run, _ = loco
    assert len(calibration(run, "pushpins")["scores"]) == 2
    assert run.read_record("pushpins", 0)["held_out"] == []


def test_locos_kinds_are_in_the_table_and_in_the_page(loco):
    run, _ = loco
    table = (run.directory / "report" / "results.md").read_text()
    for name in ("Image AUROC", "AU-sPRO 5 %"):
        for kind in ("logical", "structural"):
            assert f"| {name} {kind} |" in table
            assert f"{name} {kind}" in page(run)


# MVTec AD


@pytest.fixture(scope="module")
def screw(tmp_path_factory, quick_compilation, one_device, library_convolutions) -> Run:
    directory = tmp_path_factory.mktemp("screw")
    return trained(directory, "mvtec_ad", layouts.mvtec_ad(directory / "ad", train=8))


def test_mvtec_ads_script_finds_a_map_for_every_image(screw):
    figures = evaluated(screw, save_maps=True)["categories"]["screw"]
    base, maps, masks = Path(screw.config.dataset.root, "screw"), [], []
    for image in sorted((base / "test").glob("*/*.png")):
        path = screw.directory / "maps" / "screw" / image.relative_to(base)
        maps.append(tifffile.imread(path.with_suffix(".tiff")))
        assert maps[-1].dtype == np.float32
        truth = base / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
        good = image.parent.name == "good"
        masks.append(np.zeros(layouts.SIZE, bool) if good else mask_of(truth))
    for name, value in pixel_metrics(maps, masks).items():
        assert figures[name] == pytest.approx(value), name


def test_a_test_set_without_defects_says_which_metrics_do_not_exist(screw, tmp_path):
    root = layouts.mvtec_ad(tmp_path / "ad", train=8, defects={"none": 0})
    results = evaluated(screw, root)
    figures = results["categories"]["screw"]
    null = {name for name, value in figures.items() if value is None}
    assert null >= {"image_auroc", "image_ap", "pixel_auroc_192", "au_pro_0.3"}
    assert set(figures["reasons"]) == null
    assert results["mean"]["image_auroc"] is None
    assert "the test set has no defective image, so there are no metrics." in page(
        screw
    )


def test_a_defect_type_without_masks_is_left_out_of_pixel_metrics_and_named(
    screw, tmp_path
):
    root = layouts.mvtec_ad(tmp_path / "ad", train=8)
    for path in (root / "screw" / "ground_truth" / "scratch").iterdir():
        path.unlink()
    figures = evaluated(screw, root)["categories"]["screw"]
    assert figures["pixel_auroc"] is not None and "reasons" not in figures
    assert any("'scratch' (test images: 2)" in note for note in figures["notes"])
    assert "pixel metrics leave out the defect type" in page(screw)


def test_without_any_mask_there_are_image_metrics_and_no_pixel_metrics(screw, tmp_path):
    root = layouts.mvtec_ad(tmp_path / "ad", train=8)
    for path in (root / "screw" / "ground_truth").rglob("*.png"):
        path.unlink()
    figures = evaluated(screw, root)["categories"]["screw"]
    assert figures["image_auroc"] is not None and figures["au_pro_0.3"] is None
    assert "have no ground truth" in figures["reasons"]["au_pro_0.3"]


# The user's own folder


@pytest.fixture(scope="module")
def bolts(tmp_path_factory, quick_compilation, one_device, library_convolutions) -> Run:
    """Trained on a folder that holds nothing but good images."""
    directory = tmp_path_factory.mktemp("bolts")
    root = layouts.folder(directory / "bolts", train=10, test=False)
    return trained(directory, "folder", root, **{"calibration.fraction": 0.2})


def test_good_images_alone_give_a_threshold_and_say_what_is_unknown(bolts):
    results = evaluated(bolts)
    figures = results["categories"]["bolts"]
    assert set(figures["reasons"].values()) == {"there are no test images"}
    assert all(figures[name] is None for name in figures["reasons"])
    assert len(calibration(bolts, "bolts")["scores"]) == 2
    assert "nothing is known about recall or false alarms" in page(bolts)


def test_test_images_may_come_later(bolts, tmp_path):
    root = layouts.folder(tmp_path / "bolts", train=10)
    figures = evaluated(bolts, root)["categories"]["bolts"]
    assert "reasons" not in figures and figures["image_auroc"] is not None


def test_a_manifest_with_depth_gives_every_figure(tmp_path):
    root = layouts.folder(tmp_path / "parts", depth=True, train=8)
    rows = [
        {
            "image": image.relative_to(root).as_posix(),
            "depth": image.relative_to(root)
            .as_posix()
            .replace("rgb", "xyz")
            .replace("bmp", "tiff"),
            "split": "train"
            if image.parts[-3] == "good" and "test" not in image.parts
            else "test",
        }
        for image in sorted(root.rglob("*.bmp"))
    ]
    for row in rows:
        if "stain" in row["image"]:
            name = Path(row["image"]).stem
            row |= {"defect": "stain", "mask": f"masks/stain/{name}.png"}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "manifest.jsonl").write_text(lines)
    run = trained(tmp_path, "folder", root, mode="rgb3d")
    results = evaluated(run, save_maps=True)
    figures = results["categories"]["parts"]
    assert "reasons" not in figures and figures["au_pro_0.01"] is not None
    assert figures["image_auroc"] == figures["image_auroc_max"]
    maps = sorted((run.directory / "maps" / "parts" / "test").rglob("*.tiff"))
    assert [path.parent.name for path in maps] == ["good"] * 2 + ["stain"] * 2
