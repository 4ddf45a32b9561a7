"""A monitor with its state in a file of the run, so that it survives a restart."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import logging

from ast_jax.errors import UserError
from ast_jax.inference.detector import Detector
from ast_jax.inference.monitor import ALARM, Monitor
from ast_jax.inference.prediction import Prediction
from ast_jax.run import lock

_SAVED_EVERY = 100
"""Parts. If the process is killed, the parts since the last save are forgotten."""


class MonitorFile:
    """Watches predictions in their order; `open_monitor` makes one."""

    def __init__(self, monitor: Monitor, path: Path):
        """Wraps a monitor and the path of its state."""
        self.monitor, self._path = monitor, path

    def watch(self, result: Prediction | UserError) -> dict[str, Any]:
        """Adds a part; returns the entry of its row about the stream so far."""
        if isinstance(result, UserError):
            return {}
        before = self.monitor.alarm
        value = self.monitor.add(result.own_scores)
        if self.monitor.alarm and not before:
            logging.warning("%s", self.verdict)
        if self.monitor.parts % _SAVED_EVERY == 0:
            self.save()
        return {"monitor": {"value": value, "alarm": self.monitor.alarm}}

    @property
    def verdict(self) -> str:
        """The state of the monitor in words."""
        monitor = self.monitor
        if monitor.alarm:
            return (
                "the parts no longer look like the calibrated ones: the monitor "
                f"reached {ALARM:g} at part {monitor.alarm_at} of {monitor.parts}; "
                "look at lamp, lens and material, and train with new good parts"
            )
        return (
            f"monitor after {monitor.parts} parts: {monitor.value:.3g}, at most "
            f"{monitor.highest:.3g} so far; {ALARM:g} is an alarm"
        )

    def save(self) -> None:
        """Writes the state.

        Raises:
          UserError: the folder cannot be written.
        """
        self.monitor.save(self._path)


@contextmanager
def open_monitor(detector: Detector) -> Iterator[MonitorFile]:
    """Opens the monitor of a detector's run; writes its state at the end.

    Raises:
      UserError: there is no calibration, another process watches, or the folder cannot
        be written.
    """
    folder = detector.directory / detector.category / "monitor"
    with lock(folder, "another prediction watches the parts of this run"):
        path = folder / "state.json"
        watching = MonitorFile(detector.monitor(path), path)
        try:
            yield watching
        finally:
            watching.save()
            logging.info("%s.", watching.verdict)
