"""The result: a Markdown table, and the ratios as a picture."""

import html, statistics

# key, how it is named, whether more is better, divisor
MEASURES = {
    "ops_per_second": ("op/s", True, 1),
    "p50_us": ("p50, ms", False, 1000),
    "p99_us": ("p99, ms", False, 1000),
    "p999_us": ("p99.9, ms", False, 1000),
    "server_cpu_us_per_op": ("server CPU, us/op", False, 1),
    "client_cpu_us_per_op": ("client CPU, us/op", None, 1),
    "server_disk_bytes_per_op": ("written, bytes/op", False, 1),
    "rss_mb": ("peak RSS of three, MB", False, 1),
    "rss_now_mb": ("RSS of three, MB", False, 1),
    "cpu_percent": ("CPU of three, % of a core", False, 1),
    "late_s": ("s", False, 1),
    "max_ms": ("ms", False, 1),
}


def lines(results, rows):
    """(row, measure, ours, theirs, spread of ours, ratio), medians."""
    for name, what, _, keys, _ in rows:
        ours, theirs = results.get((name, "dipper")), results.get((name, "etcd"))
        if not ours or not theirs:
            continue
        for key in keys:
            title, more_is_better, divisor = MEASURES[key]
            own = [round_[key] / divisor for round_ in ours]
            other = [round_[key] / divisor for round_ in theirs]
            a, b = statistics.median(own), statistics.median(other)
            # What is below a figure's resolution has no ratio.
            ratio = None if not a or not b else (a / b if more_is_better else b / a)
            yield name, what, title, a, b, (min(own), max(own)), ratio


def markdown(results, rows, version, is_sound):
    text = [f"| row | measure | Dipper | rounds | {version} | ratio |", "|---|---|---|---|---|---|"]
    for _, what, title, a, b, (low, high), ratio in lines(results, rows):
        shown = f"{ratio:.2f}x" if ratio and is_sound else ""
        text.append(f"| {what} | {title} | {a:,.2f} | {low:,.2f} to {high:,.2f} | {b:,.2f} | {shown} |")
    return "\n".join(text)


def svg(results, rows, version):
    """How many times better, on a logarithmic scale; the line is equality."""
    import math
    bars = [(f"{name}: {title}", ratio) for name, _, title, _, _, _, ratio in lines(results, rows) if ratio]
    height, left, unit = 20, 300, 110
    parts = []
    for at, (label, ratio) in enumerate(bars):
        y, length = 30 + at * height, math.log10(ratio) * unit
        x, color = (left + 60, "#2a7") if length >= 0 else (left + 60 + length, "#c43")
        parts.append(f'<text x="{left}" y="{y + 12}" text-anchor="end">{html.escape(label)}</text>'
                     f'<rect x="{x:.1f}" y="{y + 2}" width="{max(1, abs(length)):.1f}" height="13" fill="{color}"/>'
                     f'<text x="{max(x + abs(length), left + 60) + 5:.1f}" y="{y + 12}">{ratio:.1f}x</text>')
    total = 40 + len(bars) * height
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="820" height="{total}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="white"/>'
            f'<text x="10" y="18">Dipper against {html.escape(version)}: times better (logarithmic)</text>'
            f'<line x1="{left + 60}" y1="26" x2="{left + 60}" y2="{total - 8}" stroke="#888"/>{"".join(parts)}</svg>')
