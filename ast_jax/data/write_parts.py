"""Writes parts that a program has, paths or arrays, as a folder with a manifest."""

import filecmp
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from ast_jax.data.part import Sequences, join_parts
from ast_jax.errors import UserError
from ast_jax.files import expand_home


def write_parts(
    root: Path,
    images: Sequences | None,
    xyz: Sequences | None,
) -> None:
    """Makes a folder that `dataset.name = "folder"` reads; all parts are good.

    Refers to files by their paths. Writes arrays without loss.

    Args:
      root: the folder. If it exists, it must hold the same parts.
      images: files, Pillow images, or arrays [h,w], [h,w,3] or [h,w,4].
      xyz: point clouds: files, or arrays [h,w,3] or [h,w].

    Raises:
      UserError: there are no parts, the numbers of images and point clouds differ, an
        image has another type or shape, or the folder holds other parts or cannot be
        written.
    """
    parts = list(join_parts(images, xyz))
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".parts.", dir=root.parent) as folder:
            written = Path(folder) / root.name
            written.mkdir()
            _write_manifest(written, parts)
            if not root.exists():
                written.replace(root)
            elif not _are_equal(written, root):
                raise UserError(
                    f"{root} holds the parts of another fit; take another workdir."
                )
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror}).") from error


def _write_manifest(folder: Path, parts: list[tuple[Any, Any]]) -> None:
    rows = [
        {
            kind: _file(folder, index, content, kind)
            for kind, content in zip(("image", "depth"), part, strict=True)
            if content is not None
        }
        for index, part in enumerate(parts)
    ]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")


def _file(folder: Path, index: int, source: Any, kind: str) -> str:
    """The path of a source; writes an array to the folder, and returns that path."""
    if isinstance(source, str | os.PathLike):
        return str(expand_home(source).absolute())
    path = folder / kind / f"{index:06d}"
    path.parent.mkdir(exist_ok=True)
    if kind == "depth":
        path = path.with_suffix(".npy")
        np.save(path, np.asarray(source), allow_pickle=False)
    elif isinstance(source, Image.Image):
        path = path.with_suffix(".png")
        source.save(path, compress_level=1)
    else:
        path = path.with_suffix(".tiff")
        _write_image(path, np.asarray(source), f"image {index}")
    return path.relative_to(folder).as_posix()


def _write_image(path: Path, pixels: np.ndarray, name: str) -> None:
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    fits = pixels.ndim in (2, 3) and pixels.size and channels in (1, 3, 4)
    if not fits or pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"{name}: got {pixels.dtype} of shape {pixels.shape}, expected uint8 or "
            "uint16 [h, w], [h, w, 3] or [h, w, 4]"
        )
    pixels = pixels.reshape(*pixels.shape[:2], channels)[..., :3]
    if channels == 1:
        tifffile.imwrite(path, pixels[..., 0], photometric="minisblack")
    else:
        tifffile.imwrite(path, pixels, photometric="rgb")


def _are_equal(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    names = _file_names(one)
    if names != _file_names(other):
        return False
    _, different, unreadable = filecmp.cmpfiles(one, other, names, shallow=False)
    return not different and not unreadable


def _file_names(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in files}
