"""A notebook shows a prediction: score, decision, and the heat map inside."""

import base64
import functools
import io
import re

import numpy as np
import pytest
from PIL import Image

from ast_jax.data.part import Part
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.colours import ColourScale
from ast_jax.inference.notebook_view import html
from ast_jax.inference.prediction import Prediction

SCALE = ColourScale(0.0, 0.5, calibrated=True)
PART = Part("part", "unknown", np.full((240, 640, 3), 90, np.uint8), None, None)


def prediction(score: float, calibration: Calibration | None) -> Prediction:
    fine = np.full((16, 16), score, np.float32)
    draw = functools.partial(html, scale=SCALE)
    return Prediction(score, fine, PART, calibration, html=draw)


@pytest.mark.parametrize(
    ("score", "decision"), [(0.25, "good"), (0.75, "anomalous"), (0.5, "good")]
)
def test_it_says_score_threshold_and_decision(score, decision):
    calibration = Calibration(0.5, (0.25, 0.5, 0.625), (0.5, 0.5, 0.5))
    shown = prediction(score, calibration)._repr_html_()
    assert f">{decision}<" in shown
    assert f"score {score:.4g}, threshold 0.5, p-value" in shown
    assert shown.count("false alarms guaranteed ≤ 50.0%") == 1


def test_without_a_threshold_that_is_said():
    assert ">no threshold<" in prediction(0.25, None)._repr_html_()


def test_the_heat_map_is_inside_and_small():
    shown = prediction(0.75, None)._repr_html_()
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (320, 120)


def test_a_prediction_that_nobody_draws_shows_its_text():
    shown = Prediction(0.75, np.zeros((4, 4), np.float32), PART, None)._repr_html_()
    assert "0.75" in shown and "<" not in shown
