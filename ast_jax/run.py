"""A run's folder: its configuration, and where everything in it lies.

DIR/config.json
DIR/<category>/seed_<n>/inputs.json          which parts were trained on, held out
DIR/<category>/seed_<n>/fold_<k>/…           with cross calibration a pair for each fold
DIR/<category>/seed_<n>/{teacher,student}/   Orbax checkpoints
DIR/<category>/seed_<n>/metrics.jsonl
DIR/results.json, DIR/report/, DIR/maps/
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
from absl import logging
from ml_collections import ConfigDict

from ast_jax.config import default, flatten
from ast_jax.errors import UserError
from ast_jax.files import expanded, write_errors, write_json
from ast_jax.parallel import is_main

FORMAT = 1
FULL_DEPTH = 16  # bits, of which runs without a record took the upper 8
# A run stays the same run when its data are moved or it is spread otherwise.
_INCIDENTAL = (
    "dataset.root",
    "dataset.data_dir",
    "backbone.weights",
    "train.tasks_per_device",
    "train.tensorboard",
)


Member = int | str
"""Which of a category's pairs: a seed, or `fold_member` of a seed and a fold."""


def fold_member(seed: int, fold: int) -> str:
    """Names the pair of a seed that left out a fold, from 0."""
    return f"{seed}/fold_{fold}"


