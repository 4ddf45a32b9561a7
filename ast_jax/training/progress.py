"""How far a training is: a bar or log lines, metrics.jsonl, TensorBoard's events."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from absl import logging
from tqdm import tqdm

from ast_jax.errors import UserError
from ast_jax.files import write_text

_SECONDS_BETWEEN_LINES = 10.0  # where there is no terminal for a bar


class Progress:
    """The progress of one stage of one pair.

    `metrics.jsonl` holds one line an epoch. It is replaced whole each time, and a line
    takes the place of what an earlier start wrote of its epoch and those behind, so
    that after a kill the file is that of an undisturbed run.
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
        """Reads what an earlier start wrote; writes with the first `log`.

        Args:
          directory: the pair's, where metrics.jsonl and events/ go.
          stage: "teacher" or "student".
          steps: of the whole stage.
          batch_size: images a step.
          write: False where another process writes.
          tensorboard: whether to write event files too.

        Raises:
          UserError: TensorBoard's files are wanted and tensorboardX is missing.
        """
        self._stage, self._steps, self._batch_size = stage, steps, batch_size
        self._path = directory / "metrics.jsonl" if write else None
        self._name = f"{directory.parent.name} {directory.name} {stage}"
        self._rows = read_rows(directory / "metrics.jsonl")
        self._events = _Events(directory, stage) if write and tensorboard else None
        self._bar = None

    def start(self, step: int) -> None:
        """Begins the bar at a step, 0 or a checkpoint's."""
        hidden = None if self._path else True  # None: hidden unless there is a terminal
        self._bar = tqdm(
            total=self._steps,
            initial=step,
            desc=self._name,
            unit=" steps",
            disable=hidden,
        )
        self._first = self._logged = step  # of this process, of this epoch
        self._start = self._logged_at = self._told_at = time.perf_counter()

    def close(self) -> None:
        """Ends the bar and the event file."""
        if self._bar is not None:
            self._bar.close()
        if self._events:
            self._events.close()

    def advance(self, step: int, loss: float) -> None:
        """Shows the step that was reached, its loss, the speed and the time left."""
        now = time.perf_counter()
        rate = (step - self._first) / max(now - self._start, 1e-9)
        speed = f"{rate * self._batch_size:.1f}"
        self._bar.set_postfix({"loss": f"{loss:.4g}", "images/s": speed}, refresh=False)
        self._bar.update(step - self._bar.n)
        late = now - self._told_at >= _SECONDS_BETWEEN_LINES
        if self._bar.disable and self._path and (late or step == self._steps):
            self._told_at = now
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
        self._rows = _with_line(self._rows, line)
        if self._path:
            text = "".join(json.dumps(row) + "\n" for row in self._rows)
            write_text(self._path, text)
        if self._events:
            self._events.add(step, {"loss": loss, "images/s": rate})


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, none if it is missing; what was cut short is not
    among them.
    """
    rows = []
    if path.is_file():
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows


def _with_line(rows: list[dict[str, Any]], line: dict[str, Any]) -> list[dict]:
    """The line behind its stage's earlier epochs, without that stage's later ones."""
    own = [at for at, row in enumerate(rows) if row["stage"] == line["stage"]]
    earlier = [at for at in own if rows[at]["epoch"] < line["epoch"]]
    place = earlier[-1] + 1 if earlier else own[0] if own else len(rows)
    behind = (row for row in rows[place:] if row["stage"] != line["stage"])
    return [*rows[:place], line, *behind]


def check_tensorboard() -> None:
    """Checks that event files can be written, better now than after hours.

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
    """TensorBoard's event files in DIR/events, by tensorboardX: without TensorFlow."""

    def __init__(self, directory: Path, stage: str):
        check_tensorboard()
        self._folder, self._stage, self._writer = directory / "events", stage, None

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each curve."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # TensorBoard drops what an earlier start wrote from this step on.
            self._writer = SummaryWriter(
                str(self._folder / self._stage), purge_step=step, flush_secs=10
            )
        for name, value in values.items():
            self._writer.add_scalar(f"{self._stage}/{name}", value, step)

    def close(self) -> None:
        if self._writer:
            self._writer.close()
