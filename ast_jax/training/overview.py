"""Facts about a training for the log: its parameters, time and memory; and a trace."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging


def parameter_table(variables: dict[str, Any]) -> str:
    """A line with path, shape and number of values of each array, and a total.

    Args:
      variables: Flax collections, of arrays or of shapes.
    """
    rows = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    ]
    cells = [
        (path, " x ".join(map(str, shape)), f"{math.prod(shape):,}")
        for path, shape in rows
    ]
    total = sum(math.prod(shape) for _, shape in rows)
    cells.append(("total", "", f"{total:,}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        f"{path:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}"
        for path, shape, count in cells
    )


def log_compiled(name: str, program: jax.stages.Compiled, seconds: float) -> None:
    """Logs how long compiling took and how much memory a call needs on each device."""
    logging.info("%s: compiled in %.1f s%s.", name, seconds, _needs(program))


def _needs(program: jax.stages.Compiled) -> str:
    """The memory that a call needs and a device has, if the backend reports it."""
    analysis = program.memory_analysis()
    if analysis is None:
        return ""
    size = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    text = f"; a call needs {size / 1e9:.3g} GB on each device"
    stats = jax.local_devices()[0].memory_stats()  # None on a CPU
    if stats and "bytes_limit" in stats:
        used, limit = stats["bytes_in_use"], stats["bytes_limit"]
        text += f", where {used / 1e9:.2f} of {limit / 1e9:.2f} GB are in use"
    return text


@contextlib.contextmanager
def write_trace(directory: Path | None) -> Iterator[None]:
    """Writes a trace of the block's work for TensorBoard and Perfetto; None: no trace.

    The block must wait for the devices before it ends.
    """
    if directory is None:
        yield
        return
    with jax.profiler.trace(str(directory), create_perfetto_trace=False):
        yield
    logging.info("%s: a trace of some steps.", directory)
