"""Small stand-ins of the published data sets, in their layouts and with their quirks.

Each maker writes below `root` and returns it. Good parts are all alike: a bright disc
on a dark ground, with noise. A defect is a red square, 10 mm too deep, so that even a
small detector can find it.
"""

import csv
import json
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

SIZE = (48, 64)  # height, width: not square, as some of MVTec 3D-AD's images
BACKGROUND_Z, PART_Z = 0.5, 0.45  # metres
DEFECT = (slice(18, 28), slice(26, 36))


def picture(seed: int, *, defect: bool = False, size=SIZE) -> np.ndarray:
    """An RGB image [h, w, 3]."""
    rng = np.random.default_rng(seed)
    image = np.where(_disc(size)[..., None], (180, 160, 120), (30, 30, 40))
    if defect:
        image[DEFECT] = (200, 30, 30)
    return (image + rng.integers(-8, 9, (*size, 3))).clip(0, 255).astype(np.uint8)


def cloud(seed: int, *, defect: bool = False, size=SIZE) -> np.ndarray:
    """A point cloud [h, w, 3] in metres; a tenth of its pixels is missing."""
    rng = np.random.default_rng([seed, 1])
    z = np.where(_disc(size), PART_Z, BACKGROUND_Z) + rng.normal(0, 2e-4, size)
    if defect:
        z[DEFECT] += 0.01
    y, x = np.mgrid[: size[0], : size[1]] * 1e-3
    points = np.stack([x, y, z], axis=-1).astype(np.float32)
    points[rng.random(size) < 0.1] = 0
    return points


