"""Orbax checkpoints of one training stage."""

import contextlib
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding

from ast_jax.errors import UserError
from ast_jax.training.state import TrainState


class CheckpointStore:
    """The checkpoints of one stage in one folder, numbered by step; two are kept.

    Saving is asynchronous: `close` (or leaving the context) waits for the last one.
    """

    def __init__(self, directory: Path):
        """Opens the folder, which need not exist yet."""
        self._directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(2),
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> "CheckpointStore":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for the last save."""
        self.close()

    def close(self) -> None:
        """Waits for the last save and frees the manager's threads."""
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps that have a finished checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint of the state's step."""
        self._manager.save(int(state.step), args=ocp.args.StandardSave(_arrays(state)))

    def restore(
        self, state: TrainState, sharding: NamedSharding, step: int | None = None
    ) -> TrainState:
        """Returns `state` with the arrays of a checkpoint, the latest by default.

        Works on any number of devices, since `state` is the template.

        Raises:
          UserError: there is no checkpoint, or it does not fit the networks.
        """
        step = self._manager.latest_step() if step is None else step
        if step is None:
            raise UserError(f"{self._directory}: no checkpoint; train the run first.")
        template = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
            _arrays(state),
        )
        try:
            arrays = self._manager.restore(
                step, args=ocp.args.StandardRestore(template)
            )
        except Exception as error:  # Orbax raises whatever its parts raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"{self._directory}/{step}: the checkpoint is damaged or belongs to "
                f"other networks ({reason[:120]}); remove it and resume the training."
            ) from error
        return state.replace(**arrays)


def _arrays(state: TrainState) -> dict:
    """What a checkpoint holds: everything but the functions."""
    return {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": state.opt_state,
    }


@contextlib.contextmanager
def opened(directory: Path):
    """Opens a stage's folder for reading; says which one is missing.

    Raises:
      UserError: the folder does not exist.
    """
    if not Path(directory).is_dir():
        raise UserError(f"{directory}: no checkpoint folder; train the run first.")
    with CheckpointStore(directory) as store:
        yield store
