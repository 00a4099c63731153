//! Prometheus' text format, version 0.0.4: the few lines of it that a page of numbers needs.
//!
//! Why not the `prometheus-client` crate: it appends `_total` to every counter and writes OpenMetrics, while
//! etcd has counters without it (`etcd_server_health_success`, `etcd_network_snapshot_send_success`) and gauges
//! with it, and dashboards and alerts know exactly those names. It also wants to own the numbers, which here
//! belong to whoever counted them.
//!
//! Not here: which metrics exist. A family is written in one go, so its head stands once and before its series.

use crate::histogram::Histogram;
use std::fmt::{Display, Write};

/// The content type that the page is served with.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Names and values that tell the series of one family apart.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page being written.
#[derive(Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// The finished page.
    pub fn into_text(self) -> String {
        self.text
    }

    /// A number that goes up and down, without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help).series(&[], value);
    }

    /// A number that only grows, without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help).series(&[], value);
    }

    /// A histogram without labels.
    pub fn histogram<const F: u64, const B: usize>(&mut self, name: &str, help: &str, values: &Histogram<F, B>) {
        self.family(name, "histogram", help).histogram(&[], values);
    }

    /// Begins a family whose series have labels; `kind` is gauge, counter or histogram.
    pub fn family<'a>(&'a mut self, name: &'a str, kind: &str, help: &str) -> Family<'a> {
        // Writing into a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {}\n# TYPE {name} {kind}\n", escaped(help));
        Family {
            text: &mut self.text,
            name,
        }
    }
}

/// A family whose head is written.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl Family<'_> {
    /// One number.
    pub fn series(&mut self, labels: Labels, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// One histogram: a line for each bound, then sum and count.
    pub fn histogram<const F: u64, const B: usize>(&mut self, labels: Labels, values: &Histogram<F, B>) {
        for (bound, count) in values.cumulative() {
            self.line("_bucket", labels, Some(&bound.to_string()), count);
        }
        self.line("_bucket", labels, Some("+Inf"), values.count());
        self.line("_sum", labels, None, values.sum_seconds());
        self.line("_count", labels, None, values.count());
    }

    fn line(&mut self, suffix: &str, labels: Labels, bound: Option<&str>, value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        let pairs = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (position, (name, value)) in pairs.clone().enumerate() {
            let before = if position == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{name}=\"{}\"", escaped(value));
        }
        let after = if pairs.count() == 0 { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_page() {
        let mut page = Page::default();
        page.gauge("up", "Whether it is.", 1);
        let mut family = page.family("sent", "counter", "Bytes.");
        family.series(&[("To", "a\"b\\c\nd"), ("Lane", "bulk")], 3);
        let mut histogram = Histogram::<500, 2>::new();
        histogram.observe(Duration::from_micros(750));
        page.histogram("took", "Seconds.", &histogram);
        let expected = r#"# HELP up Whether it is.
# TYPE up gauge
up 1
# HELP sent Bytes.
# TYPE sent counter
sent{To="a\"b\\c\nd",Lane="bulk"} 3
# HELP took Seconds.
# TYPE took histogram
took_bucket{le="0.0005"} 0
took_bucket{le="0.001"} 1
took_bucket{le="+Inf"} 1
took_sum 0.00075
took_count 1
"#;
        assert_eq!(page.into_text(), expected);
    }
}