def ground_truth(value: int = 255, size=SIZE) -> np.ndarray:
    """The defect's pixels [h, w]."""
    mask = np.zeros(size, np.uint8)
    mask[DEFECT] = value
    return mask


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    """Write an image, or (float) a point cloud."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype.kind == "f":
        tifffile.imwrite(path, pixels, photometric="rgb")
    else:
        Image.fromarray(pixels).save(path, **options)
    return path


def mvtec_3d_ad(
    root: Path,
    category: str = "bagel",
    *,
    train: int = 6,
    validation: int = 2,
    good: int = 3,
    defects: dict[str, int] | None = None,
    size=SIZE,
) -> Path:
    """MVTec 3D-AD: rgb, xyz and gt by stem; class numbers in gt, all zero when good."""
    splits = {"train": {"good": train}, "validation": {"good": validation}}
    splits["test"] = {"good": good} | (defects or {"hole": 2, "bent": 2})
    seed = 0
    for split, kinds in splits.items():
        for kind, count in kinds.items():
            for number in range(count):
                seed += 1
                bad = kind != "good"
                base, stem = root / category / split / kind, f"{number:03d}"
                save(base / "rgb" / f"{stem}.png", picture(seed, defect=bad, size=size))
                save(base / "xyz" / f"{stem}.tiff", cloud(seed, defect=bad, size=size))
                if split == "test":
                    truth = ground_truth(252 + seed % 4 if bad else 0, size)
                    save(base / "gt" / f"{stem}.png", truth)
    calibration = root / category / "calibration"
    calibration.mkdir()
    (calibration / "camera_parameters.json").write_text("{}")
    (root / category / "readme.txt").write_text("not a sample")
    return root


def mvtec_ad(
    root: Path,
    category: str = "screw",
    *,
    train: int = 6,
    good: int = 3,
    defects: dict[str, int] | None = None,
    grey: bool = True,
    size=SIZE,
) -> Path:
    """MVTec AD: RGB or grey images; no ground truth of good parts."""
    base, seed = root / category, 0
    splits = {"train": {"good": train}}
    splits["test"] = {"good": good} | (defects or {"scratch": 2, "thread": 2})
    for split, kinds in splits.items():
        for kind, count in kinds.items():
            for number in range(count):
                seed += 1
                pixels = picture(seed, defect=kind != "good", size=size)
                save(
                    base / split / kind / f"{number:03d}.png",
                    pixels[..., 0] if grey else pixels,
                )
                if kind != "good":
                    truth = base / "ground_truth" / kind / f"{number:03d}_mask.png"
                    save(truth, ground_truth(size=size))
    (base / "license.txt").write_text("not a sample")
    return root


def visa(
    root: Path, category: str = "candle", *, train: int = 6, good: int = 3, bad: int = 3
) -> Path:
    """VisA: JPEG images, 0/1 masks, and the split in a CSV file."""
    data, rows = Path(category, "Data"), []
    for number in range(train + good):
        image = data / "Images" / "Normal" / f"{number:04d}.JPG"
        save(root / image, picture(number), quality=95)
        split = "train" if number < train else "test"
        rows.append((category, split, "normal", image.as_posix(), ""))
    for number in range(bad):
        image = data / "Images" / "Anomaly" / f"{number:03d}.JPG"
        mask = data / "Masks" / "Anomaly" / f"{number:03d}.png"
        save(root / image, picture(100 + number, defect=True), quality=95)
        save(root / mask, ground_truth(1))
        rows.append((category, "test", "anomaly", image.as_posix(), mask.as_posix()))
    split_file = root / "split_csv" / "1cls.csv"
    split_file.parent.mkdir(exist_ok=True)
    new = not split_file.exists()
    with split_file.open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("object", "split", "label", "image", "mask")] * new + rows)
    return root


def mvtec_loco(
    root: Path,
    category: str = "pushpins",
    *,
    train: int = 6,
    validation: int = 2,
    good: int = 3,
    bad: int = 2,
) -> Path:
    """MVTec LOCO: one mask per defect; its grey value names a configuration's entry."""
    base = root / category
    splits = {"train": train, "validation": validation, "test": good}
    for seed, (split, count) in enumerate(splits.items()):
        for number in range(count):
            save(
                base / split / "good" / f"{number:03d}.png",
                picture(1000 * seed + number),
            )
    for value, kind in ((255, "logical_anomalies"), (254, "structural_anomalies")):
        for number in range(bad):
            stem = f"{number:03d}"
            pixels = picture(value * 10 + number, defect=True)
            save(base / "test" / kind / f"{stem}.png", pixels)
            truth = base / "ground_truth" / kind / stem
            save(truth / "000.png", ground_truth(value))
            if number == 0:  # a second defect, in a corner
                corner = np.zeros(SIZE, np.uint8)
                corner[:5, :5] = 253
                save(truth / "001.png", corner)
    entries = [
        ("missing_pushpin", 255, 0.5, True),
        ("broken", 254, 60, False),
        ("dirt", 253, 1000, False),
    ]
    names = (
        "defect_name",
        "pixel_value",
        "saturation_threshold",
        "relative_saturation",
    )
    config = [dict(zip(names, entry, strict=True)) for entry in entries]
    (base / "defects_config.json").write_text(json.dumps(config))
    return root


def folder(
    root: Path, *, depth: bool = False, train: int = 6, test: bool = True
) -> Path:
    """The user's own folder, with point clouds beside the images when `depth`."""

    def write(base: Path, count: int, *, bad: bool = False):
        for number in range(count):
            seed, stem = number + 50 * bad, f"part {number}"
            pixels = picture(seed, defect=bad)
            if not depth:
                save(base / f"{stem}.bmp", pixels)
                continue
            save(base / "rgb" / f"{stem}.bmp", pixels)
            save(base / "xyz" / f"{stem}.tiff", cloud(seed, defect=bad))

    write(root / "good", train)
    if not test:
        return root
    write(root / "test" / "good", 2)
    write(root / "test" / "stain", 2, bad=True)
    for number in range(2):
        save(root / "masks" / "stain" / f"part {number}.png", ground_truth())
    return root


def _disc(size) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    return np.hypot(y - size[0] / 2, x - size[1] / 2) < 0.4 * min(size)
