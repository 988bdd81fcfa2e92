"""Plots as SVG, by hand: a few bars or one line need no library for it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import msgspec

_WIDTH = 760
_BAR = 18  # height of one bar, with the gap below
_LABEL = 170  # pixels left of the bars
_TEXT = 'font-family="sans-serif" font-size="12" fill="#333"'
_COLOUR = "#3b6ea5"


class Panel(msgspec.Struct, frozen=True):
    """A title and named bars."""

    title: str
    names: Sequence[str]
    values: Sequence[float]


class Point(msgspec.Struct, frozen=True):
    """One point of a curve, with its label."""

    x: float
    y: float
    label: str


def bars(panels: Sequence[Panel]) -> str:
    """Panels below each other, each with an axis of its own that begins at 0."""
    drawn, top = [], 10
    for panel in panels:
        drawn.append(f'<text x="10" y="{top + 14}" font-weight="bold" {_TEXT}>{escape(panel.title)}</text>')
        top += 24
        most = max([*panel.values, 1e-12])
        for name, value in zip(panel.names, panel.values, strict=True):
            length = max(0.0, value) / most * (_WIDTH - _LABEL - 90)
            drawn.append(f'<text x="10" y="{top + 11}" {_TEXT}>{escape(name)}</text>')
            drawn.append(
                f'<rect x="{_LABEL}" y="{top}" width="{length:.1f}" height="{_BAR - 4}" fill="{_COLOUR}"/>'
            )
            drawn.append(f'<text x="{_LABEL + length + 6:.1f}" y="{top + 11}" {_TEXT}>{value:.4g}</text>')
            top += _BAR
        top += 14
    return _svg(top, drawn)


def curve(title: str, across: str, up: str, points: Sequence[Point]) -> str:
    """One line through labelled points, in the order in which they are given."""
    height, left, low, right = 360, 70, 300, _WIDTH - 110
    least_x, most_x = min(each.x for each in points), max(each.x for each in points)
    least_y, most_y = min(each.y for each in points), max(each.y for each in points)

    def place(point: Point) -> tuple[float, float]:
        x = left + (point.x - least_x) / ((most_x - least_x) or 1) * (right - left)
        y = low - (point.y - least_y) / ((most_y - least_y) or 1) * (low - 50)
        return round(x, 1), round(y, 1)

    path = " ".join("{},{}".format(*place(each)) for each in points)
    drawn = [
        f'<text x="10" y="20" font-weight="bold" {_TEXT}>{escape(title)}</text>',
        f'<polyline points="{path}" fill="none" stroke="{_COLOUR}" stroke-width="2"/>',
        f'<line x1="{left}" y1="{low + 10}" x2="{right}" y2="{low + 10}" stroke="#999"/>',
        f'<line x1="{left - 10}" y1="50" x2="{left - 10}" y2="{low}" stroke="#999"/>',
        f'<text x="{left}" y="{low + 28}" {_TEXT}>{least_x:.4g}</text>',
        f'<text x="{right - 30}" y="{low + 28}" {_TEXT}>{most_x:.4g}</text>',
        f'<text x="{(left + right) // 2 - 60}" y="{low + 46}" {_TEXT}>{escape(across)}</text>',
        f'<text x="8" y="{low}" {_TEXT}>{least_y:.4g}</text>',
        f'<text x="8" y="56" {_TEXT}>{most_y:.4g}</text>',
        f'<text x="10" y="40" {_TEXT}>{escape(up)}</text>',
    ]
    for each in points:
        x, y = place(each)
        drawn.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{_COLOUR}"/>')
        drawn.append(f'<text x="{x + 7}" y="{y - 6}" {_TEXT}>{escape(each.label)}</text>')
    return _svg(height, drawn)


def _svg(height: int, drawn: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )
