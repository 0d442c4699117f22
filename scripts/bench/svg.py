"""Small plots as SVG: lines over named positions, and groups of bars.

Two kinds of plots need no library: matplotlib would be the largest package of the environment, and
its output changes with its version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 60, 50
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3")
TICKS = 5


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f' font-family="sans-serif">'
        f"{escape(text)}</text>"
    )


def _bar(x: float, y: float, width: float, colour: str) -> str:
    height = HEIGHT - BOTTOM - y
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {size} fill="{colour}"/>'


def _top(values: Iterable[float]) -> float:
    """Return the top of an axis: the next 1, 2 or 5 times a power of ten."""
    largest = max(values, default=0)
    if largest <= 0:
        return 1.0
    step = 10.0 ** (len(f"{int(largest)}") - 1) if largest >= 1 else 0.1
    return next(
        step * factor for factor in (1, 2, 3, 4, 5, 6, 8, 10, 20) if step * factor >= largest
    )


def _height(value: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(value, top) / top)


def _frame(title: str, unit: str, top: float, names: Sequence[str]) -> list[str]:
    found = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(WIDTH / 2, 20, title, size=15),
        _text(8, TOP - 8, unit, "start", 11),
    ]
    for tick in range(TICKS + 1):
        value = top * tick / TICKS
        y = _height(value, top)
        found += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>',
            _text(LEFT - 6, y + 4, f"{value:g}", "end", 11),
        ]
    for number, name in enumerate(names):
        x = LEFT + 110 * number
        colour = COLOURS[number % len(COLOURS)]
        found += [
            f'<rect x="{x}" y="{TOP - 30}" width="12" height="12" fill="{colour}"/>',
            _text(x + 17, TOP - 20, name, "start"),
        ]
    return found


def _positions(count: int) -> list[float]:
    step = (WIDTH - LEFT - RIGHT) / max(1, count)
    return [LEFT + step * (number + 0.5) for number in range(count)]


def lines(
    title: str, unit: str, labels: Sequence[str], series: Mapping[str, Sequence[float]]
) -> str:
    """Return a plot with a line for each series, over positions that have labels."""
    top = _top(value for values in series.values() for value in values)
    found = _frame(title, unit, top, list(series))
    places = _positions(len(labels))
    found += [
        _text(x, HEIGHT - BOTTOM + 20, label) for x, label in zip(places, labels, strict=True)
    ]
    for number, values in enumerate(series.values()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x, _height(value, top)) for x, value in zip(places, values, strict=False)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        found.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        found += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    return "\n".join([*found, "</svg>"]) + "\n"


def bars(
    title: str, unit: str, labels: Sequence[str], series: Mapping[str, Sequence[float]]
) -> str:
    """Return a plot with a group of bars for each label, and a bar for each series in it."""
    top = _top(value for values in series.values() for value in values)
    found = _frame(title, unit, top, list(series))
    places = _positions(len(labels))
    width = 0.8 * (WIDTH - LEFT - RIGHT) / max(1, len(labels)) / max(1, len(series))
    for place, (x, label) in enumerate(zip(places, labels, strict=True)):
        found.append(_text(x, HEIGHT - BOTTOM + 20, label))
        for number, values in enumerate(series.values()):
            left = x + width * (number - len(series) / 2)
            y = _height(values[place], top)
            colour = COLOURS[number % len(COLOURS)]
            found += [
                _bar(left, y, width * 0.95, colour),
                _text(left + width / 2, y - 4, f"{values[place]:.3g}", size=10),
            ]
    return "\n".join([*found, "</svg>"]) + "\n"
