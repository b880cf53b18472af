"""Line charts and heat maps as SVG text, so that a report is one file and needs no network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 30
CELL = 17
FONT_PX = 11


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: (step, value) points in the order of steps.

    Args:
        dots: True marks every point; for lines of few points, as of evaluations.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def line_chart(title: str, series: Sequence[Series], *, log: bool = False) -> str:
    """Return an HTML figure with one line per series over steps; the page's CSS classes `.s0`, `.s1`, ... set colours.

    Args:
        log: True makes the value axis logarithmic, if all values are positive; for losses, which fall by factors.
    """
    log = log and all(value > 0 for each in series for _, value in each.points)
    scale = _Scale.over(series, log)
    inner = "".join((_grid(scale), *(_line(index, each, scale) for index, each in enumerate(series))))
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'{inner}<text class="t" x="{WIDTH - RIGHT}" y="{HEIGHT - BOTTOM + 16}" text-anchor="end">step</text></svg>'
    )
    legend = "".join(
        f'<span class="k"><i class="s{index}"></i>{escape(each.name)}</span>' for index, each in enumerate(series)
    )
    return f"<figure><figcaption><b>{escape(title)}</b>{legend if len(series) > 1 else ''}</figcaption>{svg}</figure>"


@dataclass(frozen=True, slots=True)
class _Scale:
    steps: tuple[float, float]
    values: tuple[float, float]
    log: bool

    @classmethod
    def over(cls, series: Sequence[Series], log: bool) -> "_Scale":
        points = [point for each in series for point in each.points]
        steps, values = [step for step, _ in points], [value for _, value in points]
        low, high = min(values), max(values)
        if high - low < 1e-9 * max(abs(high), 1e-9):
            low, high = low - abs(low) / 10 - 1e-9, high + abs(high) / 10 + 1e-9
        if log:
            return cls((min(0, *steps), max(*steps, 1)), (math.log10(max(low, 1e-12)), math.log10(high)), True)
        margin = (high - low) * 0.05
        return cls((min(0, *steps), max(*steps, 1)), (low - margin if low else 0.0, high + margin), False)

    def x(self, step: float) -> float:
        first, last = self.steps
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.values
        position = math.log10(value) if self.log else value
        return HEIGHT - BOTTOM - (position - low) / max(high - low, 1e-12) * (HEIGHT - TOP - BOTTOM)

    def value_ticks(self) -> list[float]:
        low, high = self.values
        if not self.log:
            return ticks(low, high)
        factors = (1, 2, 5) if high - low > 0.7 else (1, 1.5, 2, 3, 4, 5, 7)
        marks = [f * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for f in factors]
        return [mark for mark in marks if low - 1e-9 <= math.log10(mark) <= high + 1e-9][:: 1 if high - low < 3 else 3]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers between two values, as labels of an axis."""
    raw = (high - low) / about
    if raw <= 0 or not math.isfinite(raw):
        return [low]
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """Return a number as an axis shows it: 12k, 0.5, 3e-05."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:g}"


def _grid(scale: _Scale) -> str:
    lines = [
        f'<path class="g" d="M{LEFT} {scale.y(v):.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="t" x="{LEFT - 8}" y="{scale.y(v) + 4:.1f}" text-anchor="end">{short(v)}</text>'
        for v in scale.value_ticks()
    ]
    steps = [s for s in ticks(*scale.steps) if s == int(s)]
    lines += [
        f'<text class="t" x="{scale.x(s):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(s)}</text>'
        for s in steps
        if scale.x(s) < WIDTH - RIGHT - 44
    ]
    return "".join(lines)


def _line(index: int, series: Series, scale: _Scale) -> str:
    points = [(scale.x(step), scale.y(value)) for step, value in series.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in _thinned(points))
    line = f'<path class="l s{index}" d="{path}"/>'
    if not series.dots and len(points) > 1:
        return line
    return line + "".join(
        f'<circle class="s{index}" cx="{x:.1f}" cy="{y:.1f}" r="3.2">'
        f"<title>{escape(series.name)} {value:.5g} at step {short(step)}</title></circle>"
        for (x, y), (step, value) in zip(points, series.points, strict=True)
    )


def _thinned(points: Sequence[tuple[float, float]], most: int = 1000) -> Sequence[tuple[float, float]]:
    """Return at most two points per pixel: the lowest and the highest of each chunk, so that spikes stay visible."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most // 2))
    thinned: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        chunk = points[start : start + size]
        thinned += sorted({min(chunk, key=lambda point: point[1]), max(chunk, key=lambda point: point[1])})
    return thinned


def heat_map(rows: Sequence[str], columns: Sequence[str], weights: Sequence[Sequence[float]]) -> str:
    """Return an SVG of weights between 0 and 1: how much each row attends to each column."""
    left = 8 + max(map(_text_px, rows), default=0)
    top = 8 + max(map(_text_px, columns), default=0)
    width, height = left + CELL * len(columns) + 4, top + CELL * len(rows) + 4
    parts = [
        f'<text class="t" text-anchor="start" transform="translate({left + CELL * c + 12},{top - 5}) rotate(-90)">'
        f"{escape(name)}</text>"
        for c, name in enumerate(columns)
    ]
    for r, (name, row) in enumerate(zip(rows, weights, strict=True)):
        y = top + CELL * r
        parts.append(f'<text class="t" x="{left - 6}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        parts += [
            f'<rect class="h" x="{left + CELL * c}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" '
            f'fill-opacity="{weight:.2f}"><title>{escape(name)} reads {escape(columns[c])}: {weight:.2f}</title></rect>'
            for c, weight in enumerate(row)
        ]
    size = f'width="{CELL * len(columns) + 1}" height="{CELL * len(rows) + 1}"'
    frame = f'<rect class="f" x="{left - 1}" y="{top - 1}" {size}/>'
    return (
        f'<svg class="heat" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="cross-attention">{frame}{"".join(parts)}</svg>'
    )


def _text_px(text: str) -> int:
    """Return the approximate width of a text in pixels; letters of wide scripts take a whole em."""
    return math.ceil(sum(1.0 if ord(letter) > 0x2E80 else 0.62 for letter in text) * FONT_PX)
