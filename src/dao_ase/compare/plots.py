"""Line plots as SVG text, for a page that has no library and no network."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

COLORS = ("#2457d6", "#d6622f", "#16794a", "#8a4fc2", "#b8900b")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 460, 240, 62, 26, 36
Points = Sequence[tuple[float, float]]


def line_plot(series: Mapping[str, Points], across: str, up: str, *, logarithmic: bool = False) -> str:
    """A plot with one line for each named series of points; ``logarithmic`` is the upward axis. Empty without points."""
    drawn = {
        name: [(x, math.log10(y) if logarithmic else y) for x, y in points if not logarithmic or y > 0]
        for name, points in series.items()
    }
    points = [point for line in drawn.values() for point in line]
    if not points:
        return ""
    x0, x1 = _range([x for x, _ in points])
    y0, y1 = _range([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - 12) * (x - x0) / (x1 - x0),
            HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (y - y0) / (y1 - y0),
        )

    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - 12}"/>']
    for value in _ticks(x0, x1):
        parts.append(_text(place(value, y0)[0], HEIGHT - BOTTOM + 15, "middle", f"{value:.4g}"))
    for value in _ticks(y0, y1):
        shown = f"1e{value:.0f}" if logarithmic else f"{value:.4g}"
        parts.append(_text(LEFT - 5, place(x0, value)[1] + 4, "end", shown))
    parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 4, "middle", across))
    parts.append(_text(4, 12, "start", up))
    for index, (name, line) in enumerate(drawn.items()):
        color = COLORS[index % len(COLORS)]
        places = [place(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{color}"/>' for x, y in places]
        parts.append(
            f'<text x="{WIDTH - 14}" y="{12 + 14 * index}" text-anchor="end" style="fill:{color}">{html.escape(name)}</text>'
        )
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers between the two."""
    step = 10 ** math.floor(math.log10(high - low))
    for part in (1.0, 0.5, 0.2, 0.1):
        first, last = math.ceil(low / (step * part)), math.floor(high / (step * part))
        if last - first >= 2:
            return [round(number * step * part, 12) for number in range(first, last + 1)]
    return [low, high]


def _text(x: float, y: float, anchor: str, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'
