//! Log lines: JSON with zap's keys (`level`, `ts`, `caller`, `msg`, then the fields), one line each.
//!
//! ```text
//! {"level":"info","ts":"2026-01-31T12:00:00.123Z","caller":"node.rs:41","msg":"ready to serve client requests"}
//! ```
//!
//! A line is formatted by the thread that logs it and written by a thread of its own: a stderr that blocks (a full
//! pipe, a stopped terminal) must never stop a vote. The queue is bounded; what does not fit is dropped, counted and
//! said with the next line that gets through. Not here: metrics, and what to log.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use slog::{Drain, KV, Key, Level, Logger, Never, OwnedKVList, Record, Serializer};

use crate::config::LogOutput;
use crate::error::StartError;
use crate::limits::LOG_LINES_QUEUED_MAX;

/// The lines' way out: what it dropped, its level, and how to wait for it before the process ends.
#[derive(Clone)]
pub struct LogLines {
    to_writer: SyncSender<ToWriter>,
    dropped: Arc<AtomicU64>,
    level: Arc<AtomicU8>,
}

enum ToWriter {
    Line(String),
    Flush(SyncSender<()>),
}

/// Starts the writing thread; the logger is the root of all others.
pub fn start_log(output: LogOutput, level: Level) -> Result<(Logger, LogLines), StartError> {
    match output {
        LogOutput::Stderr => start_log_to(io::stderr(), level),
        LogOutput::Stdout => start_log_to(io::stdout(), level),
    }
}

