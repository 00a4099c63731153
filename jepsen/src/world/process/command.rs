//! The system's own tools (`ip`, `nft`, `ping`, `mount`, ...), run to their end with a limit of time.
//!
//! Why tools and not netlink: what they do can be repeated by hand from the line that an error shows, and the
//! scripts in `jepsen/scripts` use the same ones. Not here: members, which live longer than a command
//! (`member`).

use std::{
    fmt,
    io::{self, Read, Write},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longer than any tool here needs on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(20);

/// Why a world, a fault or a scenario could not go on.
#[derive(Debug)]
pub enum Error {
    /// This machine lacks something: the scenario is not run, and says so.
    Skipped(String),
    /// It was run and did not hold, or the harness itself is broken: never a success.
    Failed(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped(why) => write!(f, "skipped: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

pub fn failed<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Failed(why.into()))
}

/// Runs a line of words; its output if it succeeds.
pub fn run(line: &str) -> Result<String> {
    run_with(line, "")
}

/// As [`run`], with `input` on its standard input.
pub fn run_with(line: &str, input: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (ok, output) = spawn(&words, input)?;
    if ok {
        return Ok(output);
    }
    failed(format!("`{line}`: {}", output.trim()))
}

/// Whether a line of words succeeds; a program that is not installed does not.
pub fn succeeds(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    spawn(&words, "").is_ok_and(|(ok, _)| ok)
}

fn spawn(words: &[&str], input: &str) -> Result<(bool, String)> {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Error::Failed(format!("{}: {error}", words[0])))?;
    let mut stdin = child.stdin.take().expect("it is piped");
    // A tool that ends without reading has said why on its standard error.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > TIME_MAX {
            child.kill()?;
            child.wait()?;
            return failed(format!("`{}` took longer than {TIME_MAX:?}", words.join(" ")));
        }
        thread::sleep(Duration::from_millis(1));
    };
    let mut output = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut output)?;
    if !status.success() {
        child.stderr.take().expect("it is piped").read_to_string(&mut output)?;
    }
    Ok((status.success(), output))
}

/// Fails as [`Error::Skipped`] unless all of `programs` can be run here.
pub fn need(programs: &[&str]) -> Result<()> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let is_here = |program: &&str| std::env::split_paths(&paths).any(|path| path.join(program).exists());
    match programs.iter().find(|program| !is_here(program)) {
        Some(missing) => Err(Error::Skipped(format!("{missing} is not installed"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_says_what_it_was() {
        assert_eq!(run("echo a b").unwrap(), "a b\n");
        assert_eq!(run_with("cat", "x").unwrap(), "x");
        let error = run("ls /this-is-nowhere").unwrap_err().to_string();
        assert!(
            error.contains("ls /this-is-nowhere") && error.contains("No such file"),
            "{error}"
        );
        assert!(!succeeds("false"));
        assert!(
            matches!(need(&["ls", "no-such-program"]), Err(Error::Skipped(why)) if why.contains("no-such-program"))
        );
    }
}
