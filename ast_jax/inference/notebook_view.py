"""A notebook's view of a prediction: score, decision and heat map."""

import base64
import io

from PIL import Image

from ast_jax.inference.colours import ColourScale
from ast_jax.inference.heat_map import overlay
from ast_jax.inference.prediction import Prediction

_WIDTH = 320  # the heat map's largest width and height, in pixels
_DECISIONS = {
    True: ("anomalous", "#b3261e"),
    False: ("good", "#1b6e3c"),
    None: ("no threshold", "#5f6368"),
}


def html(prediction: Prediction, scale: ColourScale) -> str:
    """Returns a fragment of HTML that contains the heat map."""
    decision, colour = _DECISIONS[prediction.anomalous]
    details = [f"score {prediction.score:.4g}"]
    if prediction.anomalous is not None:
        details += [
            f"threshold {prediction.threshold:.4g}",
            f"p-value {prediction.p_value:.3g}",
            f"false alarms guaranteed ≤ {prediction.calibration.guaranteed:.1%}",
        ]
    return (
        f'<figure><img alt="heat map" src="{_png(prediction, scale)}"/><figcaption>'
        f'<strong style="color:{colour}">{decision}</strong>: {", ".join(details)}'
        "</figcaption></figure>"
    )


def _png(prediction: Prediction, scale: ColourScale) -> str:
    """The heat map as a data URL."""
    picture = Image.fromarray(overlay(prediction, scale))
    picture.thumbnail((_WIDTH, _WIDTH))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
