//! A counter-example as a picture: one lane a process, one box an operation, the offending ones marked.
//!
//! ```text
//!   process 0   [ put a=1 -> 2 ]          [ get a ... ]      <- marked: red
//!   process 1          [ put a=2 -> 3                 ......     unknown: open to the right
//!   watcher 0                 | 2   | 3
//! ```
//! Time is drawn by rank: every moment at which something began or ended is one column, so that what is close in
//! time can be read. One HTML page without scripts or links, openable from a file; the same as text beside it.
//! Only the neighbourhood of what is marked is drawn, and the page says how much it leaves out.

use crate::checkers::{Anomaly, describe};
use crate::history::{NEVER, Operation, Outcome, Record, Watch};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// More boxes nobody reads.
const RECORDS_MAX: usize = 120;
const COLUMN: usize = 46;
const LANE: usize = 46;
const MARGIN: usize = 110;

const STYLE: &str = "body{font:14px sans-serif;margin:2em;color:#222}\
svg text{font:11px monospace}.lane{fill:#666}.ok{fill:#dceefb;stroke:#5b8db8}.failed{fill:#eee;stroke:#999}\
.unknown{fill:#fdf3d7;stroke:#c9a227;stroke-dasharray:4 3}.marked{stroke:#c00;stroke-width:3}\
.fault{fill:#f3d9d9;opacity:.6}.watch{stroke:#3a7d44;stroke-width:2}.rule{stroke:#eee}\
.red{color:#c00}pre{background:#f7f7f7;padding:1em;overflow:auto}";

/// The page and the text.
pub struct Drawing {
    pub html: String,
    pub text: String,
}

/// Draws what `anomalies` are about; the first one's operations are in the middle.
pub fn draw(title: &str, history: &[Record], anomalies: &[Anomaly]) -> Drawing {
    let marked: BTreeSet<usize> = anomalies
        .iter()
        .flat_map(|anomaly| anomaly.operations.iter().copied())
        .collect();
    let shown = neighbourhood(history, &marked);
    let canvas = Canvas::of(history, &shown);
    let text = as_text(title, history, anomalies, &shown, &marked);
    let mut page = String::new();
    let write = |page: &mut String| -> std::fmt::Result {
        let title = escape(title);
        writeln!(
            page,
            "<!DOCTYPE html><html><head><meta charset=\"utf-8\"><title>{title}</title>"
        )?;
        writeln!(page, "<style>{STYLE}</style></head><body><h1>{title}</h1><ul>")?;
        for anomaly in anomalies {
            let (name, checker) = (escape(&anomaly.name), escape(&anomaly.checker));
            writeln!(
                page,
                "<li><b class=\"red\">{name}</b> ({checker}): {}</li>",
                escape(&anomaly.text)
            )?;
        }
        writeln!(page, "</ul><p>{}</p>", escape(&left_out(history, &shown)))?;
        canvas.draw(page, history, &shown, &marked)?;
        writeln!(
            page,
            "<h2>In order of their ends</h2><pre>{}</pre></body></html>",
            escape(&text)
        )
    };
    write(&mut page).expect("a String takes everything");
    Drawing { html: page, text }
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// The records nearest to the marked ones.
fn neighbourhood(history: &[Record], marked: &BTreeSet<usize>) -> Vec<usize> {
    let mut places: Vec<usize> = (0..history.len())
        .filter(|place| !matches!(history[*place], Record::Expectations(_) | Record::Final(_)))
        .collect();
    // Operations and faults before watches, then by their distance from what is marked.
    places.sort_by_key(|place| {
        let distance = marked.iter().map(|mark| mark.abs_diff(*place)).min().unwrap_or(*place);
        (matches!(history[*place], Record::Watch(_)), distance)
    });
    let watches = marked
        .iter()
        .filter(|place| matches!(history.get(**place), Some(Record::Watch(_))));
    let mut shown: BTreeSet<usize> = places.into_iter().take(RECORDS_MAX).collect();
    shown.extend(watches);
    shown.into_iter().collect()
}

fn left_out(history: &[Record], shown: &[usize]) -> String {
    format!("{} of {} records are shown.", shown.len(), history.len())
}

fn as_text(
    title: &str,
    history: &[Record],
    anomalies: &[Anomaly],
    shown: &[usize],
    marked: &BTreeSet<usize>,
) -> String {
    let mut text = format!("{title}\n\n");
    for anomaly in anomalies {
        text += &[&anomaly.name, " (", &anomaly.checker, "): ", &anomaly.text, "\n"].concat();
    }
    text += &["\n", &left_out(history, shown), "\n"].concat();
    for place in shown {
        let mark = if marked.contains(place) { ">>" } else { "  " };
        let (from, until) = span(&history[*place]);
        let (from, until) = (describe::time(from), describe::time(until));
        let record = describe::record(&history[*place]);
        let line = format!("{mark} {place:>6}  {from:>14} .. {until:<14}  {record}\n");
        text += &line;
    }
    text
}

/// When a record begins and ends.
fn span(record: &Record) -> (u64, u64) {
    match record {
        Record::Operation(operation) => (operation.invoked, operation.returned),
        Record::Watch(watch) => (watch.at, watch.at),
        Record::Fault(fault) => (fault.from, fault.until),
        Record::Final(_) | Record::Expectations(_) => (0, 0),
    }
}

/// Which lane a record is in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Process(u32),
    Watcher(u32),
}

