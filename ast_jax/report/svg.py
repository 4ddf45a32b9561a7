"""The style of the report's curves, and their SVG.

Colours are those of `COLOURS`; `themed` turns them into CSS variables, so that a figure
inside the report follows its light or dark theme.
"""

import io
import re
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure

SIZE = (5.0, 3.7)  # inches
COLOURS = {
    "ink": "#1b2430",
    "muted": "#667080",
    "line": "#dde2e9",
    "panel": "#fefefe",
    "student": "#2463c4",
    "teacher": "#b8680e",
    "good": "#118a6a",
    "defect": "#c8324b",
}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small files, and the page's font
    "text.parse_math": False,  # the name of a defect type may be "$1"
    "font.size": 9,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.8,
    "figure.facecolor": COLOURS["panel"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "legend.frameon": False,
}


def apply_theme(svg: str, name: str) -> str:
    """Returns a figure for a page, with CSS variables as colours and unique ids.

    Args:
      svg: of `draw_svg`.
      name: differs from those of all other figures on the page.
    """
    svg = svg[svg.index("<svg") :]
    for key, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{key})")
    # Only ids that something refers to are kept: those of clip paths and markers.
    used = set(re.findall(r'(?:url\(#|href="#)([\w-]+)', svg))
    svg = re.sub(
        r' id="([^"]+)"',
        lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "",
        svg,
    )
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)


def draw_svg(
    name: str, size: tuple[float, float], draw: Callable[[Figure], None]
) -> str:
    """Returns the figure that `draw` fills; equal figures give equal texts."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
