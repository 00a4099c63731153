"""Lines over sizes or times, as SVG."""

import html, math

COLORS = ("#27a", "#c43", "#2a7", "#a6a", "#b80", "#555")
WIDTH, HEIGHT, LEFT, TOP = 820, 420, 70, 40
RIGHT, BOTTOM = WIDTH - 210, HEIGHT - 50


def chart(title, curves, across, logarithmic=False, mark=None):
    """`curves`: name to (x, y) points. `mark` is a line that they should not cross."""
    at = math.log10 if logarithmic else float
    xs = [at(x) for points in curves.values() for x, _ in points]
    low, high = min(xs), max(xs)
    top = 1.1 * max([y for points in curves.values() for _, y in points] + [mark or 0])

    def place(x, y):
        return (LEFT + (at(x) - low) / max(high - low, 1e-9) * (RIGHT - LEFT), BOTTOM - y / top * (BOTTOM - TOP))

    parts = [f'<text x="10" y="20" font-size="14">{html.escape(title)}</text>',
             f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{html.escape(across)}</text>',
             f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#444"/>']
    for step in range(5):
        y = top * step / 4
        _, height = place(10 ** low if logarithmic else low, y)
        parts.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{y:,.3g}</text>')
        x = low + (high - low) * step / 4
        parts.append(f'<text x="{LEFT + (RIGHT - LEFT) * step / 4:.1f}" y="{BOTTOM + 18}" text-anchor="middle">'
                     f'{10 ** x if logarithmic else x:,.3g}</text>')
    if mark:
        _, height = place(10 ** low if logarithmic else low, mark)
        parts.append(f'<path d="M{LEFT} {height:.1f}H{RIGHT}" stroke="#c43" stroke-dasharray="4"/>')
    for number, (name, points) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>'
                     f'<text x="{RIGHT + 10}" y="{TOP + 18 * number}" fill="{color}">{html.escape(name)}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>')
