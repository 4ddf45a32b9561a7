"""The device mesh: one axis, `data`, over which a batch is split."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ast_jax.errors import UserError

DATA_AXIS = "data"


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of all devices, or of those given, along the data axis."""
    devices = devices or jax.devices()
    # Explicit axes, the default of jax.make_mesh, forbid operations that Auto allows.
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Checks that every device gets an equal share of a batch.

    Raises:
      UserError: it does not; the line proposes a batch size.
    """
    count = mesh.size
    if batch_size % count:
        proposal = max(count, batch_size - batch_size % count)
        raise UserError(
            f"train.batch_size {batch_size} does not divide by the {count} devices; "
            f"take --config.train.batch_size={proposal}."
        )