impl Lane {
    fn of(record: &Record) -> Option<Lane> {
        match record {
            Record::Operation(operation) => Some(Lane::Process(operation.process)),
            Record::Watch(watch) => Some(Lane::Watcher(watch.watcher)),
            _ => None,
        }
    }

    fn name(self) -> String {
        match self {
            Lane::Process(number) => format!("process {number}"),
            Lane::Watcher(number) => format!("watcher {number}"),
        }
    }
}

/// Where times and lanes are on the page.
struct Canvas {
    columns: BTreeMap<u64, usize>,
    lanes: BTreeMap<Lane, usize>,
}

impl Canvas {
    fn of(history: &[Record], shown: &[usize]) -> Canvas {
        let mut times = BTreeSet::new();
        let mut lanes = BTreeSet::new();
        for record in shown.iter().map(|place| &history[*place]) {
            let (from, until) = span(record);
            times.extend([from, until]);
            lanes.extend(Lane::of(record));
        }
        let numbered = |from: BTreeSet<u64>| from.into_iter().zip(0..).collect();
        Canvas {
            columns: numbered(times),
            lanes: lanes.into_iter().zip(0..).collect(),
        }
    }

    fn x(&self, time: u64) -> usize {
        MARGIN + COLUMN * self.columns.get(&time).copied().unwrap_or(0)
    }

    fn y(&self, lane: Lane) -> usize {
        30 + LANE * self.lanes.get(&lane).copied().unwrap_or(0)
    }

    fn draw(
        &self,
        page: &mut String,
        history: &[Record],
        shown: &[usize],
        marked: &BTreeSet<usize>,
    ) -> std::fmt::Result {
        let width = MARGIN + COLUMN * (self.columns.len() + 4);
        let height = 50 + LANE * self.lanes.len();
        writeln!(
            page,
            "<div style=\"overflow:auto\"><svg width=\"{width}\" height=\"{height}\">"
        )?;
        for record in shown.iter().map(|place| &history[*place]) {
            if let Record::Fault(fault) = record {
                let (x, end) = (self.x(fault.from), self.x(fault.until));
                let (wide, what) = ((end - x).max(6), escape(&fault.what));
                writeln!(
                    page,
                    "<rect class=\"fault\" x=\"{x}\" y=\"0\" width=\"{wide}\" height=\"{height}\">"
                )?;
                writeln!(
                    page,
                    "<title>{what}</title></rect><text x=\"{x}\" y=\"12\">{what}</text>"
                )?;
            }
        }
        for lane in self.lanes.keys() {
            let y = self.y(*lane) + 20;
            writeln!(
                page,
                "<line class=\"rule\" x1=\"0\" x2=\"{width}\" y1=\"{y}\" y2=\"{y}\"/>"
            )?;
            writeln!(page, "<text class=\"lane\" x=\"2\" y=\"{y}\">{}</text>", lane.name())?;
        }
        for place in shown {
            let is_marked = marked.contains(place);
            match &history[*place] {
                Record::Operation(operation) => self.operation(page, *place, operation, is_marked)?,
                Record::Watch(watch) => self.watch(page, *place, watch, is_marked)?,
                _ => {}
            }
        }
        writeln!(page, "</svg></div>")
    }

    fn operation(&self, page: &mut String, place: usize, operation: &Operation, is_marked: bool) -> std::fmt::Result {
        let class = match operation.outcome {
            Outcome::Ok(_) => "ok",
            Outcome::Failed(_) => "failed",
            Outcome::Unknown(_) => "unknown",
        };
        let mark = if is_marked { " marked" } else { "" };
        let x = self.x(operation.invoked);
        // An unknown end is drawn behind the last column.
        let end = self.x(operation.returned) + if operation.returned == NEVER { 2 * COLUMN } else { 0 };
        let (y, width) = (self.y(Lane::Process(operation.process)), (end - x).max(8));
        let full = escape(&format!(
            "{place}: {} .. {}: {}",
            describe::time(operation.invoked),
            describe::time(operation.returned),
            describe::operation(operation)
        ));
        let short: String = describe::operation(operation)
            .chars()
            .take((width / 7).max(8))
            .collect();
        writeln!(page, "<g><title>{full}</title>")?;
        writeln!(
            page,
            "<rect class=\"{class}{mark}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"24\" rx=\"3\"/>"
        )?;
        writeln!(
            page,
            "<text x=\"{}\" y=\"{}\">{}</text></g>",
            x + 3,
            y + 16,
            escape(&short)
        )
    }

    fn watch(&self, page: &mut String, place: usize, watch: &Watch, is_marked: bool) -> std::fmt::Result {
        let (x, y) = (self.x(watch.at), self.y(Lane::Watcher(watch.watcher)));
        let mark = if is_marked { " marked" } else { "" };
        let full = escape(&format!(
            "{place}: {}: {}",
            describe::time(watch.at),
            describe::watch(watch)
        ));
        writeln!(page, "<g><title>{full}</title>")?;
        let (top, bottom) = (y + 4, y + 30);
        writeln!(
            page,
            "<line class=\"watch{mark}\" x1=\"{x}\" x2=\"{x}\" y1=\"{top}\" y2=\"{bottom}\"/></g>"
        )
    }
}
