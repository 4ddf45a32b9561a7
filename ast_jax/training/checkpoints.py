"""Orbax checkpoints of one training stage, each with digests of its files.

Orbax commits a checkpoint whole or not at all, but does not notice when bytes of its
arrays change on disk afterwards. The digests, which it commits with them, show that.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import NamedSharding

from ast_jax.errors import UserError
from ast_jax.files import unreadable_error
from ast_jax.training.digests import damaged_file, write_digests

if TYPE_CHECKING:  # a detector reads checkpoints without optax
    from ast_jax.training.state import TrainState

_LOSSES = "losses.json"

# Orbax warns of every folder that it is asked only to read.
logging.get_absl_logger().addFilter(
    lambda record: "Given directory is read only" not in record.getMessage()
)


class DamageError(UserError):
    """A checkpoint's files have changed since they were saved, or fit other networks.

    Every other reason why a checkpoint cannot be read may be temporary, and raises a
    plain UserError.
    """


class CheckpointStore:
    """The checkpoints of one stage in one folder, numbered by step; two are kept.

    A single process saves in the background; `close` (or leaving the context) waits
    for the last save. Several processes save together, one checkpoint after another.
    """

    def __init__(self, directory: Path, *, read_only: bool = False):
        """Opens the folder and removes the remains of an interrupted save.

        A folder that is only read must exist, and nothing in it is removed.
        """
        self._directory = Path(directory).absolute()
        self._losses: list[float] = []  # of the checkpoint that is being written
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(2),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,  # other values raise a warning
            lightweight_initialize=True,  # one damaged checkpoint hides no other one
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        errors = _read_errors if read_only else _write_errors
        with errors(self._directory):
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> "CheckpointStore":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for the last save."""
        self.close()

    def close(self) -> None:
        """Waits for the last save and frees the manager's threads.

        Raises:
          UserError: the last save failed; the previous checkpoint is still there.
        """
        with _write_errors(self._directory):
            self._manager.close()

    @property
    def directory(self) -> Path:
        """The folder."""
        return self._directory

    def steps(self) -> list[int]:
        """The steps that have a finished checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def is_intact(self, step: int) -> bool:
        """Whether a step has a finished checkpoint and its files are unchanged.

        Raises:
          UserError: its files cannot be read.
        """
        folder = self._directory / str(step)
        with _read_errors(folder):
            return step in self.steps() and damaged_file(folder) is None

    def losses(self, step: int) -> list[float]:
        """The losses that `save` stored with a checkpoint."""
        path = self._directory / str(step) / _LOSSES
        return json.loads(path.read_text()) if path.exists() else []

    def save(self, state: "TrainState", losses: Sequence[float] = ()) -> None:
        """Writes a checkpoint of the state's step, unless there is one.

        Args:
          state: arrays of one training, on every device.
          losses: of the steps since the last whole epoch.

        Raises:
          UserError: this save or the previous one failed; older checkpoints are kept.
        """
        with _write_errors(self._directory):
            self._manager.wait_until_finished()
            self._losses = list(losses)
            self._manager.save(
                int(state.step), args=ocp.args.StandardSave(_arrays(state))
            )
            if jax.process_count() > 1:
                # Two saves at a time meet at barriers of one name, in any order.
                self._manager.wait_until_finished()

    def restore(
        self, state: "TrainState", sharding: NamedSharding, step: int | None = None
    ) -> "TrainState":
        """Returns `state` with the arrays of a checkpoint, the latest by default.

        `state` is the template, so this works on any number of devices.

        Raises:
          DamageError: the checkpoint is damaged, or does not fit the networks.
          UserError: there is no checkpoint, or it cannot be read now.
        """
        step = self._latest() if step is None else step
        template = _place(_arrays(state), sharding)
        with self._check(step, template):
            arrays = self._manager.restore(
                step, args=ocp.args.StandardRestore(template)
            )
        return state.replace(**arrays)

    def restore_variables(
        self, variables: dict[str, dict], sharding: NamedSharding
    ) -> tuple[int, dict[str, dict]]:
        """Returns the step and the variables of the latest checkpoint.

        The optimiser's state, two thirds of a checkpoint, is not restored.

        Args:
          variables: the template: "params" and "batch_stats".
          sharding: of every array.

        Raises:
          DamageError, UserError: as `restore`.
        """
        step, template = self._latest(), _place(variables, sharding)
        with self._check(step, template):
            arguments = ocp.args.PyTreeRestore(
                item=template,
                restore_args=ocp.checkpoint_utils.construct_restore_args(template),
                partial_restore=True,
            )
            return step, self._manager.restore(step, args=arguments)

    def _latest(self) -> int:
        step = self._manager.latest_step()
        if step is None:
            raise UserError(f"{self._directory}: no checkpoint; train the run first.")
        return step

    @contextlib.contextmanager
    def _check(self, step: int, template: dict) -> Iterator[None]:
        """Checks that a checkpoint is intact and fits the template, before use."""
        folder = self._directory / str(step)
        with _read_errors(folder):
            if damaged := damaged_file(folder):
                raise _damage(folder, f"{damaged} is not what was saved")
            # Without this check Orbax fails in a thread, and its error shows up later
            # in another place.
            if foreign := _foreign_array(folder, template):
                raise _damage(folder, f"{foreign} is not the configuration's")
            yield

    def resume(self, state: "TrainState", sharding: NamedSharding) -> "TrainState":
        """Returns the latest intact checkpoint, or `state` on the devices without any.

        Later checkpoints that are damaged are named in a warning and renamed (20
        becomes 20.damaged), so that their steps can be saved again.

        Raises:
          UserError: there are checkpoints and all are damaged, or one cannot be read
            for another reason, which may be temporary.
        """
        damaged = []
        for step in reversed(self.steps()):
            try:
                resumed = self.restore(state, sharding, step)
            except DamageError as error:
                logging.warning("%s", error)
                damaged.append(step)
                continue
            self._set_aside(damaged)
            return resumed
        if damaged:
            raise UserError(
                f"{self._directory}: none of the checkpoints {sorted(damaged)} is "
                "intact; remove this folder to train the stage from its start."
            )
        return jax.device_put(state, sharding)

    def _set_aside(self, steps: Sequence[int]) -> None:
        """Renames checkpoints so that Orbax does not list them any more."""
        with _write_errors(self._directory):
            for step in steps:
                folder = self._directory / str(step)
                names = (f"{step}.damaged{'-' * bool(n)}{n or ''}" for n in count())
                free = (folder.with_name(name) for name in names)
                folder.rename(next(path for path in free if not path.exists()))
            self._manager.reload()

    def _seal(self) -> None:
        """Adds losses and digests; Orbax calls this in its thread before the commit."""
        for folder in self._directory.glob("*.orbax-checkpoint-tmp"):
            (folder / _LOSSES).write_text(json.dumps(self._losses))
            write_digests(folder)


def _foreign_array(folder: Path, template: dict) -> str:
    """The path of the first array that a checkpoint lacks, has too many, or has in
    another shape; "" if there is none.
    """
    saved = ocp.StandardCheckpointHandler().metadata(folder / "default").tree
    there = _shapes({name: saved[name] for name in template if name in saved})
    wanted = _shapes(template)
    paths = sorted(there.keys() | wanted.keys())
    return next((path for path in paths if there.get(path) != wanted.get(path)), "")


def _place(tree: dict, sharding: NamedSharding) -> dict:
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree
    )


def _shapes(tree: dict) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda node: hasattr(node, "shape")
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _arrays(state: "TrainState") -> dict:
    """The arrays of a state, which a checkpoint holds; it holds no functions."""
    return {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": state.opt_state,
    }


def _reason(error: Exception) -> str:
    """The system's message, else the first line of the error's text, shortened."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    if "No space left on device" in text:
        return "No space left on device"
    return next(iter(text.splitlines()), type(error).__name__)[:120]


def _damage(folder: Path, reason: str) -> DamageError:
    return DamageError(
        f"{folder}: the checkpoint is damaged or belongs to other networks ({reason}); "
        "train.py goes on from the one before."
    )


@contextlib.contextmanager
def _read_errors(folder: Path) -> Iterator[None]:
    """Turns every error while a checkpoint is read into a UserError.

    The files may be intact, so they are left as they are.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore wrap an OSError in many types
        raise unreadable_error(folder, _reason(error)) from error


@contextlib.contextmanager
def _write_errors(directory: Path) -> Iterator[None]:
    """Turns every error while a checkpoint is written into a UserError."""
    try:
        yield
    except Exception as error:  # TensorStore wraps an OSError in many types
        raise UserError(
            f"{directory}: a checkpoint cannot be written ({_reason(error)}); those "
            "that are there are kept. See to the disk and run the same command again."
        ) from error


@contextlib.contextmanager
def open_store(directory: Path) -> Iterator[CheckpointStore]:
    """Opens a stage's folder for reading.

    Raises:
      UserError: the folder does not exist.
    """
    if not Path(directory).is_dir():
        raise UserError(f"{directory}: no checkpoint folder; train the run first.")
    with CheckpointStore(directory, read_only=True) as store:
        yield store
