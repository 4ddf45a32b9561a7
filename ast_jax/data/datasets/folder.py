"""The user's own pictures, from folders or a manifest.

The files stay where they are. Prepared data hold each file's path, size and hash, so a
file that has changed is noticed when it is read.
"""

import dataclasses
import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32

from ast_jax.data.builder import PartsBuilder
from ast_jax.data.content import Content
from ast_jax.data.decode import DEPTH_SUFFIXES, IMAGE_SUFFIXES, decode_z, read_file
from ast_jax.data.ignored_files import unread_clouds
from ast_jax.data.layout import FilesByStem, join_by_stem
from ast_jax.data.listing import Listing, Sample
from ast_jax.data.manifest import find_manifest, list_manifest
from ast_jax.data.part import GOOD
from ast_jax.data.walk import (
    entries,
    files_below,
    find_existing,
    one_form,
    path_text,
    subfolders,
)
from ast_jax.errors import UserError
from ast_jax.files import expand_home

TREE = (
    "good/*.png to learn from, if you like validation/good/*.png, test/KIND/*.png and "
    "masks/KIND/*.png, where KIND is good or a defect's name; or a manifest"
)


_SPLITS = {GOOD: "train", "test": "test", "masks": "test"}
_VALIDATION = ("validation", "val", "valid")
_MASKS = ("gt", "masks", "mask", "ground_truth")


class Folder(PartsBuilder):
    """Builder of one category from a user's folder.

    * `good/`: the images to learn from. All other folders are optional.
    * `validation/good/`, or `validation/` itself: more good images, to calibrate on;
      `val` and `valid` are other names for it.
    * `test/KIND/`: images to test on; KIND is "good" or names a defect type.
    * `masks/KIND/STEM.png` or `STEM_mask.png`: the defects' pixels, above 0.
    * With depth, each folder of images holds `rgb/` and `xyz/`, paired by stem, and
      optionally `gt/` instead of masks/KIND. Without `rgb/` the data are depth alone.
    * Pictures in subfolders belong to the folder's type.

    A manifest can describe all this instead, see `list_manifest`; `root` is then the
    folder with `manifest.csv` or `manifest.jsonl`, or the manifest itself.
    """

    name = "folder"
    TITLE = "your folder"
    HOMEPAGE = ""
    TREE = TREE
    LICENSE = "as the user's files"
    CITATION = ""
    HAS_DEPTH = True
    ANY_NAME = True

    @classmethod
    def categories(cls, root: str | os.PathLike) -> tuple[str, ...]:
        """The folder's own name, the only category."""
        if not os.fspath(root):
            raise UserError(f"--config.dataset.root is empty: expected {cls.TREE}")
        path = expand_home(root).resolve()
        if not path.exists():
            raise UserError(f"{root}: no such folder; expected {cls.TREE}")
        name = (path if path.is_dir() else path.parent).name
        if path_text(name) != name:
            raise UserError(f"{path_text(path)}: its name is not UTF-8; rename it")
        return (one_form(name),)

    def list_samples(self) -> Listing:
        """Lists the parts of the manifest; without a manifest, of the folders."""
        self._manifest = find_manifest(self.root)
        if self._manifest:
            self.root = self._manifest.parent
            listing = list_manifest(self._manifest, depth=self.depth)
        else:
            listing = self._list_folders()
        if self.depth and not any(sample.xyz for sample in listing.samples):
            folders = [self.root] if self._manifest is None else []
            clouds = unread_clouds([p for f in folders for p in files_below(f)])
            raise UserError(
                f"{self.root}: no point clouds or depth; "
                + (clouds or "set --config.mode=rgb")
            )
        return listing

    def list_files(self) -> Iterable[Path]:
        """All files of the folder; with a manifest, of the folders that it names."""
        if self._manifest is None:
            return files_below(self.root)
        paths = [path for sample in self.listing.samples for path in sample.paths]
        folders = sorted({path.parent for path in paths})
        beside = (path for folder in folders for path in entries(folder))
        return [path for path in beside if not path.is_dir()]

    def accompanies(self, path: Path) -> bool:
        """Whether it is the manifest."""
        return path == self._manifest

    def split_of(self, path: Path) -> str:
        """The split whose folder holds the file."""
        if self._manifest or not path.is_relative_to(self.root):
            return ""
        top = path.relative_to(self.root).parts[0]
        return _SPLITS.get(top, "validation" if top in _VALIDATION else "")

    def _list_folders(self) -> Listing:
        listing = self._list_parts("train", GOOD, self.root / GOOD)
        found = [name for name in _VALIDATION if (self.root / name).is_dir()]
        if len(found) > 1:
            raise UserError(
                f"{self.root}: {' and '.join(found)} both hold good parts to calibrate "
                "on; keep one"
            )
        for name in found:
            folder = self.root / name
            inner = folder / GOOD
            nested = inner.is_dir()
            listing += self._list_parts("validation", GOOD, inner if nested else folder)
        for folder in subfolders(self.root / "test"):
            listing += self._list_parts("test", folder.name, folder)
        return listing

    def _list_parts(self, split: str, defect: str, folder: Path) -> Listing:
        paths = list(files_below(folder))
        if folder.name in _VALIDATION:  # its other subfolders may hold defective parts
            own = (folder, *(folder / kind for kind in ("rgb", "xyz")))
            paths = [path for path in paths if path.parent in own]

        def inside(*kinds: str) -> list[Path]:
            return [p for p in paths if _is_within(p.relative_to(folder), kinds)]

        def found(
            kind: str, paths: list[Path], suffixes: Collection[str]
        ) -> FilesByStem:
            base = folder / kind if (folder / kind).is_dir() else folder
            files = FilesByStem.among(paths, folder, suffixes, without=(kind,))
            return dataclasses.replace(files, folder=base)

        divided = inside("rgb", "xyz")
        masks_of_parts = set(inside(*_MASKS))
        plain = [path for path in paths if path not in masks_of_parts]
        images = found("rgb", inside("rgb") if divided else plain, IMAGE_SUFFIXES)
        if (folder / "gt").is_dir():
            masks = found("gt", inside("gt"), IMAGE_SUFFIXES)
        else:
            truth = find_existing(self.root / "masks" / folder.name)
            masks = FilesByStem.in_folder(truth, IMAGE_SUFFIXES, ending="_mask")
        return join_by_stem(
            split,
            defect,
            None if divided and not inside("rgb") else images,
            clouds=found("xyz", inside("xyz"), DEPTH_SUFFIXES) if self.depth else None,
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
        """Reads the files; raises a UserError if one has changed."""
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
        """References instead of content."""
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
        except UserError:  # already among the problems, so no record is kept
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


def _is_within(path: Path, kinds: Collection[str]) -> bool:
    """Whether a folder in a relative path has one of the names."""
    return any(part in kinds for part in path.parts[:-1])
