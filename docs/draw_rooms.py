"""Draw the rooms of src/conjoin and what they import from one another: docs/rooms.svg, made by `make docs`.

Rows are the layers of the import ladder in pyproject.toml. An arrow goes from a room to one that it imports, unless the
way through other rooms says so already.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "conjoin"
TARGET = ROOT / "docs" / "rooms.svg"
WIDTH, BOX_HEIGHT, ROW_HEIGHT, MARGIN = 960, 46, 88, 16
STYLE = (
    "text{font:13px sans-serif;fill:#222} .small{font-size:10.5px;fill:#555} "
    "rect{fill:#f4f6fa;stroke:#8aa;rx:6} path{fill:none;stroke:#89a;stroke-width:1.1;marker-end:url(#tip)}"
)


def layers() -> list[list[str]]:
    """Return the rooms of every layer of the ladder, top first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (ladder,) = (contract for contract in contracts if contract["id"] == "ladder")
    rows = [[room.strip(" ()") for room in row.replace("|", ":").split(":")] for row in ladder["layers"]]
    existing = [[room for room in row if _path(room)] for row in rows]
    return [row for row in existing if row]


def imports(rooms: set[str]) -> dict[str, set[str]]:
    """Return room -> the rooms that its files import, inside functions and for type checkers too."""
    return {room: {target for file in _files(room) for target in _targets(file)} & rooms - {room} for room in rooms}


def direct(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the edges that no way through other rooms implies."""

    def reachable(room: str, seen: set[str]) -> set[str]:
        for target in edges[room] - seen:
            seen.add(target)
            reachable(target, seen)
        return seen

    def implied(target: str, others: set[str]) -> bool:
        return any(target in reachable(other, set()) and other not in reachable(target, set()) for other in others)

    return {room: {t for t in targets if not implied(t, targets - {t})} for room, targets in edges.items()}


def draw() -> str:
    """Return the picture as SVG."""
    rows = layers()
    height = 2 * MARGIN + (len(rows) - 1) * ROW_HEIGHT + BOX_HEIGHT
    size = f'width="{WIDTH}" height="{height}"'
    edges = direct(imports({room for row in rows for room in row}))
    places: dict[str, tuple[float, float, float]] = {}  # room -> left, top, width
    boxes: list[str] = []
    for level, row in enumerate(rows):
        width = min(300.0, (WIDTH - MARGIN * (len(row) + 1)) / len(row))
        left = (WIDTH - len(row) * width - (len(row) - 1) * MARGIN) / 2
        for column, room in enumerate(row):
            x, y = left + column * (width + MARGIN), MARGIN + level * ROW_HEIGHT
            places[room] = x, y, width
            boxes += _box(room, x, y, width)
    arrows = [_arrow(places[room], places[target]) for room in sorted(edges) for target in sorted(edges[room])]
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {size}>',
            f"<title>The rooms of conjoin and what they import</title><style>{STYLE}</style>",
            '<defs><marker id="tip" markerWidth="7" markerHeight="7" refX="6" refY="3" orient="auto">'
            '<path d="M0,0 L6,3 L0,6" style="marker-end:none"/></marker></defs>',
            f'<rect {size} style="fill:#fff;stroke:none"/>',
            *arrows,
            *boxes,
            "</svg>\n",
        )
    )


def _box(room: str, x: float, y: float, width: float) -> Iterator[str]:
    parts = sorted(path.parent.name for path in (SOURCE / room).glob("*/__init__.py"))
    yield f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{BOX_HEIGHT}"/>'
    middle = x + width / 2
    yield f'<text x="{middle:.0f}" y="{y + (19 if parts else 28)}" text-anchor="middle">{escape(room)}</text>'
    if parts:
        names = escape(" · ".join(parts))
        yield f'<text class="small" x="{middle:.0f}" y="{y + 36}" text-anchor="middle">{names}</text>'


def _arrow(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    (x1, y1, w1), (x2, y2, w2) = start, end
    if y1 == y2:  # neighbours in one layer
        right = x2 > x1
        return f'<path d="M{x1 + (w1 if right else 0):.0f},{y1 + 23} L{x2 + (0 if right else w2):.0f},{y2 + 23}"/>'
    x1, x2, y1 = x1 + w1 / 2, x2 + w2 / 2, y1 + BOX_HEIGHT
    return f'<path d="M{x1:.0f},{y1} C{x1:.0f},{y1 + 40} {x2:.0f},{y2 - 40} {x2:.0f},{y2}"/>'


def _path(room: str) -> Path | None:
    return next((path for path in (SOURCE / room, SOURCE / f"{room}.py") if path.exists()), None)


def _files(room: str) -> list[Path]:
    path = _path(room)
    assert path is not None
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _targets(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module="conjoin", names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module)) if module.startswith("conjoin."):
                yield module.split(".")[1]
            case ast.Import(names=names):
                yield from (name.name.split(".")[1] for name in names if name.name.startswith("conjoin."))
            case _:
                pass


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
    sys.stdout.write(f"{TARGET.relative_to(ROOT)}\n")
