"""VisA: twelve categories, some with several objects (Zou et al., ECCV 2022)."""

import csv
from collections import defaultdict
from pathlib import Path

from ast_jax.data.builder import PartsBuilder
from ast_jax.data.layout import FilesByStem, join_by_stem
from ast_jax.data.listing import Listing
from ast_jax.data.part import GOOD
from ast_jax.data.walk import subfolders
from ast_jax.errors import UserError

SPLIT_FILE = Path("split_csv", "1cls.csv")
COLUMNS = ("object", "split", "label", "image", "mask")


class VisA(PartsBuilder):
    """Builder of VisA in the publisher's layout, with its one-class split.

    All defects of a category share the defect type "anomaly". The split file lists each
    image with its mask, paths relative to the root.
    """

    name = "visa"
    TITLE = "VisA"
    HOMEPAGE = "https://github.com/amazon-science/spot-diff"
    TREE = (
        "split_csv/1cls.csv and CATEGORY/Data/{Images/{Normal,Anomaly}/000.JPG,"
        "Masks/Anomaly/000.png}"
    )
    LICENSE = "CC BY 4.0"
    CITATION = """\
@inproceedings{zou2022spot,
  title={{SPot}-the-Difference Self-Supervised Pre-training for Anomaly Detection and
    Segmentation},
  author={Zou, Yang and Jeong, Jongheon and Pemula, Latha and Zhang, Dongqing and
    Dabeer, Onkar},
  booktitle={European Conference on Computer Vision (ECCV)},
  year={2022}
}"""
    CLASS_NUMBERS = True

    @classmethod
    def find_categories(cls, root: Path) -> tuple[str, ...]:
        """The names of the subfolders with images, sorted."""
        return tuple(
            folder.name
            for folder in subfolders(root)
            if (folder / "Data" / "Images").is_dir()
        )

    def list_samples(self) -> Listing:
        """Lists the category's samples in the split file."""
        images: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
        masks: dict[str, tuple[Path, ...]] = {}
        listing = Listing()
        for row in self._rows():
            image = self.root / row["image"]
            mask = self.root / row["mask"] if row["mask"] else None
            absent = [path for path in (image, mask) if path and not path.is_file()]
            for path in absent:
                problem = f"{path}: missing, though {SPLIT_FILE} lists it"
                listing += Listing(problems=(problem,))
            if absent:
                continue
            defect = GOOD if row["label"] == "normal" else row["label"]
            images[row["split"], defect][image.stem] = image
            if mask and defect != GOOD:
                masks[image.stem] = (mask,)
        data = self.root / self.category / "Data"
        for (split, defect), found in sorted(images.items()):
            listing += join_by_stem(
                split,
                defect,
                FilesByStem(
                    data / "Images", {stem: (path,) for stem, path in found.items()}
                ),
                masks=FilesByStem(data / "Masks", masks),
            )
        return listing

    def _rows(self) -> list[dict[str, str]]:
        path = self.root / SPLIT_FILE
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); expected {self.TREE}"
            ) from error
        if missing := [name for name in COLUMNS if rows and rows[0].get(name) is None]:
            raise UserError(f"{path}: no column {', '.join(missing)}")
        return [row for row in rows if row["object"] == self.category]