/// As `start_log`, to any writer.
pub fn start_log_to(writer: impl Write + Send + 'static, level: Level) -> Result<(Logger, LogLines), StartError> {
    let (to_writer, lines) = mpsc::sync_channel(LOG_LINES_QUEUED_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let reported = dropped.clone();
    // Owned by the channel: the thread ends when the last logger is gone.
    thread::Builder::new()
        .name("log-output".to_owned())
        .spawn(move || write_lines(writer, &lines, &reported))
        .map_err(|error| StartError::unusable("log-output".as_ref(), "starting its thread", &error))?;
    let lines = LogLines {
        to_writer,
        dropped,
        level: Arc::new(AtomicU8::new(level_number(level))),
    };
    Ok((Logger::root(lines.clone(), slog::o!()), lines))
}

impl LogLines {
    /// Lines that were dropped because the output was too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Changes the level of all loggers at once.
    pub fn set_level(&self, level: Level) {
        self.level.store(level_number(level), Ordering::Relaxed);
    }

    /// Waits until all that was logged before is written, or for `wait_max`; says whether it is. For the way out.
    pub fn flush(&self, wait_max: Duration) -> bool {
        let (done, written) = mpsc::sync_channel(1);
        // A queue that is full now belongs to an output that does not move: nothing to wait for.
        self.to_writer.try_send(ToWriter::Flush(done)).is_ok() && written.recv_timeout(wait_max).is_ok()
    }
}

impl Drain for LogLines {
    type Ok = ();
    type Err = Never;

    fn is_enabled(&self, level: Level) -> bool {
        level_number(level) <= self.level.load(Ordering::Relaxed)
    }

    fn log(&self, record: &Record, values: &OwnedKVList) -> Result<(), Never> {
        if !self.is_enabled(record.level()) {
            return Ok(());
        }
        let line = format_line(SystemTime::now(), record, values);
        if let Err(TrySendError::Full(_)) = self.to_writer.try_send(ToWriter::Line(line)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

// slog numbers its levels from Critical (1) to Trace (6).
fn level_number(level: Level) -> u8 {
    level.as_usize() as u8
}

fn write_lines(mut writer: impl Write, lines: &Receiver<ToWriter>, dropped: &AtomicU64) {
    let mut dropped_said = 0;
    for message in lines {
        // A log that cannot be written (a closed pipe) is no reason to stop a member: its errors go nowhere.
        match message {
            ToWriter::Line(line) => {
                let dropped_now = dropped.load(Ordering::Relaxed);
                if dropped_now > dropped_said {
                    let _ = writer.write_all(dropped_line(dropped_now).as_bytes());
                    dropped_said = dropped_now;
                }
                let _ = writer.write_all(line.as_bytes());
            }
            ToWriter::Flush(done) => {
                let _ = writer.flush();
                let _ = done.try_send(());
            }
        }
    }
}

fn dropped_line(dropped: u64) -> String {
    let mut line = Line::start(
        "warn",
        SystemTime::now(),
        "log_output.rs",
        "log lines were dropped: the output is slow",
    );
    line.raw("dropped-total", &dropped.to_string());
    line.end()
}

fn format_line(now: SystemTime, record: &Record, values: &OwnedKVList) -> String {
    let file = record.file().rsplit(['/', '\\']).next().unwrap_or_default();
    let caller = format!("{file}:{}", record.line());
    let mut line = Line::start(level_name(record.level()), now, &caller, &record.msg().to_string());
    // Values that fail to format are left out; the line itself is worth more.
    let _ = values.serialize(record, &mut line);
    let _ = record.kv().serialize(record, &mut line);
    line.end()
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Critical => "fatal",
        Level::Error => "error",
        Level::Warning => "warn",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    }
}

struct Line(String);

impl Line {
    fn start(level: &str, now: SystemTime, caller: &str, msg: &str) -> Self {
        let mut line = Self(String::with_capacity(160));
        line.text("level", level);
        line.text("ts", &rfc3339(now));
        line.text("caller", caller);
        line.text("msg", msg);
        line
    }

    fn text(&mut self, key: &str, value: &str) {
        self.raw(key, &quoted(value));
    }

    fn raw(&mut self, key: &str, json: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(&quoted(key));
        self.0.push(':');
        self.0.push_str(json);
    }

    fn end(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

// Numbers and booleans stay what they are in JSON; all else is text.
macro_rules! emit_plain {
    ($($emit:ident $type:ty),*) => {
        $(fn $emit(&mut self, key: Key, value: $type) -> slog::Result {
            self.raw(key.as_ref(), &value.to_string());
            Ok(())
        })*
    };
}

impl Serializer for Line {
    emit_plain!(
        emit_bool bool, emit_u8 u8, emit_i8 i8, emit_u16 u16, emit_i16 i16, emit_u32 u32, emit_i32 i32,
        emit_u64 u64, emit_i64 i64, emit_usize usize, emit_isize isize
    );

    fn emit_str(&mut self, key: Key, value: &str) -> slog::Result {
        self.text(key.as_ref(), value);
        Ok(())
    }

    fn emit_none(&mut self, key: Key) -> slog::Result {
        self.raw(key.as_ref(), "null");
        Ok(())
    }

    fn emit_unit(&mut self, key: Key) -> slog::Result {
        self.emit_none(key)
    }

    fn emit_arguments(&mut self, key: Key, value: &std::fmt::Arguments) -> slog::Result {
        self.text(key.as_ref(), &value.to_string());
        Ok(())
    }
}

fn rfc3339(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, in_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        since.subsec_millis()
    )
}

// Years that begin in March have their leap day at the end, so that months are found by one division (the well-known
// days-from-civil arithmetic; eras have 146,097 days, day 0 is 1970-01-01).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, in_era) = (days / 146_097, days % 146_097);
    let year_of_era = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn lines(&self) -> Vec<serde_json::Value> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    #[test]
    fn a_line_has_zaps_keys_and_the_fields() {
        let page = Page::default();
        let (logger, lines) = start_log_to(page.clone(), Level::Info).unwrap();
        let child = logger.new(slog::o!("member" => "8e9e05c52164694d"));
        slog::warn!(child, "slow \"{}\"\n", "request"; "took-ms" => 301_u64, "ok" => false, "path" => format_args!("a{}", 1));
        lines.flush(Duration::from_secs(10));
        let line = &page.lines()[0];
        assert_eq!(
            (&line["level"], &line["msg"]),
            (&"warn".into(), &"slow \"request\"\n".into())
        );
        assert_eq!(
            (&line["took-ms"], &line["ok"], &line["path"]),
            (&301.into(), &false.into(), &"a1".into())
        );
        assert_eq!(line["member"], "8e9e05c52164694d");
        let caller = line["caller"].as_str().unwrap();
        assert!(caller.starts_with("log_output.rs:"), "{caller}");
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert!(
            text.starts_with("{\"level\":\"warn\",\"ts\":\"20") && text.contains(",\"caller\":"),
            "{text}"
        );
    }

    #[test]
    fn the_level_can_change() {
        let page = Page::default();
        let (logger, lines) = start_log_to(page.clone(), Level::Error).unwrap();
        slog::info!(logger, "unheard");
        lines.set_level(Level::Debug);
        slog::debug!(logger, "heard");
        slog::crit!(logger, "last");
        lines.flush(Duration::from_secs(10));
        let said: Vec<_> = page
            .lines()
            .iter()
            .map(|line| (line["level"].clone(), line["msg"].clone()))
            .collect();
        assert_eq!(
            said,
            [("debug".into(), "heard".into()), ("fatal".into(), "last".into())]
        );
    }

    /// An output that does not move until it is let go.
    struct Stuck(Receiver<()>, Page);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_costs_lines_and_never_a_thread() {
        let page = Page::default();
        let (let_go, stuck) = mpsc::channel();
        let (logger, lines) = start_log_to(Stuck(stuck, page.clone()), Level::Info).unwrap();
        for _ in 0..LOG_LINES_QUEUED_MAX + 100 {
            slog::info!(logger, "many");
        }
        assert!(
            (99..=100).contains(&lines.dropped()),
            "one line may be with the writer: {}",
            lines.dropped()
        );
        drop(let_go);
        // The queue drains now; lines after that are written, and the loss is said.
        assert!((0..10_000_000).any(|_| lines.flush(Duration::from_secs(10))));
        slog::info!(logger, "again");
        lines.flush(Duration::from_secs(10));
        let said = page.lines();
        assert!(
            said.iter().any(|line| line["dropped-total"].as_u64() >= Some(99)),
            "{:?}",
            said.last()
        );
        assert_eq!(said.last().unwrap()["msg"], "again");
    }

    #[test]
    fn timestamps_are_utc_with_milliseconds() {
        let at = |ms| rfc3339(UNIX_EPOCH + Duration::from_millis(ms));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_772_323_200_005), "2026-03-01T00:00:00.005Z");
        assert_eq!(at(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
