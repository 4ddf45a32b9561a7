"""A manifest: one CSV or JSONL file that says what each of the user's files is."""

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ast_jax.data.layout import Found, near_match, pair
from ast_jax.data.part import GOOD
from ast_jax.data.samples import SPLITS, Listing
from ast_jax.errors import UserError

NAMES = ("manifest.csv", "manifest.jsonl")
COLUMNS = ("image", "depth", "split", "defect", "mask")

Files = dict[str, tuple[Path, ...]]


def find_manifest(root: Path) -> Path | None:
    """Return the manifest that `root` is or holds, None where there is none."""
    if root.is_file():
        return root
    return next((root / name for name in NAMES if (root / name).is_file()), None)


def list_manifest(path: Path, *, depth: bool) -> Listing:
    """List the samples that a manifest names.

    A line has, in CSV by its header, in JSONL by key:

    * `image`, `depth`: files; depth may be absent, or image where depth is not.
    * `split`: "train", "validation" or "test"; "train" if absent.
    * `defect`: "good" or the defect type; "good" if absent.
    * `mask`: the ground truth of a defective part; in JSONL also a list of files.

    Paths are relative to the manifest. In a part's id they have `_` for `/`.

    Args:
        path: the manifest.
        depth: list the depth files too.

    Raises:
        UserError: the manifest cannot be read or has an unknown column.
    """
    groups: dict[tuple[str, str], dict[str, Files]] = defaultdict(
        lambda: {column: {} for column in ("image", "depth", "mask")}
    )
    problems = []
    for line, row in _rows(path):
        split = row.get("split") or "train"
        defect = row.get("defect") or GOOD
        found, wrong = _files(path.parent, row)
        stem = _stem(row.get("image") or row.get("depth") or "")
        if split not in SPLITS:
            wrong.append(f"unknown split {split!r}: {near_match(split, SPLITS)}")
        elif split != "test" and defect != GOOD:
            wrong.append(f"a part of split {split!r} must be good, not {defect!r}")
        elif not stem:
            wrong.append("neither image nor depth")
        elif any(stem in files for files in groups[split, defect].values()):
            wrong.append(f"{split}/{defect}/{stem} was listed before")
        problems += [f"{path}:{line}: {problem}" for problem in wrong]
        for column, files in () if wrong else found.items():
            groups[split, defect][column][stem] = files
    listing = Listing(problems=tuple(problems))
    for (split, defect), group in sorted(groups.items()):
        has_images = bool(group["image"])
        listing += pair(
            split,
            defect,
            Found(path, group["image"]) if has_images else None,
            clouds=Found(path, group["depth"]) if depth else None,
            masks=Found(path, group["mask"]),
        )
    return listing


def _files(folder: Path, row: dict[str, Any]) -> tuple[Files, list[str]]:
    """The files of a line by column, and a line for each that isn't there."""
    found: Files = {}
    for column in ("image", "depth", "mask"):
        names = row.get(column) or ()
        names = (names,) if isinstance(names, str) else tuple(names)
        if names:
            found[column] = tuple(folder / name for name in names)
    absent = [f for files in found.values() for f in files if not f.is_file()]
    return found, [f"{path}: no such file" for path in absent]


def _stem(name: str) -> str:
    parts = Path(name).parent.parts if name else ()
    return "_".join(part for part in (*parts, Path(name).stem) if part not in "/..")


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The lines with their numbers; the columns are checked."""
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".jsonl":
            lines = enumerate(text.splitlines(), 1)
            rows = [
                (number, json.loads(line)) for number, line in lines if line.strip()
            ]
        else:
            reader = csv.DictReader(text.splitlines())
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # JSON, or not UTF-8
        raise UserError(f"{path}: not a CSV or JSONL manifest ({error})") from error
    for number, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected an object with {COLUMNS}")
        unknown = [key for key in row if key not in COLUMNS]
        if unknown:
            raise UserError(
                f"{path}:{number}: unknown column {unknown[0]!r}; "
                f"{near_match(str(unknown[0]), COLUMNS)}"
            )
    return rows
