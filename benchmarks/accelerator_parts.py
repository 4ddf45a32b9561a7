"""The parts of `benchmarks.accelerator`, each with its time limit.

A part is a function without arguments that returns rows; --quick makes it small.
"""

import dataclasses
import gzip
import importlib.util
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks import side_by_side
from benchmarks.side_by_side import QUICK, Job

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure: name, value (None if it does not exist), unit, aim."""

    figure: str
    value: float | str | None
    unit: str = ""
    aim: str = ""

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        return cls(**fields)

    def text(self) -> str:
        """Value and unit, to three digits."""
        if self.value is None:
            return ""
        value = self.value if isinstance(self.value, str) else f"{self.value:.3g}"
        return f"{value} {self.unit}".rstrip()


@dataclasses.dataclass(frozen=True)
class Part:
    """A part: its question, its function, its time limit in seconds."""

    question: str
    function: Callable[[], list[Row]]
    limit_s: float

    def measure(self) -> Rows:
        """The rows as JSON has them."""
        return [dataclasses.asdict(row) for row in self.function()]


def machine() -> list[Row]:
    """The devices, their number, and the versions of libraries."""
    import flax
    import jax
    import jaxlib

    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return [
        Row("device", device.device_kind),
        Row("devices", float(jax.device_count())),
        Row("memory", limit and limit / 2**30, "GiB"),
        Row("platform", f"{jax.default_backend()}, {device.client.platform_version}"),
        Row(
            "versions",
            f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, "
            f"flax {flax.__version__}, Python {platform.python_version()}",
        ),
    ]


def job(task: str, **fields: Any) -> Job:
    """A job of the paper's sizes in bfloat16; a small one with --quick."""
    if QUICK.value:
        small = {"side": 8, "channels": 48, "depth_channels": 16, "hidden": 8}
        fields = {**fields, **small, "width": 16}
    dtype = "bfloat16"
    return Job(task, dtype=dtype, torch_dtype=dtype, **fields)


def steps_job(network: str) -> Job:
    """A call of many train steps, so that the cost of the call is small."""
    return job(f"{network}_step", samples=8, steps=2 if QUICK.value else 50)


def steps() -> list[Row]:
    """Train steps of both networks: time, rate, share of a large product's rate."""
    rows = []
    for network in ("teacher", "student"):
        work = steps_job(network)
        flops = work.batch * work.step_flops()[network]
        found = side_by_side.run(work, ()).figures(units=work.steps, flops=flops)
        rows += [
            Row(f"{network} step", 1e3 * found["ours_s"], "ms"),
            Row(f"{network} step, rate", flops / found["ours_s"] / 1e12, "TFLOP/s"),
            Row(f"{network} step, share of a product's rate", found["roof_share"]),
            Row(f"{network} step, compilation", found["compile_s"], "s"),
        ]
    rate = found["roof_gflops"] / 1e3
    return [*rows, Row("a large bfloat16 product's rate", rate, "TFLOP/s")]


def category_job() -> Job:
    """A category of the paper's configuration, on random features."""
    if QUICK.value:
        return job("training", samples=16, epochs=2)
    return job("training", samples=256, epochs=72)


@dataclasses.dataclass(frozen=True)
class Training:
    """A category's training, timed: seconds without and of compilation, memory."""

    seconds: float
    compile_s: float
    memory_mb: float


