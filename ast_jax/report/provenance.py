"""The origin of a report: versions, hardware and configuration."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import jax
from ml_collections import ConfigDict

import ast_jax
from ast_jax.config import default, flatten
from ast_jax.mode import Mode
from ast_jax.run import Run

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "numpy", "scipy")


def facts(run: Run) -> dict[str, str]:
    """The run, the hardware and the versions behind a report, by name."""
    now = datetime.now(UTC)
    return {
        "Run": str(run.directory),
        "Report written": f"{now:%Y-%m-%d %H:%M} UTC",
        "Evaluated on": hardware(),
        "Arithmetic": arithmetic(run.config),
        "AST-JAX": ast_jax.__version__,
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "System": platform.platform(terse=True),
    }


def hardware() -> str:
    """JAX's devices and the processor."""
    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    processor = f"{_processor()}, {os.cpu_count()} cores"
    if devices[0].platform == "cpu":
        return processor
    return f"{len(devices)} of {', '.join(kinds)}; {processor}"


def arithmetic(config: ConfigDict) -> str:
    """The number types of products and sums, in one line."""
    dtype, precision = config.train.dtype, config.train.precision
    if jax.default_backend() == "cpu":
        return f"{dtype} products, float32 sums"
    return f"{dtype} products at precision {precision!r}, float32 sums"


def settings(config: ConfigDict) -> str:
    """The settings that belong to a table of results, in one line."""
    teacher, student = config.teacher, config.student
    seeds = ", ".join(map(str, config.train.seeds))
    return "; ".join(
        [
            *([f"backbone {config.backbone.name}"] * Mode(config.mode).has_colour),
            f"{config.dataset.image_size} px",
            f"teacher: hidden {teacher.hidden}, epochs {teacher.epochs}",
            f"student: {student.kind}, width {student.width}, epochs {student.epochs}",
            f"seeds {seeds}" if len(config.train.seeds) > 1 else f"seed {seeds}",
        ]
    )


def configuration(config: ConfigDict) -> list[tuple[str, str, bool]]:
    """Every key with its value and whether it differs from the default."""
    usual = flatten(default().to_dict())
    return [
        (key, _text(value), value != usual.get(key))
        for key, value in flatten(config.to_dict()).items()
    ]


def duration(seconds: float) -> str:
    """Seconds as text: "48 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _text(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "()"
    return str(value) if value != "" else '""'


def _processor() -> str:
    """The processor's name, from Linux if possible."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
