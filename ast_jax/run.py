"""A run's folder: its configuration, and the places of its files.

DIR/config.json
DIR/<category>/calibration.json              left-out scores, and the scales of pairs
DIR/<category>/feedback.jsonl                answers to predictions
DIR/<category>/monitor/state.json            the monitor's state
DIR/<category>/seed_<n>/inputs.json          the record: what the pair learns from
DIR/<category>/seed_<n>/{teacher,student}/   Orbax checkpoints
DIR/<category>/seed_<n>/metrics.jsonl        losses and speed of each epoch
DIR/<category>/seed_<n>/whitening.npz        AST+: the whitening of the input
DIR/<category>/seed_<n>/units.json           AST+: the units of the groups' distances
DIR/<category>/seed_<n>/fold_<k>/…           with cross calibration a pair for each fold
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

from ast_jax.config import FULL_DEPTH, default, flatten
from ast_jax.errors import UserError
from ast_jax.files import expand_home, read_text, write_errors, write_json
from ast_jax.parallel import is_main

FORMAT = 1
# A run may change these keys: its data may move, and its trainings may be spread anew.
_INCIDENTAL = (
    "dataset.root",
    "dataset.data_dir",
    "backbone.weights",
    "train.tasks_per_device",
    "train.tensorboard",
)


Member = int | str
"""The name of a category's pair: a seed, or `fold_member` of a seed and a fold."""


def fold_member(seed: int, fold: int) -> str:
    """The name of a seed's pair that left out a fold; folds count from 0."""
    return f"{seed}/fold_{fold}"


def seed_and_fold(member: str) -> tuple[str, str]:
    """The seed and the fold in a pair's name; the fold is "" with split."""
    seed, _, fold = member.partition("/")
    return seed, fold


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder and the configuration in it."""

    directory: Path
    config: ConfigDict

    @classmethod
    def create(cls, directory: str | Path, config: ConfigDict) -> "Run":
        """Makes the folder, or opens it if it holds the same run.

        Raises:
          UserError: the folder holds a run with another configuration, or cannot be
            written.
        """
        directory = expand_home(directory).absolute()
        if (directory / "config.json").exists():
            run = cls.open(directory)
            differences = _differences(run.config, config)
            if differences:
                raise UserError(
                    f"{directory} holds a run with another configuration "
                    f"({'; '.join(differences[:3])}); {_remedy(run.config, config)}."
                )
            return cls(directory, config)
        if config.backbone.weights:  # absolute, for commands in other folders
            config = ConfigDict(config.to_dict()).lock()
            config.backbone.weights = str(
                expand_home(config.backbone.weights).absolute()
            )
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
        directory = expand_home(directory).absolute()
        path = directory / "config.json"
        try:
            tree = json.loads(read_text(path))
            version, config = int(tree["format"]), dict(tree["config"])
        except FileNotFoundError as error:
            raise UserError(
                f"{directory} is not a run: it has no config.json."
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a run's configuration ({error}).") from error
        if version > FORMAT:
            raise UserError(
                f"{path} has format {version}, this version reads up to {FORMAT}; "
                "update ast-jax."
            )
        # Keys that a run of an earlier version lacks get their defaults.
        complete = default()
        try:
            with complete.unlocked():
                complete.update(_convert_lists(config))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: not a run's configuration ({error}).") from error
        return cls(directory, complete)

    @classmethod
    def find(cls, directory: str | Path) -> "Run | None":
        """Opens the run in a folder; None if there is none."""
        exists = (expand_home(directory) / "config.json").exists()
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
        """The categories with a pair, in order of name."""
        found = {path.parent.parent.name for path in self.directory.glob("*/seed_*/*")}
        return tuple(sorted(found))

    def category(self, name: str | None = None) -> str:
        """Returns the name, or by default the only category.

        Raises:
          UserError: there is no name, and several categories or none.
        """
        known = self.categories()
        if name is None and len(known) != 1:
            raise UserError(
                f"{self.directory}: name one of its categories: "
                f"{', '.join(known) or 'none'}"
            )
        return name or known[0]

    def write_record(self, category: str, seed: Member, record: dict[str, Any]) -> None:
        """Writes the record of a pair's training, in the main process.

        Args:
          category: of the pair.
          seed: of the pair.
          record: which images and which backbone it learns from.
        """
        if is_main():
            write_json(self.seed_directory(category, seed) / "inputs.json", record)

    def is_begun(self, category: str, seed: Member) -> bool:
        """Whether a pair has a checkpoint and its record."""
        directory = self.seed_directory(category, seed)
        return (directory / "inputs.json").exists() and any(
            path.name.isdigit() for path in directory.glob("*/*")
        )

    def whitening_file(self, category: str, seed: Member) -> Path:
        """The file of the whitening of a pair's input."""
        return self.seed_directory(category, seed) / "whitening.npz"

    def units_file(self, category: str, seed: Member) -> Path:
        """The file of the units of a pair's groups."""
        return self.seed_directory(category, seed) / "units.json"

    def check_record(self, category: str, seed: Member, record: dict[str, Any]) -> None:
        """Checks that a pair's training would learn from the same as before.

        Compares the entries that the new and the stored record share.

        Raises:
          UserError: the data or the backbone have changed.
        """
        before = self.read_record(category, seed)
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

    def read_record(self, category: str, seed: Member | None = None) -> dict[str, Any]:
        """Reads the record of a pair's training, by default of the first pair.

        Raises:
          UserError: the category and seed were not trained.
        """
        seed = self.members(category)[0] if seed is None else seed
        path = self.seed_directory(category, seed) / "inputs.json"
        try:
            return json.loads(read_text(path))
        except FileNotFoundError as error:
            known = ", ".join(self.categories()) or "none"
            raise UserError(
                f"{self.directory} has no trained {category!r}, seed {seed}; "
                f"trained categories: {known}."
            ) from error
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); train it again.") from error

    def weights_sha256(self) -> str | None:
        """The recorded SHA-256 of the backbone's file of weights; None if unknown.

        All pairs of a run have the same backbone.
        """
        for path in sorted(self.directory.glob("*/seed_*/**/inputs.json")):
            try:
                return json.loads(path.read_text()).get("weights_sha256")
            except (OSError, ValueError):
                continue
        return None

    def picture_options(self, category: str) -> dict[str, Any]:
        """Returns how the training reads its pictures; {} before it has begun.

        "bit_depth" is the number of bits in use of 16, "excluded" the ids of training
        pictures that are left out.
        """
        seed = self.members(category)[0]
        if not self.is_begun(category, seed):
            return {}
        # Runs of an earlier version took all 16 bits as filled, and recorded nothing.
        record = self.read_record(category, seed)
        return {
            "bit_depth": record.get("bit_depth", FULL_DEPTH),
            "excluded": tuple(record.get("excluded", ())),
        }

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Locks the run's folder, see the function `lock`."""
        return lock(self.directory)


