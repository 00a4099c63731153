"""The result: a Markdown table, and the ratios as a picture."""

import collections, html, math, statistics

# key: how it is named, whether more is better, divisor
MEASURES = {
    "ops_per_second": ("op/s", True, 1),
    "p50_us": ("p50, ms", False, 1000),
    "p99_us": ("p99, ms", False, 1000),
    "p999_us": ("p99.9, ms", False, 1000),
    "server_cpu_us_per_op": ("server CPU, us/op", False, 1),
    "client_cpu_us_per_op": ("client CPU, us/op", None, 1),
    "server_disk_bytes_per_op": ("written, bytes/op", False, 1),
    "syncs_per_op": ("syncs/op", False, 1),
    "rss_mb": ("peak RSS of all, MB", False, 1),
    "rss_now_mb": ("RSS of a member, MB", False, 1),
    "rss_extra_mb": ("RSS more at the peak, MB", False, 1),
    "cpu_percent": ("CPU of all, % of a core", False, 1),
    "syncs_per_minute": ("syncs a minute, all", False, 1),
    "late_s": ("s", False, 1),
    "serving_s": ("s", False, 1),
    "compacted_s": ("compaction, s", False, 1),
    "max_ms": ("ms", False, 1),
}
# What every row has that loads the members, beside its own measures.
COSTS = ("client_cpu_us_per_op", "server_disk_bytes_per_op", "syncs_per_op", "rss_mb")

Line = collections.namedtuple("Line", "row measure limit ours low high theirs ratio target holds")


def median(results, key, divisor):
    values = [result[key] / divisor for result in results or () if key in result]
    return (statistics.median(values), min(values), max(values)) if values else (None, None, None)


def lines(results, rows):
    """One for each row and measure: medians, and the spread of ours."""
    for row in rows:
        for key in [*row.targets, *(key for key in COSTS if "ops_per_second" in row.targets)]:
            title, more_is_better, divisor = MEASURES[key]
            ours, low, high = median(results.get((row.name, "dipper")), key, divisor)
            theirs, _, _ = median(results.get((row.name, "etcd")), key, divisor)
            limit, _, _ = median(results.get((row.name, "limit")), key, divisor)
            if ours is None or theirs is None:
                continue
            # What is below a figure's resolution has no ratio, nor has what is neither good nor bad.
            has_ratio = ours and theirs and more_is_better is not None
            ratio = (ours / theirs if more_is_better else theirs / ours) if has_ratio else None
            target, holds = row.targets.get(key), None
            if target and target[0] == "at most":
                holds = ours <= target[1]
                target = f"at most {target[1]} ({target[2]})"
            elif target:
                # None of it at all beats any factor.
                holds = ratio >= target[0] if ratio else (ours == 0 if not more_is_better else False)
                target = f"{target[0]}x ({target[1]}x)"
            yield Line(row, title, limit, ours, low, high, theirs, ratio, target, holds)


def written(ratio):
    # Beyond that a figure says more about its own resolution than about the systems.
    return f"{ratio:.2f}x" if ratio < 1000 else "over 1000x"


def markdown(results, rows, version, unsound):
    """`unsound` names the rows whose figures are not to be compared."""
    def number(value):
        return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:,.2f}"
    text = [f"| row | measure | Dipper | rounds | {version} | ratio | floor (aim) | limit |",
            "|---|---|---|---|---|---|---|---|"]
    for line in lines(results, rows):
        is_sound = line.row.name not in unsound
        ratio = written(line.ratio) if line.ratio and is_sound else ""
        target = f"{line.target}{'' if line.holds else ' MISSED'}" if line.target and is_sound else line.target or ""
        text.append(f"| {line.row.what} | {line.measure} | {number(line.ours)} | {number(line.low)} to "
                    f"{number(line.high)} | {number(line.theirs)} | {ratio} | {target} | {number(line.limit)} |")
    return "\n".join(text)


def svg(results, rows, version, unsound):
    """How many times better, on a logarithmic scale; the line is equality."""
    bars = [(f"{line.row.name}: {line.measure}", line.ratio) for line in lines(results, rows)
            if line.ratio and line.row.name not in unsound]
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
