"""Keeps traced programs on disk for the next process.

JAX's own cache holds compiled programs. To find one there, JAX first traces and lowers
the function, which takes a fifth of the time until a first answer. A file of this
module holds a traced program, as StableHLO, or the shapes of a network's variables,
which a trace finds too. Its name is a digest of everything that determines its content,
so a change of any of it leads to another file.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jaxlib

import ast_jax
from ast_jax.errors import UserError
from ast_jax.files import write_bytes, write_json
from ast_jax.run import Run


@dataclasses.dataclass(frozen=True)
class TracedPrograms:
    """The traced programs of one category of a run.

    Attributes:
      folder: of the files; may be missing, and may hold files of several runs.
      origin: the digest of the files that determine the run's networks.
    """

    folder: Path
    origin: str

    @classmethod
    def of(cls, run: Run, category: str, folder: Path) -> "TracedPrograms":
        """Returns the programs of a category, for its files as they are now."""
        paths = [run.directory / "config.json", *(run.directory / category).iterdir()]
        for member in run.members(category):
            paths += run.seed_directory(category, member).iterdir()
        # A line of a .jsonl file changes no network.
        files = (p for p in paths if p.is_file() and p.suffix in (".json", ".npz"))
        return cls(folder, _digest(sorted(files)))

    def compile(self, name: str, function: Callable, arguments: tuple) -> Callable:
        """Returns `function`, compiled for arguments of these shapes on one device.

        Args:
          name: the function's; with the run's files and the arguments' shapes it
            determines what the function does.
          function: pure.
          arguments: trees of arrays.
        """
        leaves, structure = jax.tree.flatten(arguments)
        shapes = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
        path = self._path(".stablehlo", name, str(structure), shapes)
        exported = _read(path) or _write(path, function, arguments)
        return jax.jit(lambda *trees: exported.call(*jax.tree.leaves(trees)))

    def shapes(self, name: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns what `find` returns: a tree of dictionaries of arrays' shapes.

        Args:
          name: with the run's files it determines the shapes.
          find: called if no earlier process has kept them.
        """
        path = self._path(".json", name)
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            return _from_lists(json.loads(path.read_text()))
        tree = find()
        lists = jax.tree.map(lambda a: [*a.shape, str(a.dtype)], tree)
        with contextlib.suppress(UserError):
            write_json(path, lists)
        return tree

    def _path(self, suffix: str, *parts: Any) -> Path:
        config = jax.config
        settings = (config.jax_default_matmul_precision, config.jax_enable_x64)
        all_parts = (self.origin, _software(), settings, *parts)
        digest = hashlib.sha256(repr(all_parts).encode()).hexdigest()
        return self.folder / f"{digest}{suffix}"


def _from_lists(tree: dict[str, Any] | list[Any]) -> Any:
    """A tree of shapes from its form as JSON."""
    if isinstance(tree, list):
        *shape, dtype = tree
        return jax.ShapeDtypeStruct(tuple(shape), dtype)
    return {name: _from_lists(branch) for name, branch in tree.items()}


def _read(path: Path) -> jax.export.Exported | None:
    try:
        return jax.export.deserialize(bytearray(path.read_bytes()))
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file may raise anything
        return None


def _write(path: Path, function: Callable, arguments: tuple) -> jax.export.Exported:
    leaves, structure = jax.tree.flatten(arguments)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    on_leaves = jax.jit(lambda *leaves: function(*structure.unflatten(leaves)))
    exported = jax.export.export(on_leaves)(*shapes)
    with contextlib.suppress(UserError):  # on a full disk the next process traces again
        write_bytes(path, bytes(exported.serialize()))
    return exported


@functools.cache
def _software() -> tuple[str, ...]:
    """Returns the versions and the digest of the code that traces, and the platform."""
    package = Path(ast_jax.__file__).parent
    versions = (jax.__version__, jaxlib.__version__, jax.default_backend())
    return (*versions, _digest(sorted(package.rglob("*.py"))))


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