@contextlib.contextmanager
def lock(
    directory: str | Path,
    occupied: str = "another process is training or evaluating in this folder",
) -> Iterator[None]:
    """Locks a folder, so that no second process works in it; makes it if necessary.

    Args:
      directory: the folder.
      occupied: the error's text about the process that has the lock.

    Raises:
      UserError: another process has the lock, or the folder cannot be written.
    """
    if not is_main():
        yield
        return
    directory = expand_home(directory)
    file_lock = filelock.FileLock(directory / ".lock")
    with write_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            file_lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError(f"{directory}: {occupied}.") from error
        except NotImplementedError:  # the file system has no locks
            logging.warning("%s: cannot be locked; start no second process.", directory)
    try:
        yield
    finally:
        file_lock.release()


def _convert_lists(value: Any) -> Any:
    """Converts JSON's lists to the configuration's tuples."""
    if isinstance(value, dict):
        return {key: _convert_lists(entry) for key, entry in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """The keys in which two configurations differ, with both values."""
    before, after = flatten(old.to_dict()), flatten(new.to_dict())
    keys = sorted(
        (before.keys() | after.keys()) - set(_INCIDENTAL),
        key=lambda key: (key != "method", key),  # it explains the others
    )
    return [
        f"{key} is {before.get(key)!r} there and {after.get(key)!r} here"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _remedy(old: ConfigDict, new: ConfigDict) -> str:
    """Returns the remedy if the folder has a run with another configuration."""
    if old.method == new.method:
        return "take another --workdir"
    variants = "folder:ast or folder:small" if old.method == "ast" else "NAME:plus"
    return (
        f"give it the --config that it began with ({variants}), or take another "
        "--workdir"
    )
