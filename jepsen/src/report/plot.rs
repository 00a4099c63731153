//! The distribution of failovers as an SVG: for each case a strip of dots for the cluster and one for its worst
//! client, and the limit as a line.
//!
//! ```text
//!                        0      250      500      750     1000 ms        p50    max
//!   kill     cluster              . ::.                     |            402    501
//!            worst client           ..::.                   |            455    566
//! ```
//! What was planned has a limit a tenth of the others', so it has a scale of its own. Axes are linear from 0:
//! how far a dot is from the line is how much there is to spare. The colours suit a light and a dark page, and
//! nothing outside of the file is needed.

use super::targets::{Results, cases, spaced};
use crate::results::Failover;
use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
/// Where the strips begin and end.
const LEFT: f64 = 230.0;
const RIGHT: f64 = 730.0;
const P50: f64 = 805.0;
const MAX: f64 = 875.0;
const STRIP: f64 = 24.0;
const GAP: f64 = 12.0;
const AXIS: f64 = 44.0;

const STYLE: &str = "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#24292f}\
.page{fill:#fff}.n{text-anchor:end;font-variant-numeric:tabular-nums}.m{text-anchor:middle}\
.d{fill:#57606a}.h{font-weight:600}.rule{stroke:#d8dee4}.limit{stroke:#b35900;stroke-width:1.5;stroke-dasharray:5 3}\
.l{fill:#b35900}.dot{fill:#0969da;fill-opacity:.5}.over{fill:#cf222e}.tick{stroke:#24292f;stroke-width:2}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.d{fill:#9198a1}.rule{stroke:#30363d}\
.limit{stroke:#e3a35a}.l{fill:#e3a35a}.dot{fill:#58a6ff}.over{fill:#ff7b72}.tick{stroke:#e6edf3}}";

/// Cases that share a limit, and so a scale.
struct Panel {
    limit_ms: f64,
    until_ms: f64,
    cases: Vec<(String, Vec<Failover>)>,
}

/// Draws it; `None` if no failover was measured.
pub fn draw(results: &Results) -> Option<String> {
    let panels = panels(results);
    if panels.is_empty() {
        return None;
    }
    let height = panels.iter().map(Panel::height).sum::<f64>() + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>Time without an acknowledged write at a failover</title>\n\
         <style>{STYLE}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    let mut top = 0.0;
    for panel in &panels {
        panel.draw(&mut svg, top).expect("a String takes everything");
        top += panel.height();
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn panels(results: &Results) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for case in cases() {
        let rounds: Vec<Failover> = results.rounds(&case).into_iter().cloned().collect();
        let Some(limit_ms) = rounds.first().map(|round| round.limit_ms) else {
            continue;
        };
        match panels.iter_mut().find(|panel| (panel.limit_ms - limit_ms).abs() < 0.5) {
            Some(panel) => panel.cases.push((case, rounds)),
            None => panels.push(Panel {
                limit_ms,
                until_ms: 0.0,
                cases: vec![(case, rounds)],
            }),
        }
    }
    for panel in &mut panels {
        let rounds = panel.cases.iter().flat_map(|(_, rounds)| rounds);
        let longest = rounds.fold(0.0, |longest, round| round.client_ms.max(round.cluster_ms).max(longest));
        // Whole quarters of the limit, and one more than that which the limit ends.
        panel.until_ms = ((longest / panel.limit_ms * 4.0).ceil().max(5.0)) / 4.0 * panel.limit_ms;
    }
    panels
}

impl Panel {
    fn height(&self) -> f64 {
        AXIS + self.cases.len() as f64 * (2.0 * STRIP + GAP) + GAP
    }

    fn x(&self, ms: f64) -> f64 {
        LEFT + ms / self.until_ms * (RIGHT - LEFT)
    }

    fn draw(&self, svg: &mut String, top: f64) -> std::fmt::Result {
        let bottom = top + self.height() - GAP;
        let label = top + AXIS - 10.0;
        // So many quarters that their labels do not touch.
        let quarters = (self.until_ms / self.limit_ms * 4.0).round() as usize;
        let step = if quarters > 12 { 4 } else { 1 };
        for quarter in (0..=quarters).step_by(step) {
            let ms = quarter as f64 / 4.0 * self.limit_ms;
            let (x, from) = (self.x(ms), top + AXIS);
            let unit = if quarter == 0 { " ms" } else { "" };
            if quarter == 4 {
                continue;
            }
            writeln!(
                svg,
                "<line class=\"rule\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from}\" y2=\"{bottom}\"/>"
            )?;
            writeln!(
                svg,
                "<text class=\"d m\" x=\"{x:.1}\" y=\"{label}\">{ms:.0}{unit}</text>"
            )?;
        }
        let (x, limit) = (self.x(self.limit_ms), self.limit_ms);
        let from = top + AXIS;
        writeln!(
            svg,
            "<line class=\"limit\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from}\" y2=\"{bottom}\"/>"
        )?;
        writeln!(
            svg,
            "<text class=\"l h m\" x=\"{x:.1}\" y=\"{label}\">{limit:.0}</text>"
        )?;
        writeln!(svg, "<text class=\"d n\" x=\"{P50}\" y=\"{label}\">p50</text>")?;
        writeln!(svg, "<text class=\"d n\" x=\"{MAX}\" y=\"{label}\">max</text>")?;
        for (place, (case, rounds)) in self.cases.iter().enumerate() {
            let top = top + AXIS + GAP / 2.0 + place as f64 * (2.0 * STRIP + GAP);
            let name = spaced(case);
            writeln!(svg, "<text class=\"h\" x=\"16\" y=\"{}\">{name}</text>", top + 16.0)?;
            writeln!(
                svg,
                "<text class=\"d\" x=\"16\" y=\"{}\">{} rounds</text>",
                top + 40.0,
                rounds.len()
            )?;
            let times = |of: fn(&Failover) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
            self.strip(svg, top, "cluster", &times(|round| round.cluster_ms))?;
            self.strip(svg, top + STRIP, "worst client", &times(|round| round.client_ms))?;
        }
        Ok(())
    }

    fn strip(&self, svg: &mut String, top: f64, name: &str, times_ms: &[f64]) -> std::fmt::Result {
        let middle = top + STRIP / 2.0;
        writeln!(
            svg,
            "<text class=\"d n\" x=\"{}\" y=\"{}\">{name}</text>",
            LEFT - 14.0,
            middle + 4.0
        )?;
        for (round, ms) in times_ms.iter().enumerate() {
            // Rounds lie on four levels, so that equal times stay apart.
            let y = middle + [-6.0, 2.0, -2.0, 6.0][round % 4];
            let class = if *ms > self.limit_ms { "over" } else { "dot" };
            let x = self.x(*ms);
            writeln!(svg, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\"/>")?;
        }
        let (median, longest) = (at(times_ms, 0.5), at(times_ms, 1.0));
        let x = self.x(median);
        let (from, to) = (middle - 9.0, middle + 9.0);
        writeln!(
            svg,
            "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from}\" y2=\"{to}\"/>"
        )?;
        let y = middle + 4.0;
        let class = if longest > self.limit_ms { "over n h" } else { "n" };
        writeln!(svg, "<text class=\"n\" x=\"{P50}\" y=\"{y}\">{median:.0}</text>")?;
        writeln!(svg, "<text class=\"{class}\" x=\"{MAX}\" y=\"{y}\">{longest:.0}</text>")
    }
}

/// The value below which a share of them lies.
pub fn at(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(place).copied().unwrap_or_default()
}
