"""The user's own pictures, from folders or a manifest, referred to where they lie.

Prepared data hold each file's path, size and hash; the files are not copied, and one
that changed since is noticed when it is read.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32

from ast_jax.data.builder import PartsBuilder
from ast_jax.data.decode import DEPTH_SUFFIXES, IMAGE_SUFFIXES, decode_z, read_file
from ast_jax.data.layout import Found, pair, subfolders
from ast_jax.data.manifest import find_manifest, list_manifest
from ast_jax.data.part import GOOD
from ast_jax.data.samples import Content, Listing, Sample
from ast_jax.errors import UserError
from ast_jax.files import expanded

TREE = (
    "good/*.png to learn from, if you like validation/good/*.png, test/KIND/*.png and "
    "masks/KIND/*.png, where KIND is good or a defect's name; or a manifest"
)


class Folder(PartsBuilder):
    """Builder of one category from a folder of the user's.

    * `good/`: the images to learn from. Everything else may be absent.
    * `validation/good/`: more good images, to calibrate on.
    * `test/KIND/`: images to test on; KIND is "good" or names a defect type.
    * `masks/KIND/STEM.png` or `STEM_mask.png`: the defects' pixels, above 0.
    * With depth, each folder of images holds `rgb/` and `xyz/`, paired by stem, and
      maybe `gt/` instead of masks/KIND; without `rgb/` the data are depth alone.

    Or a manifest beside them says all this, see `list_manifest`; `root` is then the
    folder with `manifest.csv` or `manifest.jsonl`, or such a file itself.
    """

    name = "folder"
    TITLE = "your folder"
    HOMEPAGE = ""
    TREE = TREE
    LICENSE = "as the user's files"
    CITATION = ""
    HAS_DEPTH = True

    @classmethod
    def categories(cls, root: str | os.PathLike) -> tuple[str, ...]:
        """The folder's own name, the only category."""
        if not os.fspath(root):
            raise UserError(f"--config.dataset.root is empty: expected {cls.TREE}")
        path = expanded(root).resolve()
        if not path.exists():
            raise UserError(f"{root}: no such folder; expected {cls.TREE}")
        return ((path if path.is_dir() else path.parent).name,)

    def list_samples(self) -> Listing:
        """List what the manifest or else the folders hold."""
        manifest = find_manifest(self.root)
        if manifest:
            self.root = manifest.parent
            listing = list_manifest(manifest, depth=self.depth)
        else:
            listing = self._list_folders()
        if self.depth and not any(sample.xyz for sample in listing.samples):
            raise UserError(
                f"{self.root}: no point clouds or depth; set --config.mode=rgb"
            )
        return listing

    def _list_folders(self) -> Listing:
        listing = self._pair("train", self.root / GOOD)
        listing += self._pair("validation", self.root / "validation" / GOOD)
        for folder in subfolders(self.root / "test"):
            listing += self._pair("test", folder)
        return listing

    def _pair(self, split: str, folder: Path) -> Listing:
        divided = (folder / "rgb").is_dir() or (folder / "xyz").is_dir()
        images = Found.in_folder(folder / "rgb" if divided else folder, IMAGE_SUFFIXES)
        clouds = Found.in_folder(folder / "xyz", DEPTH_SUFFIXES)
        if (folder / "gt").is_dir():
            masks = Found.in_folder(folder / "gt", IMAGE_SUFFIXES)
        else:
            truth = self.root / "masks" / folder.name
            masks = Found.in_folder(truth, IMAGE_SUFFIXES, ending="_mask")
        depth_alone = divided and not images.folder.is_dir()
        return pair(
            split,
            folder.name,
            None if depth_alone else images,
            clouds=clouds if self.depth else None,
            masks=masks if split == "test" else None,
        )

    def store(self, sample: Sample, content: Content) -> dict[str, Any]:
        """The paths of a sample's files, with size and hash."""
        masks = sample.masks if sample.defect != GOOD else ()
        return {
            "id": sample.id,
            "defect": sample.defect,
            "image": self._refer(sample.image),
            "xyz": self._refer(sample.xyz),
            "masks": [self._refer(path) for path in masks or ()],
            "has_masks": content.masks is not None,
        }

    def restore(self, record: dict[str, Any]) -> Content:
        """Read the files; one that changed since is a UserError."""
        masks = record["masks"]
        references = [
            dict(zip(masks, values, strict=True))
            for values in zip(*masks.values(), strict=True)
        ]
        xyz = self._follow(record["xyz"])
        return Content(
            image=self._follow(record["image"]),
            z=None if xyz is None else self._decode_z(xyz, record["xyz"]),
            masks=tuple(self._follow(reference) for reference in references)
            if record["has_masks"]
            else None,
        )

    def features(self) -> dict[str, Any]:
        """References in place of the content."""
        features = tfds.features
        reference = {
            "path": features.Text(),
            "size": np.int64,
            "sha256": features.Text(),
        }
        return {
            "id": features.Text(),
            "defect": features.Text(),
            "image": reference,
            "xyz": reference,
            "masks": features.Sequence(reference),
            "has_masks": np.bool_,
        }

    def _decode_z(
        self, content: bytes, reference: dict[str, Any]
    ) -> Float32[np.ndarray, "h w"]:
        name = reference["path"].decode()
        return decode_z(content, name, self.depth_options, checked=False)

    def _refer(self, path: Path | None) -> dict[str, Any]:
        if path is None:
            return {"path": "", "size": 0, "sha256": ""}
        try:
            content = read_file(path)
        except UserError:  # already on the list of problems: nothing will be kept
            content = b""
        return {
            "path": os.path.relpath(path, self.root),
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def _follow(self, reference: dict[str, Any]) -> bytes | None:
        path = reference["path"].decode()
        if not path:
            return None
        content = read_file(self.root / path)
        expected = (int(reference["size"]), reference["sha256"].decode())
        if (len(content), hashlib.sha256(content).hexdigest()) != expected:
            raise UserError(
                f"{self.root / path}: changed since the data were prepared; "
                f"run again, and delete {self.data_dir} should this come back"
            )
        return content
