"""Time from images on disk to results.json, ours and PyTorch's: a small category.

    python -m benchmarks.end_to_end [--quick] [--size=PIXELS] [--epochs=N]
    python -m benchmarks.end_to_end --cells [--plus] --rounds=1 --layout=channels_last

Ours is what `train.py` does on a folder laid out as MVTec AD: data prepared, features
of an EfficientNet-Lite0 (random weights) extracted, teacher and student trained, all
figures, report and checkpoints written. PyTorch's side (`torch_pipeline`) reads the
same images and writes image and pixel AUROC. From the same initial weights and in the
same order; first epochs' losses and AUROCs must agree. Compilation is apart
(`compile_s`; `cold_ratio` counts it). The last line is JSON.

`--cells` takes a real category in place of drawn discs, at 768 pixels: the
monocrystalline cells of the package elpv-dataset, 250 to train, 200 to test. They have
no masks. With `--plus` ours trains AST+ for its own epochs, and PyTorch still AST.
"""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from ast_jax.data.datasets import elpv
from benchmarks.common import (
    Rival,
    cache_programs,
    compare,
    compile_clock,
    report,
    serve,
)
from benchmarks.side_by_side import QUICK, ROUNDS, WIDTH, layouts

MODEL, STAGE, SEED = "tf_efficientnet_lite0", 5, 0

_SIZE = flags.DEFINE_integer("size", 384, "Side of the images; 128 with --quick.")
_CELLS = flags.DEFINE_bool("cells", False, "Solar cells, at 768 pixels.")
_PLUS = flags.DEFINE_bool("plus", False, "Ours is AST+.")
_EPOCHS = flags.DEFINE_integer("epochs", 8, "Of each network; 2 with --quick.")
_SERVE = flags.DEFINE_string("serve", "", "Of the benchmark's own process: a folder.")
flags.set_default(WIDTH, 256)


def main(_: list[str]) -> None:
    """Runs the rivals and prints their ratio."""
    if _SERVE.value:
        return serve_ours(Path(_SERVE.value))
    quick = QUICK.value
    job = {
        "category": "mono" if _CELLS.value else "screw",
        "plus": _PLUS.value,
        "size": 128 if quick else _SIZE.value,
        "epochs": 2 if quick else _EPOCHS.value,
        "width": WIDTH.value,
        "train": 24 if quick else 64,
        "test": 8 if quick else 20,  # good, and as many with a defect
        "first_calls": 2,
    }
    if _CELLS.value:
        job |= {"size": 768, "train": elpv.TRAIN_GOOD, "test": elpv.TEST_EACH_KIND}
        job["first_calls"] = 1  # a call takes minutes
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "job.json").write_text(json.dumps(job))
        write = copy_cells if _CELLS.value else write_images
        write(folder / "data" / job["category"], job)

        def start(module: str, *arguments: str) -> Rival:
            return stack.enter_context(Rival(f"benchmarks.{module}", *arguments))

        rivals = {"ours": start("end_to_end", "--serve", str(folder))}
        for layout in layouts():
            rivals[layout] = start("torch_pipeline", str(folder), layout)
            if not _PLUS.value:
                check_agreement(folder, layout)
        timings = compare(rivals, 2 if quick else ROUNDS.value)
    for name, timing in timings.items():
        print(f"  {name}: {timing.median_s['call']:.4g} s; {timing.peak_mb:.0f} MB")
    layout = min(layouts(), key=lambda name: timings[name].median_s["call"])
    ours_s, torch_s = (timings[name].median_s["call"] for name in ("ours", layout))
    compile_s = timings["ours"].compile_s["call"]
    report(
        {
            "ours_s": ours_s,
            "torch_s": torch_s,
            "ratio": torch_s / ours_s,
            "cold_ratio": torch_s / (ours_s + compile_s),
            "roof_share": None,  # includes decoding, metrics and pictures
            "compile_s": compile_s,
            "peak_mb": timings["ours"].peak_mb,
            "torch_peak_mb": timings[layout].peak_mb,
            "torch_layout": layout,
            **job,
            "quick": quick,
        }
    )
    return None


