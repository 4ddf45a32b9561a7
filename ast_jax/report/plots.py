"""Curves of a category: ROC, precision and recall, scores, threshold, training."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from sklearn.metrics import (
    auc,
    average_precision_score,
    precision_recall_curve,
    roc_curve,
)

from ast_jax.data.part import GOOD
from ast_jax.inference.calibration import Calibration
from ast_jax.report.svg import COLOURS, SIZE, draw_svg
from ast_jax.run import Member

# network → for each pair its epochs and the mean loss of each
Histories = Mapping[str, Mapping[Member, tuple[Sequence[int], Sequence[float]]]]

_WIDE = 30.0  # scores that span more than this factor get a logarithmic axis
_BINS = 30
_LARGEST_ALPHA = 0.3  # of the curve over alpha
_LONGEST = 22  # characters of a defect type's name


def roc(
    labels: Bool[np.ndarray, " n"],
    scores: Mapping[str, Float[np.ndarray, " n"]],
    threshold: float | None = None,
) -> str | None:
    """ROC curves of the networks; None without good or without defective images.

    Args:
      labels: True for defective images.
      scores: network → image scores.
      threshold: of the student; the curve has a mark there.
    """
    if labels.all() or not labels.any():
        return None

    def draw(figure: Figure) -> None:
        axes = _unit_square(figure, "false-alarm rate", "recall")
        axes.plot([0, 1], [0, 1], color=COLOURS["line"], linewidth=1)
        for name, values in scores.items():
            false_alarms, recall, _ = roc_curve(labels, values)
            label = f"{name}, area {100 * auc(false_alarms, recall):.1f} %"
            axes.plot(false_alarms, recall, color=COLOURS[name], label=label)
        if threshold is not None:
            alarms = ~(scores["student"] <= threshold)
            _mark(axes, alarms[~labels].mean(), alarms[labels].mean())
        axes.legend(loc="lower right")

    return draw_svg("roc", SIZE, draw)


def precision_recall(
    labels: Bool[np.ndarray, " n"],
    scores: Mapping[str, Float[np.ndarray, " n"]],
    threshold: float | None = None,
) -> str | None:
    """Precision over recall of the networks; arguments and None as for `roc`."""
    if labels.all() or not labels.any():
        return None

    def draw(figure: Figure) -> None:
        axes = _unit_square(figure, "recall", "precision")
        axes.axhline(labels.mean(), color=COLOURS["line"], linewidth=1)
        for name, values in scores.items():
            precision, recall, _ = precision_recall_curve(labels, values)
            average = average_precision_score(labels, values)
            label = f"{name}, average {100 * average:.1f} %"
            style = {"color": COLOURS[name], "drawstyle": "steps-pre"}
            axes.plot(recall[::-1], precision[::-1], label=label, **style)
        alarms = np.zeros_like(labels)
        if threshold is not None:
            alarms = ~(scores["student"] <= threshold)
        if alarms.any():
            _mark(axes, alarms[labels].mean(), labels[alarms].mean())
        axes.legend(loc="lower left")

    return draw_svg("precision_recall", SIZE, draw)


def histogram(
    defects: Sequence[str],
    scores: Float[np.ndarray, " n"],
    threshold: float | None = None,
) -> str:
    """Image scores of good and defective images; below, each image by defect type.

    Args:
      defects: "good" or the defect type of each image.
      scores: their image scores.
      threshold: a vertical line, unless it is None.
    """
    good = np.array([defect == GOOD for defect in defects], bool)
    kinds = sorted(set(defects), key=lambda kind: (kind != GOOD, kind))
    edges, scale = _bins(scores)

    def draw(figure: Figure) -> None:
        ratios = (2.2, 0.3 * len(kinds) + 0.3)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
        bottom.set_xscale(scale)
        for chosen, name, key in (
            (good, "good", "good"),
            (~good, "defective", "defect"),
        ):
            style = {"color": COLOURS[key], "alpha": 0.55}
            if chosen.any():
                label = f"{name} ({chosen.sum()})"
                top.hist(scores[chosen], edges, label=label, **style)
        for row, kind in enumerate(kinds):
            values = scores[np.array(defects) == kind]
            colour = COLOURS["good" if kind == GOOD else "defect"]
            style = {"markersize": 9, "markeredgewidth": 1.2, "alpha": 0.75}
            bottom.plot(values, np.full(values.shape, row), "|", color=colour, **style)
        if scale == "log":
            bottom.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            bottom.xaxis.set_minor_locator(NullLocator())
            bottom.xaxis.set_major_formatter("{x:g}")
        if threshold is not None:
            style = {"color": COLOURS["ink"], "linewidth": 1.2, "linestyle": "--"}
            top.axvline(threshold, label="threshold", **style)
            bottom.axvline(threshold, **style)
        top.set_ylabel("images")
        top.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        top.legend(loc="best")
        bottom.set_yticks(range(len(kinds)), [_shorten(kind) for kind in kinds])
        bottom.set_ylim(len(kinds) - 0.4, -0.6)
        bottom.grid(visible=False, axis="y")
        bottom.set_xlabel(f"image score{', logarithmic' if scale == 'log' else ''}")

    return draw_svg("histogram", (SIZE[0], 2.9 + 0.24 * len(kinds)), draw)


def training(histories: Histories) -> str | None:
    """The loss of both networks over the epochs, a line per pair; None without any."""
    histories = {name: pairs for name, pairs in histories.items() if pairs}
    if not histories:
        return None

    def draw(figure: Figure) -> None:
        subplots = figure.subplots(1, len(histories), squeeze=False)[0]
        for axes, (name, pairs) in zip(subplots, histories.items(), strict=True):
            losses = np.concatenate([losses for _, losses in pairs.values()])
            if losses.min() > 0:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:g}")
            last = max(max(epochs) for epochs, _ in pairs.values())
            axes.set_xlim(0, last + 1)
            for epochs, losses in pairs.values():
                marker = "o" if len(epochs) == 1 else ""
                axes.plot(epochs, losses, color=COLOURS[name], marker=marker, alpha=0.8)
            axes.set_title(f"loss of the {name}")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return draw_svg("training", SIZE, draw)


def left_out_scores(
    scores: Float[np.ndarray, " n"], odd: Bool[np.ndarray, " n"], threshold: float
) -> str | None:
    """The scores of good images that training left out; one of them is the threshold.

    None without such images: those that set the threshold may lie elsewhere.

    Args:
      scores: their image scores.
      odd: True for images that stand out.
      threshold: a part with a higher score is anomalous.
    """
    if not scores.size:
        return None
    order = np.argsort(scores, kind="stable")
    values, odd, ranks = scores[order], odd[order], np.arange(1, scores.size + 1)
    sets = int(np.argmin(np.abs(values - threshold)))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        style = {"markersize": 4, "alpha": 0.75}
        axes.plot(values[~odd], ranks[~odd], "o", color=COLOURS["good"], **style)
        if odd.any():
            label = f"stand out ({odd.sum()})"
            colour = COLOURS["defect"]
            axes.plot(values[odd], ranks[odd], "D", color=colour, label=label, **style)
        label = f"sets the threshold, {threshold:.4g}"
        ring = {"markersize": 9, "fillstyle": "none", "color": COLOURS["ink"]}
        axes.plot(values[sets], ranks[sets], "o", label=label, **ring)
        axes.axvline(threshold, color=COLOURS["ink"], linewidth=1.2, linestyle="--")
        axes.set_xlabel("image score of good images that training left out")
        axes.set_ylabel("rank")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend(loc="lower right")

    return draw_svg("left_out", SIZE, draw)


def alpha(
    labels: Bool[np.ndarray, " n"],
    own: Float[np.ndarray, "n ..."],
    calibration: Calibration,
) -> str:
    """The guaranteed (solid) and the observed rates (dotted) for each alpha.

    Args:
      labels: True for defective test images; there may be none.
      own: the scores that the calibration compares.
      calibration: a vertical line marks its alpha.
    """
    count = len(calibration.scores)
    last = max(1, min(count, int(_LARGEST_ALPHA * (count + 1))))
    rates = [k / (count + 1) for k in range(1, last + 1)]
    each = [dataclasses.replace(calibration, alpha=rate) for rate in rates]
    alarms = np.array([one.anomalous(own) for one in each])
    observed = {"recall": ("student", labels), "false alarms": ("defect", ~labels)}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        guaranteed = [one.guaranteed for one in each]
        style = {"drawstyle": "steps-post"}
        label = "false alarms, at most (guaranteed)"
        axes.plot(rates, guaranteed, color=COLOURS["defect"], label=label, **style)
        for name, (colour, mine) in observed.items():
            if mine.any():
                label = f"{name} (observed, {mine.sum()} images)"
                line = {"linestyle": ":", "linewidth": 1.8, "color": COLOURS[colour]}
                axes.plot(rates, alarms[:, mine].mean(1), label=label, **line, **style)
        chosen = {"linewidth": 1.2, "linestyle": "--", "color": COLOURS["ink"]}
        axes.axvline(calibration.attainable, **chosen)
        axes.set(ylim=(-0.01, 1.01), xlim=(0, None), xlabel="alpha", ylabel="share")
        axes.legend(loc="best")

    return draw_svg("alpha", SIZE, draw)


def monitor_course(course: Sequence[tuple[int, float]], alarm: float) -> str:
    """A monitor's value over the number of parts, and the line of the alarm.

    Args:
      course: (parts so far, value), in order.
      alarm: the value of an alarm.
    """
    parts, values = zip(*course, strict=True)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_yscale("log")
        axes.plot(parts, values, color=COLOURS["student"])
        style = {"color": COLOURS["defect"], "linestyle": "--", "linewidth": 1.2}
        axes.axhline(alarm, label="alarm", **style)
        axes.set_xlabel("parts")
        axes.set_ylabel("monitor")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend(loc="upper left")

    return draw_svg("monitor", (SIZE[0], 2.4), draw)


def _unit_square(figure: Figure, x_label: str, y_label: str) -> Axes:
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x_label, ylabel=y_label)
    return axes


def _mark(axes: Axes, x: float, y: float) -> None:
    axes.plot([x], [y], "o", color=COLOURS["ink"], label="at the threshold", zorder=3)


def _bins(scores: Float[np.ndarray, " n"]) -> tuple[np.ndarray, str]:
    """Edges of the histogram's bins, and the scale that shows them equally wide."""
    low, high = float(scores.min()), float(scores.max())
    if low > 0 and high / low > _WIDE:
        return np.geomspace(low, high, _BINS + 1), "log"
    return np.histogram_bin_edges(scores, _BINS), "linear"


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
