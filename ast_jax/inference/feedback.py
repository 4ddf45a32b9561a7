"""Answers to predictions: confirmed good parts join the calibration, without training.

`DIR/<category>/feedback.jsonl` is a journal with one line per answer; lines are only
added. A detector reads it when it loads. An answer counts for the networks that gave
the score, and is ignored after the run was trained or calibrated again.
"""

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float

from ast_jax.errors import UserError
from ast_jax.files import read_text, write_text
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.calibration_file import read_calibration
from ast_jax.inference.monitor import ALARM, Monitor
from ast_jax.inference.proportion import Proportion
from ast_jax.run import Run, lock

GOOD, DEFECTIVE = "good", "defective"
_SCORES = ("score", "maximum", "score_by_fold", "maximum_by_fold")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Feedback:
    """The result of all answers so far.

    Attributes:
      good: the number of confirmed good parts.
      calibration: the run's, with these parts.
      recall: share of the confirmed defects that raised an alarm; None without any.
      false_alarms: share of the confirmed good parts that raised an alarm.
    """

    good: int
    calibration: Calibration
    recall: Proportion | None
    false_alarms: Proportion | None


def apply(run: Run, category: str, calibration: Calibration) -> Calibration:
    """The calibration with the confirmed good parts of the journal.

    Raises:
      UserError: the journal is damaged.
    """
    return _feedback(_answers(run, category, calibration), calibration).calibration


def answer(
    run: Run,
    category: str,
    rows: Path,
    good: Sequence[str],
    defective: Sequence[str],
) -> Feedback:
    """Adds answers to the journal, if the good parts look like the calibrated ones.

    Args:
      run: the run of the detector that predicted.
      category: of the run.
      rows: `predictions.jsonl` of the prediction.
      good: paths of good parts, as the rows have them.
      defective: paths of defective parts, likewise.

    Raises:
      UserError: a path is not in the rows, is answered twice, or has no score; the run
        has no calibration; or the good parts do not look like the calibrated ones.
    """
    calibration, _ = read_calibration(run, category)
    if calibration is None:
        raise UserError(f"{run.directory}: {category} has no calibration to add to")
    found = _read_rows(rows)
    if twice := sorted(set(good) & set(defective)):
        raise UserError(f"{twice[0]}: it cannot be both good and defective")
    answers = dict.fromkeys(good, GOOD) | dict.fromkeys(defective, DEFECTIVE)
    new = [_answer(found, rows, path, kind) for path, kind in answers.items()]
    key = {"n": len(calibration.scores), "highest": calibration.scores[-1]}
    folder = run.directory / category / "feedback"
    with lock(folder, "other answers to this run are being taken in"):
        before = _answers(run, category, calibration)
        _check(_feedback(before, calibration).calibration, new)
        stamp = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "calibration": key}
        _append(run, category, [stamp | line for line in new])
    return _feedback([*before, *new], calibration)


def _feedback(answers: Iterable[Row], calibration: Calibration) -> Feedback:
    """The result of some answers; the last answer to a part counts."""
    last = {(one["path"], one["score"]): one for one in answers}
    good = [one for one in last.values() if one["answer"] == GOOD]
    defects = [one for one in last.values() if one["answer"] == DEFECTIVE]
    with_good = calibration
    if good:
        with_good = calibration.with_parts(
            _own_scores(good, "score"), _own_scores(good, "maximum")
        )
    return Feedback(len(good), with_good, _alarms(defects), _alarms(good))


def _alarms(answers: Sequence[Row]) -> Proportion | None:
    alarms = sum(bool(one["anomalous"]) for one in answers)
    return Proportion(alarms, len(answers)) if answers else None


def _own_scores(rows: Sequence[Row], name: str) -> Float[np.ndarray, "b k"]:
    """Image scores or map maxima; with cross one for each fold."""
    return np.array([row.get(f"{name}_by_fold") or [row[name]] for row in rows], float)


def _check(calibration: Calibration, answers: Sequence[Row]) -> None:
    """Checks that confirmed good parts look like the calibrated ones.

    Uses the monitor, and a rank test, which notices more with few parts.

    Raises:
      UserError: they do not.
    """
    good = [row for row in answers if row["answer"] == GOOD]
    if not good:
        return
    own, monitor = _own_scores(good, "score"), Monitor(calibration, rejecting=False)
    for scores in own:
        monitor.add(scores)
    chance = _rank_test(calibration, own)
    if monitor.alarm or chance < 1 / ALARM:
        raise UserError(
            f"the {len(good)} confirmed good parts do not look like those that were "
            f"calibrated on (monitor {monitor.highest:.3g}, alarm at {ALARM:g}; rank "
            f"test {chance:.2g}, alarm below {1 / ALARM:g}): answer all parts of a "
            "time, not alarms alone; if lamp, lens or material changed, train with new "
            "good parts"
        )


def _rank_test(calibration: Calibration, own: Float[np.ndarray, "b k"]) -> float:
    """Wilcoxon, Mann and Whitney's test; the folds' smallest p-value, times K."""
    from scipy import stats  # only feedback needs it, and it is slow to import

    scores, folds = np.array(calibration.scores), np.array(calibration.score_folds)
    groups = [
        scores[folds == fold] if calibration.is_cross else scores
        for fold in range(calibration.folds)
    ]
    chances = [
        stats.mannwhitneyu(new, group).pvalue
        for new, group in zip(own.T, groups, strict=True)
    ]
    return float(min(1.0, len(groups) * min(chances)))


def _read_rows(path: Path) -> dict[str, Row]:
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return {row["path"]: row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--rows={path}: not the rows of a prediction ({error})"
        ) from error


def _answer(rows: Mapping[str, Row], file: Path, path: str, kind: str) -> Row:
    row = rows.get(path)
    if row is None:
        raise UserError(f"{path}: no row of {file} has this path")
    if row.get("anomalous") is None or "maximum" not in row:
        raise UserError(f"{path}: its row in {file} has no decision; predict it again")
    kept = {name: row[name] for name in _SCORES if name in row}
    return {"path": path, "answer": kind, "anomalous": row["anomalous"]} | kept


def _journal(run: Run, category: str) -> Path:
    return run.directory / category / "feedback.jsonl"


def _answers(run: Run, category: str, calibration: Calibration) -> list[Row]:
    """The answers in the journal to predictions of the current networks."""
    path = _journal(run, category)
    try:
        lines = read_text(path).splitlines()
        answers = [json.loads(line) for line in lines]
        mine = [one for one in answers if _is_of(calibration, one["calibration"])]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({error!r}); mend or move it away, and answer again"
        ) from error
    if len(mine) < len(answers):
        logging.warning(
            "%s: %d answers are to predictions of other networks and do not count.",
            *(path, len(answers) - len(mine)),
        )
    return mine


def _is_of(calibration: Calibration, key: Row) -> bool:
    # Another device computes the same score up to rounding.
    same = np.isclose(key["highest"], calibration.scores[-1], rtol=1e-3)
    return bool(key["n"] == len(calibration.scores) and same)


def _append(run: Run, category: str, lines: Sequence[Row]) -> None:
    """Adds lines to the journal: all or none."""
    path = _journal(run, category)
    before = path.read_text() if path.exists() else ""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_text(path, before + text)
