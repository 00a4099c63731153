//! txn: compares, then the operations if they hold, then the operations if they do not; three blocks of
//! lines, each ended by an empty line. The grammar is etcdctl's, quirks included.
//!
//! ```text
//! mod("key1") > "0"
//!
//! put key1 "overwrote-key1"
//!
//! put key1 "created-key1"
//! put key2 "some extra key"
//! <empty line>
//! ```

use std::io::{BufRead, Write, stdin, stdout};

use clap::{Args, Parser, Subcommand};
use dipper_client::{Compare, Comparison, etcdserverpb::request_op::Request};

use crate::{
    failure::Failure,
    global::{Global, parse_i64},
    keys::{Del, Get, Put},
    quote::unquoted,
};

#[derive(Debug, Args)]
pub struct Txn {
    #[arg(hide = true)]
    args: Vec<String>,
    /// Input transaction in interactive mode
    #[arg(short, long)]
    interactive: bool,
}

impl Txn {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        if !self.args.is_empty() {
            return Err(Failure::arguments("txn command does not accept argument"));
        }
        let output = global.output()?;
        let client = global.client()?;
        let mut lines = Lines {
            input: stdin().lock(),
            prompt: self.interactive,
        };
        let mut txn = client.txn();
        for line in lines.block("compares:")? {
            txn = txn.when(compare(&line)?);
        }
        for line in lines.block("success requests (get, put, del):")? {
            txn = txn.then(operation(&line)?);
        }
        for line in lines.block("failure requests (get, put, del):")? {
            txn = txn.or_else(operation(&line)?);
        }
        output.txn(&txn.send().await?)
    }
}

struct Lines<I> {
    input: I,
    prompt: bool,
}

impl<I: BufRead> Lines<I> {
    /// The lines up to the next empty one. The input must not end before it.
    fn block(&mut self, prompt: &str) -> Result<Vec<String>, Failure> {
        if self.prompt {
            println!("{prompt}");
            stdout().flush()?;
        }
        let mut block = Vec::new();
        loop {
            let mut line = String::new();
            self.input.read_line(&mut line)?;
            if !line.ends_with('\n') {
                return Err(Failure::input("EOF"));
            }
            match line.trim() {
                "" => return Ok(block),
                text => block.push(text.to_owned()),
            }
        }
    }
}

/// `target("key") op "value"`.
fn compare(line: &str) -> Result<Compare, Failure> {
    let malformed = || Failure::input(format!("malformed comparison: {line}"));
    let (target, rest) = line.split_once('(').ok_or_else(malformed)?;
    let (key, rest) = rest.split_once(')').ok_or_else(malformed)?;
    let (op, value) = rest.trim_start().split_once(' ').ok_or_else(malformed)?;
    let key = unquoted(key.trim()).ok_or_else(malformed)?;
    let value = unquoted(value.trim()).ok_or_else(malformed)?;
    let number = |radix| {
        let text = String::from_utf8_lossy(&value);
        parse_i64(&text, radix).map_err(|_| Failure::input(format!("invalid txn compare request: {line}")))
    };
    match target {
        "ver" | "version" => relate(Compare::version(key), op, number(10)?),
        "c" | "create" => relate(Compare::create_revision(key), op, number(10)?),
        "m" | "mod" => relate(Compare::mod_revision(key), op, number(10)?),
        "val" | "value" => relate(Compare::value(key), op, value),
        "lease" => relate(Compare::lease(key), op, number(16)?),
        _ => {
            return Err(Failure::input(format!(
                "malformed comparison: {line} (unknown target {target})"
            )));
        }
    }
    .ok_or_else(|| Failure::input(format!("invalid txn compare request: {line}")))
}

fn relate<V>(subject: Comparison<V>, op: &str, value: impl Into<V>) -> Option<Compare> {
    Some(match op {
        "=" => subject.equal(value),
        "!=" => subject.not_equal(value),
        ">" => subject.greater(value),
        "<" => subject.less(value),
        _ => return None,
    })
}

/// A line of a request block: the arguments of put, get or del.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(subcommand)]
    operation: Operation,
}

#[derive(Debug, Subcommand)]
enum Operation {
    Put(Put),
    Get(Get),
    Del(Del),
}

fn operation(line: &str) -> Result<Request, Failure> {
    let words = words(line).ok_or_else(|| Failure::input(format!("invalid txn request: {line}")))?;
    if words.len() < 2 {
        return Err(Failure::input(format!("invalid txn compare request: {line}")));
    }
    let parsed = Line::try_parse_from(words).map_err(|_| Failure::input(format!("invalid txn request: {line}")))?;
    Ok(match parsed.operation {
        Operation::Put(put) => Request::RequestPut(put.request()?),
        Operation::Get(get) => Request::RequestRange(get.request()?),
        Operation::Del(del) => Request::RequestDeleteRange(del.request()?),
    })
}

/// Splits at spaces; `"..."` is a Go literal and `'...'` is taken as it stands.
fn words(line: &str) -> Option<Vec<std::ffi::OsString>> {
    use std::os::unix::ffi::OsStringExt;
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, tail) = match first {
            '"' => {
                let end = closing_quote(rest)?;
                (unquoted(&rest[..=end])?, &rest[end + 1..])
            }
            '\'' => {
                let end = rest[1..].find('\'')? + 1;
                (rest.as_bytes()[1..end].to_vec(), &rest[end + 1..])
            }
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest.as_bytes()[..end].to_vec(), &rest[end..])
            }
        };
        words.push(std::ffi::OsString::from_vec(word));
        rest = tail.trim_start();
    }
    Some(words)
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_know_both_quotes() {
        let words = words(r#"put "a \"b" 'c d' e"#).unwrap();
        assert_eq!(words, ["put", "a \"b", "c d", "e"]);
        assert!(super::words("put \"a").is_none());
    }

    #[test]
    fn comparisons_name_their_fault() {
        assert_eq!(
            compare("m(\"k\") > \"3\"").unwrap(),
            Compare::mod_revision("k").greater(3)
        );
        for (line, fault) in [
            ("bogus", "malformed comparison: bogus"),
            (
                "foo(\"a\") = \"1\"",
                "malformed comparison: foo(\"a\") = \"1\" (unknown target foo)",
            ),
            ("mod(\"a\") > \"x\"", "invalid txn compare request: mod(\"a\") > \"x\""),
        ] {
            assert_eq!(compare(line).unwrap_err().message, fault);
        }
    }
}
