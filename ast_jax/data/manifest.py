"""A manifest: a CSV or JSONL file that describes each of the user's files."""

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ast_jax.data.layout import Files, FilesByStem, join_by_stem, near_match
from ast_jax.data.listing import SPLITS, Listing
from ast_jax.data.part import GOOD
from ast_jax.data.walk import (
    find_existing,
    is_file,
    one_form,
    path_text,
    unusable_reason,
)
from ast_jax.errors import UserError

NAMES = ("manifest.csv", "manifest.jsonl")
COLUMNS = ("image", "depth", "split", "defect", "mask")


def find_manifest(root: Path) -> Path | None:
    """Returns the manifest that `root` is or holds, or None."""
    if is_file(root):
        return root
    found = [root / name for name in NAMES if os.path.lexists(root / name)]
    for path in found:
        if problem := unusable_reason(path):
            raise UserError(problem)
    if len(found) > 1:
        raise UserError(f"{root}: {' and '.join(NAMES)} are both there; keep one")
    return next(iter(found), None)


def list_manifest(path: Path, *, depth: bool) -> Listing:
    """Lists the samples that a manifest names.

    A line has these columns (CSV) or keys (JSONL):

    * `image`, `depth`: files; one of them may be absent.
    * `split`: "train", "validation" or "test"; "train" if absent.
    * `defect`: "good" or the defect type; "good" if absent.
    * `mask`: the ground truth of a defective part; in JSONL also a list of files.

    Paths are relative to the manifest. A part's id has `_` instead of `/`.

    Args:
        path: the manifest.
        depth: whether to list the depth files too.

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
        elif not _names_a_folder(defect):
            wrong.append(f"{defect!r} is not the name of a defect type")
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
        listing += join_by_stem(
            split,
            defect,
            FilesByStem(path, group["image"]) if has_images else None,
            clouds=FilesByStem(path, group["depth"]) if depth else None,
            masks=FilesByStem(path, group["mask"]),
        )
    return listing


def _names_a_folder(defect: str) -> bool:
    """Whether a defect type can be the name of a folder of score maps."""
    return defect.strip(".") != "" and "/" not in defect and defect.isprintable()


def _files(folder: Path, row: dict[str, Any]) -> tuple[Files, list[str]]:
    """The files of a line by column, and a text for each that cannot be used."""
    found: Files = {}
    for column in ("image", "depth", "mask"):
        names = row.get(column) or ()
        names = (names,) if isinstance(names, str) else tuple(names)
        if names:
            found[column] = tuple(find_existing(folder / name) for name in names)
    paths = [path for paths in found.values() for path in paths]
    return found, [_reason(path) for path in paths if _reason(path)]


def _reason(path: Path) -> str:
    if is_file(path) or os.path.islink(path):
        return unusable_reason(path)
    return f"{path_text(path)}: no such file"


def _stem(name: str) -> str:
    parts = Path(name).parent.parts if name else ()
    words = (part for part in (*parts, Path(name).stem) if part not in "/..")
    return one_form("_".join(words))


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Reads the lines with their numbers, and checks their columns and values."""
    try:
        text = _text(path.read_bytes())
        rows = list((_json_rows if path.suffix == ".jsonl" else _csv_rows)(text))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    # It is not text, JSON or CSV, or is nested too deeply.
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV or JSONL manifest ({error})") from error
    if not rows:
        columns = ", ".join(COLUMNS)
        raise UserError(f"{path}: a manifest without a line; expected {columns}")
    for number, row in rows:
        if problem := _problem(row):
            raise UserError(f"{path}:{number}: {problem}")
    return rows


def _text(content: bytes) -> str:
    """Decodes UTF-8, or the UTF-16 that Windows calls Unicode."""
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if wide else "UTF-8"
        reason = f"no {kind} from byte {error.start} on; save it as UTF-8"
        raise ValueError(reason) from error
    if "\0" in text:
        raise ValueError("it holds NUL bytes")
    return text


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                place = f"line {number}, column {error.colno}"
                raise ValueError(f"{place}: {error.msg}") from error


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str | None, Any]]]:
    """Yields rows by header; its most frequent of , ; and tab is the delimiter."""
    header = text.lstrip().partition("\n")[0]
    divider = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=divider)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    for row in reader:
        yield reader.line_num, row


def _problem(row: Any) -> str:
    """The fault in a row's form, or ""."""
    if not isinstance(row, dict):
        return f"expected an object with {', '.join(COLUMNS)}. Got {row!r:.40}"
    if None in row:
        return f"more values than columns: {row[None]!r:.40}"
    for column, value in row.items():
        if column not in COLUMNS:
            return f"unknown column {column!r}; {near_match(column, COLUMNS)}"
        several = column == "mask" and isinstance(value, list)
        values = value if several else [value]
        if not all(one is None or isinstance(one, str) for one in values):
            return f"{column} must be text, in quotes. Got {value!r:.40}"
        if several and None in values:
            return f"{column} holds a null"
    return ""