def train(work: Job, count: int = 1, **sections: dict[str, Any]) -> Training:
    """Trains `count` categories in one run, each with its own seed.

    Args:
      work: what is trained on.
      count: how many, side by side on a device.
      sections: what else the configuration says, by section.
    """
    from benchmarks import category
    from benchmarks.ast_rival import memory_mb
    from benchmarks.common import compile_clock

    config = category.configure(work, work.epochs)
    for section, values in sections.items():
        config[section].update(values)
    inputs = category.inputs(*side_by_side.random_features(work), work.depth_channels)
    clock, start = compile_clock(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        category.train_many(config, inputs, Path(folder), count)
    seconds = time.perf_counter() - start - clock()
    return Training(seconds, clock(), memory_mb())


def one_category() -> list[Row]:
    """A whole category, without compilation."""
    found = train(category_job())
    return [
        Row("a category, teacher and student", found.seconds, "s", "< 45 s"),
        Row("its compilation", found.compile_s, "s"),
        Row("its peak memory", found.memory_mb, "MB"),
    ]


def ten_categories() -> list[Row]:
    """Ten categories side by side on one device."""
    count = 2 if QUICK.value else 10
    together = {"train": {"tasks_per_device": count}}
    found = train(category_job(), count, **together)
    return [
        Row(f"{count} categories at once", found.seconds, "s", "< 300 s for ten"),
        Row("their peak memory", found.memory_mb, "MB"),
    ]


def scoring() -> list[Row]:
    """Scores from features that lie on the host."""
    batches = (1, 4) if QUICK.value else (1, 16, 64)
    work = job("scoring", samples=max(batches), batches=batches)
    flops = sum(work.forward_flops().values())
    outcome = side_by_side.run(work, ())
    rows = []
    for batch in batches:
        found = outcome.figures(str(batch), units=batch, flops=flops)
        aim = "< 3 ms" if batch == 1 else ""
        name = f"scoring from features, an image of {batch}"
        rows.append(Row(name, 1e3 * found["ours_s"], "ms", aim))
    return rows


def pixels() -> list[Row]:
    """From pixels to map and score: B5 with random weights, teacher, student."""
    from benchmarks import random_detector

    batches = (1, 4) if QUICK.value else (1, 16, 64)
    rows = []
    for batch, seconds in random_detector.seconds_by_batch(batches, QUICK.value):
        aim = "< 12 ms" if batch == 1 else ""
        name = f"from pixels (B5), an image of {batch}"
        rows.append(Row(name, 1e3 * seconds / batch, "ms", aim))
    return rows


def parity() -> list[Row]:
    """Errors on this device against the recorded arrays, by precision."""
    from benchmarks import device_parity

    return [Row(*row) for row in device_parity.errors()]


def profile() -> list[Row]:
    """The device's busy time, and compilation with and without the cache."""
    import jax

    from benchmarks.common import cache_programs

    work = dataclasses.replace(category_job(), epochs=2 if QUICK.value else 6)
    with tempfile.TemporaryDirectory() as folder:
        cache_programs(Path(folder) / "cache")
        cold = train(work)
        jax.clear_caches()
        with jax.profiler.trace(str(Path(folder) / "trace")):
            cached = train(work)
        busy = busy_seconds(Path(folder) / "trace")
    idle = None if busy is None else max(0.0, 1 - busy / cached.seconds)
    return [
        Row("idle share of the device", idle, "", "< 0.05"),
        Row("compilation, cold", cold.compile_s, "s"),
        Row("compilation, cached", cached.compile_s, "s"),
    ]


def busy_seconds(folder: Path) -> float | None:
    """Seconds in which the first device of a trace computes; None without a device."""
    path = next(folder.rglob("*.trace.json.gz"), None)
    if path is None:
        return None
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    names = {
        event["pid"]: event["args"]["name"]
        for event in events
        if event.get("name") == "process_name"
    }
    devices = sorted(pid for pid, name in names.items() if "/device:" in name)
    if not devices:
        return None
    spans = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("ph") == "X" and event["pid"] == devices[0]
    )
    total, end = 0.0, -np.inf
    for first, last in spans:
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total / 1e6


def pytorch() -> list[Row]:
    """PyTorch's time, eager or compiled, whichever is faster."""
    if importlib.util.find_spec("torch") is None:
        return [Row("PyTorch is not installed", None)]
    import jax
    import torch

    if jax.default_backend() != "cpu" and not torch.cuda.is_available():
        return [Row("PyTorch sees no device of this kind", None)]
    few = 2 if QUICK.value else 12
    works = {
        "teacher step": (steps_job("teacher"), "call"),
        "student step": (steps_job("student"), "call"),
        f"training of {few} epochs": (
            dataclasses.replace(category_job(), epochs=few),
            "call",
        ),
        "scoring from features, an image alone": (
            job("scoring", samples=1, batches=(1,)),
            "1",
        ),
    }
    if QUICK.value:
        works = {"teacher step": works["teacher step"]}
    rows = []
    for name, (work, call) in works.items():
        found = [
            side_by_side.run(dataclasses.replace(work, torch_compile=compiled))
            for compiled in ([False] if QUICK.value else [False, True])
        ]
        ratios = [each.figures(call, units=1, flops=1.0)["ratio"] for each in found]
        rows.append(Row(f"{name}: PyTorch over ours", min(ratios), "", "≥ 5 (eager)"))
        rows.append(Row(f"{name}: PyTorch eager over ours", ratios[0]))
    return rows


def several_devices() -> list[Row]:
    """Losses on all devices and on one, and the speed-up."""
    import jax

    if jax.device_count() < 2:
        return [Row("there is one device", None)]
    from benchmarks import category

    work = category_job()
    work = dataclasses.replace(work, epochs=2)
    inputs = category.inputs(*side_by_side.random_features(work), work.depth_channels)
    config = category.configure(work, work.epochs)
    rows, losses, seconds = [], {}, {}
    for count in (1, jax.device_count()):
        for _ in range(2):  # the second one is timed
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                losses[count] = category.train(config, inputs, Path(folder), count)
                seconds[count] = time.perf_counter() - start
    one, many = (np.array(values) for values in losses.values())
    difference = float(np.abs(one - many).max() / np.abs(one).max())
    rows.append(Row("losses on all devices against one's, relative", difference))
    speedup = seconds[1] / seconds[count]
    rows.append(Row("one device over all, a batch divided", speedup))
    return rows


PARTS: dict[str, Part] = {
    "machine": Part("what is it?", machine, 60),
    "steps": Part("how long is a step?", steps, 120),
    "category": Part("how long is a whole category?", one_category, 180),
    "scoring": Part("how long is a score?", scoring, 90),
    "pixels": Part("and from pixels?", pixels, 120),
    "parity": Part("are the numbers right?", parity, 120),
    "ten": Part("how long are ten categories?", ten_categories, 330),
    "profile": Part("does the device wait?", profile, 120),
    "pytorch": Part("and PyTorch?", pytorch, 300),
    "devices": Part("and several devices?", several_devices, 120),
}
