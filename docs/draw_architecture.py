"""Draws docs/architecture.svg from the imports of ast_jax, with the standard library.

python docs/draw_architecture.py

A room is a folder or a file of the package. It stands below every room that it
imports; an arrow that follows from two others is left out.
"""

import ast
import html
import textwrap
from pathlib import Path

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "ast_jax"
# Every room may import them, so their arrows would say nothing.
BASICS = (
    *("errors", "config", "config_file", "files", "parallel", "run"),
    *("cli", "device_memory"),
)
# Imports upwards, inside a function: `Detector.export`, and a module run as a command.
UPWARDS = {"inference": {"interop"}, "interop": {"commands"}}
BOX, GAP, MARGIN = (176, 62), (20, 46), 16
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #3c4043 }
.name { font: 600 14px ui-monospace, monospace; fill: #174ea6 }
rect { fill: #f8fafd; stroke: #a8c0e8; rx: 6 }
path { fill: none; stroke: #9aa0a6; stroke-width: 1.3; marker-end: url(#head) }
""".strip()

Graph = dict[str, set[str]]


def room_of(module: str) -> str:
    """Returns the room of a module of the package: the part after its name."""
    return module.split(".")[1] if "." in module else ""


def find_imports(path: Path, known: set[str]) -> set[str]:
    """Returns the rooms that a file imports, inside functions too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {room_of(name) for name in names if name.startswith("ast_jax.")}
    return rooms & known


def read_rooms() -> tuple[dict[str, str], Graph]:
    """Returns each room's docstring, in one line, and the rooms that it imports."""
    files: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            files.setdefault(room, []).append(path)
    summaries, graph = {}, {}
    for room, paths in files.items():
        head = PACKAGE / room / "__init__.py"
        head = head if head.exists() else paths[0]
        text = ast.get_docstring(ast.parse(head.read_text(encoding="utf-8"))) or room
        summaries[room] = text.split("\n\n")[0].replace("\n", " ").rstrip(".")
        graph[room] = set().union(*(find_imports(path, set(files)) for path in paths))
        graph[room] -= {room, *BASICS, *UPWARDS.get(room, ())}
    return summaries, {room: graph[room] for room in graph if room not in BASICS}


def depth_of(room: str, graph: Graph, above: tuple[str, ...] = ()) -> int:
    """Returns the length of the longest way down from a room; refuses a circle."""
    if room in above:
        raise ValueError(f"imports in a circle: {' -> '.join((*above, room))}")
    below = (depth_of(other, graph, (*above, room)) for other in graph[room])
    return 1 + max(below, default=-1)


def reach(room: str, graph: Graph) -> set[str]:
    """Returns what a room imports, directly or not."""
    return graph[room].union(*(reach(other, graph) for other in graph[room]))


def drop_shortcuts(graph: Graph) -> Graph:
    """Returns the arrows that do not follow from others."""
    return {
        room: others - set().union(*(reach(other, graph) for other in others))
        for room, others in graph.items()
    }


def arrange(graph: Graph) -> dict[str, tuple[float, int]]:
    """Returns each room's column and row; what a room imports is near, and above."""
    rows: dict[int, list[str]] = {}
    for room in graph:
        rows.setdefault(depth_of(room, graph), []).append(room)
    widest = max(map(len, rows.values()))
    places: dict[str, tuple[float, int]] = {}
    for row in sorted(rows):
        columns = {
            room: [places[other][0] for other in graph[room]] for room in rows[row]
        }
        ordered = sorted(
            columns, key=lambda room: sum(columns[room]) / max(1, len(columns[room]))
        )
        start = (widest - len(ordered)) / 2
        if start:  # to and fro, so that long arrows pass beside boxes
            start += 0.5 if row % 2 else -0.5
        places |= {room: (start + i, row) for i, room in enumerate(ordered)}
    return places


def draw(summaries: dict[str, str], graph: Graph) -> str:
    """Returns the picture."""
    arrows = drop_shortcuts(graph)
    places = arrange(graph)
    step = (BOX[0] + GAP[0], BOX[1] + GAP[1])
    top = MARGIN + BOX[1] + GAP[1]
    corners = {
        room: (MARGIN + column * step[0], top + row * step[1])
        for room, (column, row) in places.items()
    }
    width = max(x for x, _ in corners.values()) + BOX[0] + MARGIN
    height = max(y for _, y in corners.values()) + BOX[1] + MARGIN
    shapes = [
        arrow(corners[room], corners[other])
        for room in arrows
        for other in sorted(arrows[room])
    ]
    basics = ", ".join(room for room in BASICS if room in summaries)
    shapes.append(box((MARGIN, MARGIN), width - 2 * MARGIN, basics, "used everywhere"))
    shapes += [box(corners[room], BOX[0], room, summaries[room]) for room in graph]
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg"'
            f' viewBox="0 0 {width:g} {height:g}" width="{width:g}">',
            f"<style>{STYLE}</style>",
            '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" style="fill:'
            '#9aa0a6;stroke:none;marker-end:none"/></marker>',
            '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def box(corner: tuple[float, float], width: float, name: str, text: str) -> str:
    """Returns a room: its name, and below it what it is."""
    x, y = corner
    lines = textwrap.wrap(text, int(width / 6.4))[:2]
    if len(" ".join(lines)) < len(text):
        lines[-1] = f"{lines[-1].rstrip(',;:')} …"
    texts = [f'<text class="name" x="{x + 9:g}" y="{y + 19:g}">{name}</text>'] + [
        f'<text x="{x + 9:g}" y="{y + 36 + 15 * i:g}">{html.escape(line)}</text>'
        for i, line in enumerate(lines)
    ]
    rect = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{BOX[1]}"/>'
    return "\n".join([rect, *texts])


def arrow(below: tuple[float, float], above: tuple[float, float]) -> str:
    """Returns an arrow from the room below to the room above that it imports."""
    x1, y1 = below[0] + BOX[0] / 2, below[1]
    x2, y2 = above[0] + BOX[0] / 2, above[1] + BOX[1] + 2
    bend, side = (y1 - y2) / 2, 0.0
    if abs(x1 - x2) < BOX[0] and y1 - y2 > BOX[1] + GAP[1]:
        side = BOX[0] * 0.9  # around the box that is between them
    path = (
        f"M{x1:g} {y1:g}C{x1 + side:g} {y1 - bend:g}"
        f" {x2 + side:g} {y2 + bend:g} {x2:g} {y2:g}"
    )
    return f'<path d="{path}"/>'


if __name__ == "__main__":
    (DOCS / "architecture.svg").write_text(draw(*read_rooms()), encoding="utf-8")
