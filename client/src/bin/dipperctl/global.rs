//! The flags that every command takes, with etcdctl's names, defaults and `ETCDCTL_*` variables, and the
//! client that they describe.

use std::time::Duration;

use clap::Args;
use dipper_client::{Client, ConnectOptions, Writes};

use crate::{
    failure::{Exit, Failure},
    output::{Format, Output},
};

/// Flags before or after any command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// gRPC endpoints
    #[arg(
        long,
        env = "ETCDCTL_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        global = true
    )]
    pub endpoints: Vec<String>,
    /// Output format (fields, json, simple, table)
    #[arg(short, long, env = "ETCDCTL_WRITE_OUT", default_value = "simple", global = true)]
    write_out: String,
    /// Print byte strings as hex encoded strings
    #[arg(long, env = "ETCDCTL_HEX", global = true)]
    hex: bool,
    /// How long one attempt to connect may take
    #[arg(long, env = "ETCDCTL_DIAL_TIMEOUT", default_value = "2s", value_parser = duration, global = true)]
    dial_timeout: Duration,
    /// How long a command may take (watch and keep-alive have no limit)
    #[arg(long, env = "ETCDCTL_COMMAND_TIMEOUT", default_value = "5s", value_parser = duration, global = true)]
    command_timeout: Duration,
    /// How often a connection in use is pinged; etcd allows no less than 5s
    #[arg(long, env = "ETCDCTL_KEEPALIVE_TIME", default_value = "6s", value_parser = duration, global = true)]
    keepalive_time: Duration,
    /// How long a ping may stay unanswered
    #[arg(long, env = "ETCDCTL_KEEPALIVE_TIMEOUT", default_value = "6s", value_parser = duration, global = true)]
    keepalive_timeout: Duration,
    /// Accepted for etcdctl's sake; there is nothing more to print
    #[arg(long, env = "ETCDCTL_DEBUG", global = true, hide = true)]
    debug: bool,
}

impl Global {
    /// A client of the given endpoints; it connects with its first call.
    pub fn client(&self) -> Result<Client, Failure> {
        self.client_of(&self.endpoints)
    }

    /// A client of these endpoints instead.
    pub fn client_of<E: AsRef<str>>(&self, endpoints: &[E]) -> Result<Client, Failure> {
        Client::lazy(endpoints, self.options()).map_err(|error| Failure::arguments(error.to_string()))
    }

    pub fn options(&self) -> ConnectOptions {
        ConnectOptions {
            call_deadline: self.command_timeout,
            connect_timeout: self.dial_timeout,
            keepalive_interval: self.keepalive_time,
            keepalive_timeout: self.keepalive_timeout,
            // A user who names endpoints wants these asked, not the leader behind them.
            writes: Writes::ToEndpoints,
            ..Default::default()
        }
    }

    /// The printer for `--write-out` and `--hex`.
    pub fn output(&self) -> Result<Output, Failure> {
        let format = match self.write_out.as_str() {
            "simple" => Format::Simple,
            "json" => Format::Json,
            "fields" => Format::Fields,
            "table" => Format::Table,
            _ => return Err(Failure::new(Exit::BadFeature, "unsupported output format")),
        };
        Ok(Output {
            format,
            hex: self.hex,
            value_only: false,
        })
    }
}

/// Go's durations with one unit or several: `500ms`, `2s`, `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("time: invalid duration {text:?}");
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|char: char| !char.is_ascii_digit() && char != '.')
            .ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|char: char| char.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        total += number.parse::<f64>().map_err(|_| bad())? * seconds;
        rest = tail;
    }
    if text.is_empty() {
        Err(bad())
    } else {
        Duration::try_from_secs_f64(total).map_err(|_| bad())
    }
}

/// Go's complaint about a number, word for word.
pub fn parse_i64(text: &str, radix: u32) -> Result<i64, String> {
    i64::from_str_radix(text, radix).map_err(|error| go_parse_error("ParseInt", text, &error))
}

/// As [`parse_i64`], without a sign.
pub fn parse_u64(text: &str, radix: u32) -> Result<u64, String> {
    u64::from_str_radix(text, radix).map_err(|error| go_parse_error("ParseUint", text, &error))
}

fn go_parse_error(function: &str, text: &str, error: &std::num::ParseIntError) -> String {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let why = match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {text:?}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_reads_them() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["", "5", "s", "5 s", "5x"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
