"""Shows the progress of a training: a bar or log lines, metrics.jsonl, TensorBoard."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from absl import logging
from tqdm import tqdm

from ast_jax.errors import UserError
from ast_jax.files import read_text, write_text

_SECONDS_BETWEEN_LINES = 10.0  # without a terminal for a bar


class Progress:
    """The progress of one stage of one pair.

    `metrics.jsonl` has one line per epoch and is replaced whole each time. A new line
    replaces the lines that an earlier start wrote for its epoch and later ones. So a
    run that was killed and resumed has the same file as an uninterrupted one.
    """

    def __init__(
        self,
        directory: Path,
        stage: str,
        *,
        steps: int,
        batch_size: int,
        write: bool = True,
        tensorboard: bool = False,
    ):
        """Reads the lines of an earlier start; writes nothing before the first `log`.

        Args:
          directory: the pair's folder, for metrics.jsonl and events/.
          stage: "teacher" or "student".
          steps: of the whole stage.
          batch_size: images in one step.
          write: False if another process writes.
          tensorboard: whether to write event files too.

        Raises:
          UserError: event files need tensorboardX, and it is missing.
        """
        self._stage, self._steps, self._batch_size = stage, steps, batch_size
        self._path = directory / "metrics.jsonl" if write else None
        self._name = f"{directory.parent.name} {directory.name} {stage}"
        self._rows = read_rows(directory / "metrics.jsonl")
        self._events = _Events(directory, stage) if write and tensorboard else None
        self._bar = None

    def start(self, step: int) -> None:
        """Starts the bar at a step: 0 or a checkpoint's."""
        hidden = None if self._path else True  # None: hidden unless there is a terminal
        self._bar = tqdm(
            total=self._steps,
            initial=step,
            desc=self._name,
            unit=" steps",
            disable=hidden,
        )
        self._first = self._logged = step  # the process's, the epoch's first step
        self._start = self._logged_at = self._shown_at = time.perf_counter()

    def close(self) -> None:
        """Closes the bar and the event file."""
        if self._bar is not None:
            self._bar.close()
        if self._events:
            self._events.close()

    def advance(self, step: int, loss: float) -> None:
        """Shows the current step, its loss, the speed and the remaining time."""
        now = time.perf_counter()
        rate = (step - self._first) / max(now - self._start, 1e-9)
        speed = f"{rate * self._batch_size:.1f}"
        self._bar.set_postfix({"loss": f"{loss:.4g}", "images/s": speed}, refresh=False)
        self._bar.update(step - self._bar.n)
        late = now - self._shown_at >= _SECONDS_BETWEEN_LINES
        if self._bar.disable and self._path and (late or step == self._steps):
            self._shown_at = now
            left = tqdm.format_interval((self._steps - step) / max(rate, 1e-9))
            logging.info(
                "%s: step %d of %d, loss %.4g, %s images/s, %s left.",
                *(self._name, step, self._steps, loss, speed, left),
            )

    def log(self, epoch: int, step: int, loss: float) -> None:
        """Writes an epoch's line; epochs count from 1.

        Raises:
          UserError: the file cannot be written.
        """
        now = time.perf_counter()
        images = (step - self._logged) * self._batch_size
        rate = images / max(now - self._logged_at, 1e-9)
        self._logged, self._logged_at = step, now
        line = {
            "step": step,
            "stage": self._stage,
            "epoch": epoch,
            "loss": loss,
            "images/s": round(rate, 2),
        }
        self._rows = _insert_line(self._rows, line)
        if self._path:
            write_rows(self._path, self._rows)
        if self._events:
            self._events.add(step, {"loss": loss, "images/s": rate})


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; skips incomplete lines. [] if there is no file."""
    rows = []
    if path.is_file():
        for line in read_text(path).splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replaces a metrics.jsonl.

    Raises:
      UserError: the file cannot be written.
    """
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _insert_line(rows: list[dict[str, Any]], line: dict[str, Any]) -> list[dict]:
    """Inserts a line after its stage's earlier epochs, and drops the later ones."""
    own = [at for at, row in enumerate(rows) if row["stage"] == line["stage"]]
    earlier = [at for at in own if rows[at]["epoch"] < line["epoch"]]
    place = earlier[-1] + 1 if earlier else own[0] if own else len(rows)
    behind = (row for row in rows[place:] if row["stage"] != line["stage"])
    return [*rows[:place], line, *behind]


def check_tensorboard() -> None:
    """Checks that event files can be written, before hours of training.

    Raises:
      UserError: tensorboardX is not installed.
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise UserError(
            "train.tensorboard needs tensorboardX: pip install tensorboardX, or leave "
            "it out; metrics.jsonl has the same."
        ) from error


class _Events:
    """TensorBoard's event files in DIR/events; tensorboardX needs no TensorFlow."""

    def __init__(self, directory: Path, stage: str):
        check_tensorboard()
        self._folder, self._stage, self._writer = directory / "events", stage, None

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each curve."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # TensorBoard drops the points of an earlier start from this step on.
            self._writer = SummaryWriter(
                str(self._folder / self._stage), purge_step=step, flush_secs=10
            )
        for name, value in values.items():
            self._writer.add_scalar(f"{self._stage}/{name}", value, step)

    def close(self) -> None:
        if self._writer:
            self._writer.close()
