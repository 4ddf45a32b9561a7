"""A run's folder: its configuration, and where everything in it lies.

DIR/config.json
DIR/<category>/seed_<n>/inputs.json          which parts were trained on, held out
DIR/<category>/seed_<n>/{teacher,student}/   Orbax checkpoints
DIR/<category>/seed_<n>/metrics.jsonl
DIR/results.json, DIR/report/, DIR/maps/
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
from ml_collections import ConfigDict

from ast_jax.config import default, flatten
from ast_jax.errors import UserError
from ast_jax.processes import is_main

FORMAT = 1
# A run stays the same run when its data are moved or it is spread otherwise.
_INCIDENTAL = (
    "dataset.root",
    "dataset.data_dir",
    "backbone.weights",
    "train.tasks_per_device",
    "train.tensorboard",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder and the configuration in it."""

    directory: Path
    config: ConfigDict

    @classmethod
    def create(cls, directory: str | Path, config: ConfigDict) -> "Run":
        """Makes the folder, or opens it where the same run already stands.

        Raises:
          UserError: the folder holds a run with another configuration, or cannot be
            written.
        """
        directory = Path(directory).absolute()
        if (directory / "config.json").exists():
            run = cls.open(directory)
            differences = _differences(run.config, config)
            if differences:
                raise UserError(
                    f"{directory} holds a run with another configuration "
                    f"({'; '.join(differences[:3])}); take another --workdir."
                )
            return cls(directory, config)
        tree = {"format": FORMAT, "config": config.to_dict()}
        write_json(directory / "config.json", tree)
        return cls(directory, config)

    @classmethod
    def open(cls, directory: str | Path) -> "Run":
        """Opens an existing run.

        Raises:
          UserError: there is none, or it was written by a newer version.
        """
        directory = Path(directory).absolute()
        path = directory / "config.json"
        try:
            tree = json.loads(path.read_text())
            version, config = tree["format"], tree["config"]
        except FileNotFoundError as error:
            raise UserError(
                f"{directory} is not a run: it has no config.json."
            ) from error
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{path}: not a run's configuration ({error}).") from error
        if version > FORMAT:
            raise UserError(
                f"{path} has format {version}, this version reads up to {FORMAT}; "
                "update ast-jax."
            )
        # What a run of an earlier version does not know has its default.
        complete = default()
        complete.unlock().update(_with_tuples(config))
        return cls(directory, complete)

    def seed_directory(self, category: str, seed: int) -> Path:
        """Where one trained pair lies."""
        return self.directory / category / f"seed_{seed}"

    def categories(self) -> tuple[str, ...]:
        """Categories that have anything trained, in order of name."""
        found = {path.parent.parent.name for path in self.directory.glob("*/seed_*/*")}
        return tuple(sorted(found))

    def write_inputs(self, category: str, seed: int, record: dict[str, Any]) -> None:
        """Records what a pair's training saw."""
        write_json(self.seed_directory(category, seed) / "inputs.json", record)

    def read_inputs(self, category: str, seed: int) -> dict[str, Any]:
        """Returns what `write_inputs` wrote.

        Raises:
          UserError: the category and seed were not trained.
        """
        path = self.seed_directory(category, seed) / "inputs.json"
        try:
            return json.loads(path.read_text())
        except FileNotFoundError as error:
            known = ", ".join(self.categories()) or "none"
            raise UserError(
                f"{self.directory} has no trained {category!r}, seed {seed}; "
                f"trained categories: {known}."
            ) from error
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); train it again.") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run's folder against a second run.

        Raises:
          UserError: another run trains in it.
        """
        if not is_main():
            yield
            return
        lock = filelock.FileLock(self.directory / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError(
                f"{self.directory}: another process is training in this folder."
            ) from error
        try:
            yield
        finally:
            lock.release()


def write_json(path: Path, tree: Any) -> None:
    """Writes a file whole or not at all; of several processes the main one does.

    Raises:
      UserError: the folder cannot be written.
    """
    if not is_main():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(tree, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}).") from error


def _with_tuples(value: Any) -> Any:
    """JSON has lists where the configuration has tuples."""
    if isinstance(value, dict):
        return {key: _with_tuples(entry) for key, entry in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """What a user has to know to see why two configurations are not the same run."""
    before, after = flatten(old.to_dict()), flatten(new.to_dict())
    keys = sorted((before.keys() | after.keys()) - set(_INCIDENTAL))
    return [
        f"{key} is {before.get(key)!r} there and {after.get(key)!r} here"
        for key in keys
        if before.get(key) != after.get(key)
    ]
