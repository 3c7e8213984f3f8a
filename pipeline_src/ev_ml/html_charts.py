"""Small charts as inline SVG: no script, no network, colours from the page's CSS. Every text is escaped.

Charts are 360 units wide, so a phone shows their 12-unit text at its own size; wider pages set them side by
side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 12, 38
LABEL_CHARS = 22


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar with a label. `low` and `high` draw an interval around `value`; `note` stands at its end."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve over x and y in 0..1."""

    label: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def curve(lines: Sequence[Line], *, x: str, y: str, title: str) -> str:
    """Draw curves in the unit square, such as ROC and precision against recall."""
    height = 300
    wide, high = WIDTH - LEFT - RIGHT, height - TOP - BOTTOM

    def at(px: float, py: float) -> str:
        return f"{LEFT + _unit(px) * wide:.1f},{TOP + (1 - _unit(py)) * high:.1f}"

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        gx, gy = LEFT + tick * wide, TOP + (1 - tick) * high
        parts.append(f'<path class="grid" d="M{LEFT},{gy:.1f}H{WIDTH - RIGHT}M{gx:.1f},{TOP}V{TOP + high}"/>')
        if tick in (0.0, 0.5, 1.0):
            parts.append(_tick(LEFT - 6, gy + 4, "end", tick))
            parts.append(_tick(gx, TOP + high + 16, "middle", tick))
    for index, line in enumerate(lines):
        points = thinned([(px, py) for px, py in line.points if math.isfinite(px) and math.isfinite(py)])
        if not points:
            continue
        style = "guide" if line.dashed else f"line s{index % 4}"
        parts.append(f'<polyline class="{style}" points="{" ".join(at(px, py) for px, py in points)}"/>')
    parts.append(f'<text class="axis" x="{LEFT + wide / 2}" y="{height - 4}" text-anchor="middle">{escape(x)}</text>')
    middle = TOP + high / 2
    parts.append(
        f'<text class="axis" transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
    )
    legend = legend_of([line.label for line in lines if not line.dashed]) if len(lines) > 1 else ""
    return _figure(title, height, parts, legend)


def bars(items: Sequence[Bar], *, title: str, top: float | None = None) -> str:
    """Draw labelled bars from the left, intervals where they have one. `top` is the right edge's value."""
    if not items:
        return ""
    values = [v for bar in items for v in (bar.value, bar.high) if v is not None and math.isfinite(v)]
    limit = top or max(values, default=0.0) or 1.0
    row, label_width = 30, 170
    wide = WIDTH - label_width - 52
    parts = []
    for index, bar in enumerate(items):
        y = index * row + 4
        length = _unit(bar.value / limit) * wide
        text = escape(short(bar.label))
        parts.append(f'<text class="label" x="{label_width - 8}" y="{y + 15}" text-anchor="end">{text}</text>')
        parts.append(f'<rect class="track" x="{label_width}" y="{y + 3}" width="{wide}" height="16" rx="2"/>')
        parts.append(f'<rect class="bar" x="{label_width}" y="{y + 3}" width="{length:.1f}" height="16" rx="2"/>')
        if bar.low is not None and bar.high is not None:
            low, high = (label_width + _unit(v / limit) * wide for v in (bar.low, bar.high))
            ends = f"M{low:.1f},{y + 6}v10M{high:.1f},{y + 6}v10"
            parts.append(f'<path class="whisker" d="M{low:.1f},{y + 11}H{high:.1f}{ends}"/>')
        note = escape(bar.note or f"{bar.value:.3g}")
        parts.append(f'<text class="value" x="{label_width + wide + 6}" y="{y + 15}">{note}</text>')
    return _figure(title, len(items) * row + 8, parts, "")


def histograms(reference: Sequence[float], new: Sequence[float], *, low: str, high: str, title: str) -> str:
    """Draw two sets of shares over the same quantile bins, side by side in each bin."""
    height = 150
    high_px, wide = height - 34, WIDTH - 24
    peak = max([*reference, *new, 1e-9])
    step = wide / max(1, len(reference))
    parts = [f'<path class="grid" d="M12,{8 + high_px}H{WIDTH - 12}"/>']
    for index, (before, after) in enumerate(zip(reference, new, strict=True)):
        x = 12 + index * step
        for offset, share, style in ((0.06, before, "ref"), (0.5, after, "bar")):
            size = _unit(share / peak) * high_px
            parts.append(
                f'<rect class="{style}" x="{x + offset * step:.1f}" y="{8 + high_px - size:.1f}" '
                f'width="{0.42 * step:.1f}" height="{size:.1f}"/>'
            )
    parts.append(f'<text class="tick" x="12" y="{height - 8}">{escape(low)}</text>')
    parts.append(f'<text class="tick" x="{WIDTH - 12}" y="{height - 8}" text-anchor="end">{escape(high)}</text>')
    return _figure(title, height, parts, "")


def matrix(labels: Sequence[str], counts: Sequence[Sequence[float]], *, title: str) -> str:
    """Draw a confusion matrix (rows: truth) as a table whose cells are shaded by their share of the row."""
    heads = "".join(f'<th scope="col"><span>{escape(label.replace("_", " "))}</span></th>' for label in labels)
    rows = []
    for index, (label, row) in enumerate(zip(labels, counts, strict=False)):
        total = sum(row)
        cells = []
        for column, count in enumerate(row):
            share = count / total if total else 0.0
            kind = "hit" if column == index else "miss"
            strong = " strong" if share > 0.55 else ""
            cells.append(
                f'<td class="{kind}{strong}" style="--share:{share:.3f}">{count:,.0f}<small>{share:.0%}</small></td>'
            )
        rows.append(f'<tr><th scope="row">{escape(label.replace("_", " "))}</th>{"".join(cells)}</tr>')
    head = f'<tr><td class="corner">truth \\ predicted</td>{heads}</tr>'
    return (
        f'<figure class="wide"><figcaption>{escape(title)}</figcaption><div class="scroll">'
        f'<table class="matrix"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div></figure>'
    )


def legend_of(labels: Sequence[str]) -> str:
    """Return the key of curves' colours."""
    keys = "".join(f'<li class="s{i % 4}">{escape(label)}</li>' for i, label in enumerate(labels))
    return f'<ul class="legend">{keys}</ul>'


def thinned(points: Sequence[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """Keep at most `most` points of a curve, ends included."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(i * step)] for i in range(most)]


def short(text: str) -> str:
    """Cut a label to what fits beside a bar."""
    plain = text.replace("_", " ")
    return plain if len(plain) <= LABEL_CHARS else plain[: LABEL_CHARS - 1] + "…"


def _tick(x: float, y: float, anchor: str, value: float) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{value:g}</text>'


def _figure(title: str, height: int, parts: Sequence[str], legend: str) -> str:
    name = escape(title)
    return (
        f'<figure><figcaption>{name}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{name}">{"".join(parts)}</svg>{legend}</figure>'
    )


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0
