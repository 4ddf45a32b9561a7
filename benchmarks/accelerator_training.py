"""The parts of `benchmarks.accelerator` that train whole categories."""

import dataclasses
import functools
import gzip
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import side_by_side
from benchmarks.accelerator_job import (
    category_job,
    plus_blocks,
    plus_config,
)
from benchmarks.accelerator_row import Row
from benchmarks.side_by_side import QUICK, Job

# The threads of a CPU's trace that compute.
_COMPUTING = ("tf_XLAPjRtCpuClient", "tf_XLAEigen")


@dataclasses.dataclass(frozen=True)
class Training:
    """A category's training, timed: seconds without and of compilation, memory."""

    seconds: float
    compile_s: float
    memory_mb: float


def measure_training(train: Callable[[Path], None]) -> Training:
    """Times a training in a folder of its own."""
    from benchmarks.ast_rival import memory_mb
    from benchmarks.common import compile_clock

    clock, start = compile_clock(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder))
    seconds = time.perf_counter() - start - clock()
    return Training(seconds, clock(), memory_mb())


def measure_categories(work: Job, count: int = 1) -> Training:
    """Times `count` categories, each with its own seed, side by side on a device."""
    from benchmarks import category

    config = category.configure(work, work.epochs)
    config.train.tasks_per_device = count
    inputs = category.inputs(*side_by_side.random_features(work), work.depth_channels)
    return measure_training(
        lambda folder: category.train_many(config, inputs, folder, count)
    )


def one_category() -> list[Row]:
    """A whole category, without compilation."""
    found = measure_categories(category_job())
    return [
        Row("a category, teacher and student", found.seconds, "s", "< 45 s"),
        Row("its compilation", found.compile_s, "s"),
        Row("its peak memory", found.memory_mb, "MB"),
    ]


def one_plus_category() -> list[Row]:
    """A whole category of AST+ on RGB and depth: all pairs in one program."""
    from benchmarks import category

    samples, blocks = category_job().samples, plus_blocks()
    inputs = category.random_blocks(blocks, samples, category_job().side)
    start = time.perf_counter()
    inputs = inputs.with_normaliser(inputs.fit_whitening())
    whitening_s = time.perf_counter() - start
    config = plus_config()
    found = measure_training(lambda folder: category.train(config, inputs, folder))
    return [
        Row(f"a category of AST+, {len(blocks)} pairs", found.seconds, "s"),
        Row("its whitening, before", whitening_s, "s"),
        Row("its compilation", found.compile_s, "s"),
        Row("its peak memory", found.memory_mb, "MB"),
    ]


def ten_categories() -> list[Row]:
    """Ten categories side by side on one device."""
    count = 2 if QUICK.value else 10
    found = measure_categories(category_job(), count)
    return [
        Row(f"{count} categories at once", found.seconds, "s", "< 300 s for ten"),
        Row("their peak memory", found.memory_mb, "MB"),
    ]


def profile() -> list[Row]:
    """The device's busy time, and compilation with and without the cache."""
    import jax

    from benchmarks.common import cache_programs

    work = dataclasses.replace(category_job(), epochs=2 if QUICK.value else 6)
    with tempfile.TemporaryDirectory() as folder:
        cache_programs(Path(folder) / "cache")
        cold = measure_categories(work)
        jax.clear_caches()
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # a trace's file holds a million events
        trace = str(Path(folder) / "trace")
        with jax.profiler.trace(trace, profiler_options=options):
            cached = measure_categories(work)
        busy = busy_seconds(Path(folder) / "trace")
    idle = None if busy is None else max(0.0, 1 - busy / cached.seconds)
    return [
        Row("idle share of the device", idle, "", "< 0.05"),
        Row("compilation, cold", cold.compile_s, "s"),
        Row("compilation, cached", cached.compile_s, "s"),
    ]


def busy_seconds(folder: Path) -> float | None:
    """Seconds in which the first device of a trace computes; None without any.

    The first device of a CPU's trace is the threads that compute.
    """
    path = next(folder.rglob("*.trace.json.gz"), None)
    if path is None:
        return None
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    lanes = _device_lanes(events) or _processor_lanes(events)
    spans = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("ph") == "X" and (event["pid"], event["tid"]) in lanes
    )
    return union_length(spans) / 1e6 if spans else None


def union_length(spans: list[tuple[float, float]]) -> float:
    """The length of the union of intervals, which ascend by their starts."""
    total, end = 0.0, -np.inf
    for first, last in spans:
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def _device_lanes(events: list[dict]) -> set[tuple[int, int]]:
    """Process and thread numbers of the first accelerator's lanes."""
    names = {
        event["pid"]: event["args"]["name"]
        for event in events
        if event.get("name") == "process_name"
    }
    devices = sorted(pid for pid, name in names.items() if "/device:" in name)
    return {
        (event["pid"], event["tid"])
        for event in events
        if event.get("ph") == "X" and event["pid"] in devices[:1]
    }


def _processor_lanes(events: list[dict]) -> set[tuple[int, int]]:
    """Process and thread numbers of a CPU's threads that compute."""
    return {
        (event["pid"], event["tid"])
        for event in events
        if event.get("name") == "thread_name"
        and event["args"]["name"].startswith(_COMPUTING)
    }


def several_devices() -> list[Row]:
    """Losses on all devices and on one; the speed-up over a batch, and over tasks."""
    import jax

    if jax.device_count() < 2:
        return [Row("there is one device", None)]
    return [*_share_batch(), *_share_tasks()]


def _share_batch() -> list[Row]:
    """All devices divide each batch of one category."""
    import jax

    from benchmarks import category

    work = dataclasses.replace(category_job(), epochs=2)
    inputs = category.inputs(*side_by_side.random_features(work), work.depth_channels)
    config = category.configure(work, work.epochs)
    losses, seconds = {}, {}
    for count in (1, jax.device_count()):
        train = functools.partial(category.train, config, inputs, devices=count)
        losses[count], seconds[count] = _second_time(train)
    one, many = (np.array(values) for values in losses.values())
    difference = float(np.abs(one - many).max() / np.abs(one).max())
    speedup = seconds[1] / seconds[jax.device_count()]
    return [
        Row("losses on all devices against one's, relative", difference),
        Row("one device over all, a batch divided", speedup),
    ]


def _share_tasks() -> list[Row]:
    """Every device trains a category of its own; one device trains them in turn."""
    import jax

    from benchmarks import category

    count, work = jax.device_count(), dataclasses.replace(category_job(), epochs=2)
    inputs = category.inputs(*side_by_side.random_features(work), work.depth_channels)
    config = category.configure(work, work.epochs)
    seconds = [
        _second_time(
            lambda folder, devices=devices: category.train_many(
                config, inputs, folder, count, devices
            )
        )[1]
        for devices in (1, count)
    ]
    speedup = seconds[0] / seconds[1]
    return [Row(f"one device over all, {count} categories", speedup)]


def _second_time(train: Callable[[Path], list[float] | None]):
    """The result of a training, and the seconds of another one, which is compiled."""
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            result = train(Path(folder))
            seconds = time.perf_counter() - start
    return result, seconds
