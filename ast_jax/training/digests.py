"""Digests of a checkpoint's files, which show bytes that changed on disk."""

import hashlib
import json
from pathlib import Path

_DIGESTS = "digests.json"
_REWRITTEN = "_CHECKPOINT_METADATA"  # by the commit; it has times and no array


def write_digests(folder: Path) -> None:
    """Writes `digests.json`: BLAKE2b of each file, by its path below the folder."""
    digests = {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _REWRITTEN
    }
    (folder / _DIGESTS).write_text(json.dumps(digests, indent=1))


def damaged_file(folder: Path) -> str | None:
    """Returns the first file that differs from its digest; None if all are intact."""
    try:
        digests = json.loads((folder / _DIGESTS).read_text())
    except FileNotFoundError:  # written by an earlier version
        return None
    except ValueError:
        return _DIGESTS
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file() or _digest(path) != digest:
            return name
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