def seed_and_fold(member: str) -> tuple[str, str]:
    """Seed and fold of a pair's name; the fold is empty with split."""
    seed, _, fold = member.partition("/")
    return seed, fold


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
        directory = expanded(directory).absolute()
        if (directory / "config.json").exists():
            run = cls.open(directory)
            differences = _differences(run.config, config)
            if differences:
                raise UserError(
                    f"{directory} holds a run with another configuration "
                    f"({'; '.join(differences[:3])}); take another --workdir."
                )
            return cls(directory, config)
        if config.backbone.weights:  # wherever the next command is started
            config = ConfigDict(config.to_dict()).lock()
            config.backbone.weights = str(expanded(config.backbone.weights).absolute())
        tree = {"format": FORMAT, "config": config.to_dict()}
        if is_main():
            write_json(directory / "config.json", tree)
        return cls(directory, config)

    @classmethod
    def open(cls, directory: str | Path) -> "Run":
        """Opens an existing run.

        Raises:
          UserError: there is none, or it was written by a newer version.
        """
        directory = expanded(directory).absolute()
        path = directory / "config.json"
        try:
            tree = json.loads(path.read_text())
            version, config = int(tree["format"]), dict(tree["config"])
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
        try:
            with complete.unlocked():
                complete.update(_with_tuples(config))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: not a run's configuration ({error}).") from error
        return cls(directory, complete)

    @classmethod
    def find(cls, directory: str | Path) -> "Run | None":
        """Opens the run in a folder; None if there is none."""
        exists = (expanded(directory) / "config.json").exists()
        return cls.open(directory) if exists else None

    def seed_directory(self, category: str, seed: Member) -> Path:
        """The folder of one pair."""
        return self.directory / category / f"seed_{seed}"

    def members(self, category: str) -> tuple[str, ...]:
        """The names of a category's pairs: seeds, or with cross each seed's folds."""
        names = []
        for seed in self.config.train.seeds:
            directory = self.seed_directory(category, seed)
            folds = len([*directory.glob("fold_*/inputs.json")])
            names += [fold_member(seed, k) for k in range(folds)] or [str(seed)]
        return tuple(names)

    def categories(self) -> tuple[str, ...]:
        """Categories that have anything trained, in order of name."""
        found = {path.parent.parent.name for path in self.directory.glob("*/seed_*/*")}
        return tuple(sorted(found))

    def category(self, name: str | None = None) -> str:
        """The category asked for, or the only one there is.

        Raises:
          UserError: there are several, or none.
        """
        known = self.categories()
        if name is None and len(known) != 1:
            raise UserError(
                f"{self.directory}: name one of its categories: "
                f"{', '.join(known) or 'none'}"
            )
        return name or known[0]

    def write_inputs(self, category: str, seed: Member, record: dict[str, Any]) -> None:
        """Records what a pair's training saw; the main process does."""
        if is_main():
            write_json(self.seed_directory(category, seed) / "inputs.json", record)

    def is_begun(self, category: str, seed: Member) -> bool:
        """Whether a pair has a checkpoint, which `inputs.json` belongs to."""
        directory = self.seed_directory(category, seed)
        return (directory / "inputs.json").exists() and any(
            path.name.isdigit() for path in directory.glob("*/*")
        )

    def whitening_file(self, category: str, seed: Member) -> Path:
        """Where the whitening of a pair's input is, beside `inputs.json`."""
        return self.seed_directory(category, seed) / "whitening.npz"

    def units_file(self, category: str, seed: Member) -> Path:
        """Where the units of a pair's groups are, once they are fitted."""
        return self.seed_directory(category, seed) / "units.json"

    def check_inputs(self, category: str, seed: Member, record: dict[str, Any]) -> None:
        """Checks that what a begun pair's training saw is what it would see now.

        What is not in the record, or was not when it was written, is not compared.

        Raises:
          UserError: the data or the backbone have changed since.
        """
        before = self.read_inputs(category, seed)
        names = {"train": "the training images", "held_out": "the held-out images"}
        for key in ("side", "channels", "backbone", "train", "held_out"):
            if key in before.keys() & record.keys() and before[key] != record[key]:
                raise UserError(
                    f"{self.seed_directory(category, seed)}: {names.get(key, key)} "
                    "differ from those that this run was trained with; put them back, "
                    "or take another --workdir."
                )
        content, now = before.get("content", {}), record.get("content", {})
        for part_id in sorted(content.keys() & now.keys()):
            if content[part_id] != now[part_id]:
                raise UserError(
                    f"{self.seed_directory(category, seed)}: {part_id} is another "
                    "image than the one that this run was trained with; put it back, "
                    "or take another --workdir."
                )

    def read_inputs(self, category: str, seed: Member) -> dict[str, Any]:
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

    def weights_sha256(self) -> str | None:
        """Of the backbone's file of weights, as training recorded it; None if unknown.

        All of a run's pairs have the same backbone.
        """
        for path in sorted(self.directory.glob("*/seed_*/**/inputs.json")):
            try:
                return json.loads(path.read_text()).get("weights_sha256")
            except (OSError, ValueError):
                continue
        return None

    def reading(self, category: str) -> dict[str, Any]:
        """How a training that has begun read its pictures; empty where none has.

        "bit_depth" is how many bits of 16 it took for filled, "excluded" the ids of
        training pictures that it left out.
        """
        seed = self.members(category)[0]
        if not self.is_begun(category, seed):
            return {}
        record = self.read_inputs(category, seed)
        return {
            "bit_depth": record.get("bit_depth", FULL_DEPTH),
            "excluded": tuple(record.get("excluded", ())),
        }

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Holds the run's folder against a second run, see `locked`."""
        return locked(self.directory)


@contextlib.contextmanager
def locked(
    directory: str | Path,
    occupied: str = "another process is training or evaluating in this folder",
) -> Iterator[None]:
    """Holds a folder, made if need be, against a second process.

    Args:
      directory: the folder.
      occupied: what an error says of the process that holds it.

    Raises:
      UserError: another process holds it, or it cannot be written.
    """
    if not is_main():
        yield
        return
    directory = expanded(directory)
    lock = filelock.FileLock(directory / ".lock")
    with write_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError(f"{directory}: {occupied}.") from error
        except NotImplementedError:  # filelock's word for a file system without locks
            logging.warning("%s: cannot be locked; start no second process.", directory)
    try:
        yield
    finally:
        lock.release()


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
