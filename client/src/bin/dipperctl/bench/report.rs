//! The result of a run, for people and for scripts.

use super::{load::Outcome, processes::Usage};
use crate::{
    failure::Failure,
    json,
    output::{Format, print_line},
};

/// What a run did and what it cost.
pub struct Report {
    pub outcome: Outcome,
    pub client: Usage,
    pub servers: Option<Usage>,
}

/// Percentiles that are reported, with their names in JSON.
const PERCENTILES: [(f64, &str); 4] = [(50.0, "p50_us"), (90.0, "p90_us"), (99.0, "p99_us"), (99.9, "p999_us")];

impl Report {
    fn per_second(&self) -> f64 {
        self.outcome.done() as f64 / self.outcome.elapsed.as_secs_f64().max(1e-9)
    }

    fn per_operation(&self, total: u64) -> f64 {
        total as f64 / self.outcome.done().max(1) as f64
    }

    pub fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Json => self.print_json(),
            _ => self.print_text(),
        }
    }

    fn print_text(&self) -> Result<(), Failure> {
        let outcome = &self.outcome;
        let failed: u64 = outcome.errors.values().sum();
        let mut lines = vec![
            format!(
                "operations    {} in {:.2} s",
                outcome.done(),
                outcome.elapsed.as_secs_f64()
            ),
            format!("rate          {:.0} op/s", self.per_second()),
            format!("errors        {failed}"),
        ];
        lines.extend(outcome.errors.iter().map(|(text, count)| format!("  {count} x {text}")));
        for (percentile, _) in PERCENTILES {
            let millis = outcome.latency.value_at_percentile(percentile) as f64 / 1000.0;
            lines.push(format!("{:<13} {millis:.3} ms", format!("p{percentile}")));
        }
        lines.push(format!("max           {:.3} ms", outcome.latency.max() as f64 / 1000.0));
        lines.push(format!(
            "client cpu    {:.2} us/op",
            self.per_operation(self.client.cpu_micros)
        ));
        if let Some(servers) = self.servers {
            lines.push(format!(
                "server cpu    {:.2} us/op",
                self.per_operation(servers.cpu_micros)
            ));
            lines.push(format!(
                "server disk   {:.0} bytes/op",
                self.per_operation(servers.written_bytes)
            ));
            lines.push(format!(
                "server writes {:.2} calls/op",
                self.per_operation(servers.write_calls)
            ));
        }
        print_line(&lines.join("\n"))
    }

    fn print_json(&self) -> Result<(), Failure> {
        let outcome = &self.outcome;
        let errors = outcome
            .errors
            .iter()
            .fold(json::Object::new(), |object, (text, count)| {
                object.raw(json::string(text).trim_matches('"'), count)
            });
        let mut object = json::Object::new()
            .raw("operations", outcome.done())
            .raw("seconds", format!("{:.3}", outcome.elapsed.as_secs_f64()))
            .raw("ops_per_second", format!("{:.1}", self.per_second()))
            .raw("errors", errors.end());
        for (percentile, name) in PERCENTILES {
            object = object.raw(name, outcome.latency.value_at_percentile(percentile));
        }
        object = object.raw("max_us", outcome.latency.max()).raw(
            "client_cpu_us_per_op",
            format!("{:.2}", self.per_operation(self.client.cpu_micros)),
        );
        if let Some(servers) = self.servers {
            object = object
                .raw(
                    "server_cpu_us_per_op",
                    format!("{:.2}", self.per_operation(servers.cpu_micros)),
                )
                .raw(
                    "server_disk_bytes_per_op",
                    format!("{:.1}", self.per_operation(servers.written_bytes)),
                )
                .raw(
                    "server_write_calls_per_op",
                    format!("{:.3}", self.per_operation(servers.write_calls)),
                );
        }
        print_line(&object.end())
    }
}