def write_images(root: Path, job: dict) -> None:
    """A category in MVTec AD's layout: bright discs; defective ones have a square."""
    rng, side = np.random.default_rng(0), 256
    rows, columns = np.mgrid[:side, :side] - side / 2
    part = np.where((np.hypot(rows, columns) < 0.4 * side)[..., None], 160, 40)
    splits = {"train/good": job["train"], "test/good": job["test"]}
    for split, count in (splits | {"test/scratch": job["test"]}).items():
        (root / split).mkdir(parents=True)
        for number in range(count):
            image = part + rng.integers(-20, 21, (side, side, 3))
            if split == "test/scratch":
                truth = np.zeros((side, side), np.uint8)
                row, column = rng.integers(70, 150, 2)
                truth[row : row + 32, column : column + 32] = 255
                image[truth > 0] = (200, 30, 30)
                path = root / "ground_truth" / "scratch" / f"{number:03d}_mask.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(truth).save(path)
            pixels = image.clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / f"{number:03d}.png")


def copy_cells(root: Path, job: dict) -> None:
    """The cells that ours reads from the package, in MVTec AD's layout and order."""
    listing = elpv.ELPV(category=job["category"], data_dir=root).list_samples()
    for number, sample in enumerate(listing.samples):
        folder = root / sample.split / sample.defect
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.image, folder / f"{number:03d}.png")


def check_agreement(folder: Path, layout: str) -> None:
    """Ends the benchmark if losses or AUROCs differ."""
    ours, theirs = (
        np.load(folder / f"{name}.npz")["call"] for name in ("ours", layout)
    )
    print(f"  {layout}: {theirs.ravel()} beside {ours.ravel()}")
    if not np.allclose(theirs, ours, rtol=1e-2, atol=0.02):
        raise SystemExit(f"{layout}: {theirs} differs from ours, {ours}")


def serve_ours(folder: Path) -> None:
    """Serves `train.py`'s work on the folder's images, without any cache."""
    from ast_jax import config as configuration
    from ast_jax.pipeline import open_categories, train_and_evaluate
    from ast_jax.run import Run
    from benchmarks import random_backbone
    from benchmarks.category import first_losses, save_start

    cache_programs(folder / "cache")
    random_backbone.write(folder, MODEL, STAGE)
    job = json.loads((folder / "job.json").read_text())
    config = configuration.default()
    config.mode = "rgb"
    if job["category"] == "mono":
        config.dataset.update(name="elpv", categories=("mono",))
    else:
        config.dataset.update(name="mvtec_ad", root=str(folder / "data"))
    config.dataset.image_size = job["size"]
    config.backbone.name = MODEL
    config.backbone.weights = str(folder / "weights.safetensors")
    config.student.width = job["width"]
    config.teacher.epochs = config.student.epochs = job["epochs"]
    faithful = config.copy_and_resolve_references()
    if job["plus"]:
        config = configuration.ast_plus(config)

    def run() -> np.ndarray:
        with tempfile.TemporaryDirectory(dir=folder) as directory:
            config.dataset.data_dir = f"{directory}/cache"
            workdir = f"{directory}/run"
            results = train_and_evaluate(config, workdir)["categories"]
            seed = Run.open(workdir).seed_directory(job["category"], SEED)
            losses = first_losses(seed)
        figures = results[job["category"]]
        aurocs = (figures["image_auroc"], figures["pixel_auroc_192"])
        return np.array([*losses, *(a for a in aurocs if a is not None)])

    with tempfile.TemporaryDirectory(dir=folder) as directory:
        faithful.dataset.data_dir = directory
        (category,) = open_categories(faithful)
        save_start(folder / "start", faithful, category.inputs("train"))
    clock = compile_clock()
    keep, first_calls = folder / "ours.npz", job["first_calls"]
    serve(run, keep=keep, first_calls=first_calls, compiling_s=clock)


if __name__ == "__main__":
    app.run(main)
