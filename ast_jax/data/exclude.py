"""The list of training pictures that a user leaves out."""

from collections.abc import Sequence
from pathlib import Path

from ast_jax.data.layout import near_match
from ast_jax.data.listing import Sample
from ast_jax.data.walk import one_form
from ast_jax.errors import UserError
from ast_jax.files import expand_home


def read_names(path: str) -> tuple[str, ...]:
    """The lines of a text file, without comments (#); () if `path` is empty.

    Raises:
        UserError: the file cannot be read.
    """
    if not path:
        return ()
    try:
        content = expand_home(path).read_bytes()
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise UserError(
            f"dataset.exclude: {path} cannot be read ({error.strerror})"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"dataset.exclude: {path} is not text ({error})") from error
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def find_ids(
    names: Sequence[str], samples: Sequence[Sample], root: Path, category: str
) -> tuple[str, ...]:
    """The ids of the samples with these names, in the samples' order.

    A name is a sample's id ("train/good/007"), with or without its category; or its
    file's name, stem or path; or the path below `root`.

    Raises:
        UserError: no sample, or more than one, has a name.
    """
    by_name: dict[str, set[str]] = {}
    for sample in samples:
        for name in _names(sample, root, category):
            by_name.setdefault(one_form(name), set()).add(sample.id)
    found: set[str] = set()
    for name in names:
        ids = by_name.get(one_form(name.removeprefix("./")), set())
        if len(ids) != 1:
            several = ", ".join(sorted(ids)[:3])
            hint = f"that of {several}: write one of these" if ids else "no training "
            hint += "" if ids else f"picture's of {category}; "
            hint += "" if ids else near_match(name, [sample.id for sample in samples])
            raise UserError(f"dataset.exclude: {name!r} is {hint}")
        found |= ids
    return tuple(sample.id for sample in samples if sample.id in found)


def _names(sample: Sample, root: Path, category: str) -> set[str]:
    stem = sample.id.split("/", 2)[2]
    names = {sample.id, f"{category}/{sample.id}", f"{sample.defect}/{stem}", stem}
    for path in sample.paths:
        names |= {path.name, path.stem, str(path), str(path.absolute())}
        if path.is_relative_to(root):
            names.add(path.relative_to(root).as_posix())
    return names
