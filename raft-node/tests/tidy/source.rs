//! A Rust file as `tidy` sees it: the text, the code without comments and literals, and the code without tests.
//!
//! A lexer of the few things that matter, not a parser: the rules are about words, braces and lines, and must
//! hold for macros' bodies too, which a parser would not look into. Positions never move: what is taken away
//! is replaced by spaces, so that line numbers stay true.

/// One file of the tree.
pub struct Source {
    /// Relative to the workspace, with forward slashes.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Comments, strings and characters blanked.
    pub code: String,
    /// `code` with everything under `#[cfg(test)]` blanked; empty for files of tests.
    pub shipped: String,
    /// Lines that are not tests.
    pub shipped_lines: usize,
}

impl Source {
    /// Reads `text` as the file at `path`.
    pub fn new(path: &str, text: &str) -> Source {
        let code = code_of(text);
        let (shipped, test_lines) = if is_test(path) {
            (String::new(), text.lines().count())
        } else {
            without_tests(&code)
        };
        let shipped_lines = text.lines().count() - test_lines;
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            shipped,
            shipped_lines,
        }
    }

    /// What only tests say, strings included.
    pub fn test_text(&self) -> String {
        let shipped = self.shipped.bytes().chain(std::iter::repeat(b' '));
        // Blanked code may be a comment or a string of shipped code: those are no words of tests either,
        // so a line counts as a test's only if nothing of it is shipped.
        let mut text = String::new();
        let mut shipped = shipped;
        for line in self.text.split_inclusive('\n') {
            let mut is_test = true;
            for _ in 0..line.len() {
                is_test &= shipped.next().is_some_and(|byte| byte.is_ascii_whitespace());
            }
            if is_test {
                text.push_str(line);
            }
        }
        text
    }
}

/// Whether a path holds nothing but tests.
pub fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "benches") || path.ends_with("/tests.rs")
}

/// Comments, strings and characters become spaces, one for each byte; newlines stay.
pub fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end == at {
            code.push(if bytes[at].is_ascii() { bytes[at] } else { b' ' });
            at += 1;
            continue;
        }
        code.extend(
            bytes[at..end]
                .iter()
                .map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
        );
        at = end;
    }
    String::from_utf8(code).expect("only ASCII was pushed")
}

/// Where the comment, string or character that begins at `at` ends; `at` itself where none begins.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let after_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment(rest),
        [b'"', ..] => at + quoted(rest, 1),
        [b'b' | b'c', b'"', ..] if !after_word => at + quoted(rest, 2),
        [b'r', b'"' | b'#', ..] if !after_word => at + raw(rest, 1),
        [b'b' | b'c', b'r', b'"' | b'#', ..] if !after_word => at + raw(rest, 2),
        [b'b', b'\'', ..] if !after_word => at + 1 + character(&rest[1..]),
        [b'\'', ..] => at + character(rest),
        _ => at,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[u8], body: usize) -> usize {
    let mut at = body;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw(rest: &[u8], hashes_from: usize) -> usize {
    let hashes = rest[hashes_from..].iter().take_while(|byte| **byte == b'#').count();
    let body = hashes_from + hashes + 1;
    if rest.get(body - 1) != Some(&b'"') {
        // A raw identifier.
        return 0;
    }
    let mut end = vec![b'"'];
    end.resize(hashes + 1, b'#');
    let found = rest[body..].windows(end.len()).position(|window| window == end);
    found.map_or(rest.len(), |at| body + at + end.len())
}

/// A character; a lifetime (no second quote behind one character) is code.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let close = rest.iter().skip(3).position(|byte| *byte == b'\'');
        return close.map_or(rest.len(), |at| at + 4);
    }
    let text = std::str::from_utf8(&rest[1..rest.len().min(5)])
        .or_else(|error| std::str::from_utf8(&rest[1..=error.valid_up_to()]));
    let width = text.ok().and_then(|text| text.chars().next()).map_or(1, char::len_utf8);
    if rest.get(1 + width) == Some(&b'\'') {
        width + 2
    } else {
        0
    }
}

/// The code with every item under `#[cfg(test)]` blanked, and how many lines that were.
pub fn without_tests(code: &str) -> (String, usize) {
    const MARK: &str = "#[cfg(test)]";
    let (mut shipped, mut lines, mut from) = (String::with_capacity(code.len()), 0, 0);
    while let Some(start) = code[from..].find(MARK).map(|at| from + at) {
        let end = item_end(code, start + MARK.len());
        shipped.push_str(&code[from..start]);
        shipped.extend(
            code[start..end]
                .chars()
                .map(|letter| if letter == '\n' { '\n' } else { ' ' }),
        );
        lines += code[start..end].matches('\n').count() + 1;
        from = end;
    }
    shipped.push_str(&code[from..]);
    (shipped, lines)
}

/// Behind the first `;` or the brace that closes the first `{`.
fn item_end(code: &str, from: usize) -> usize {
    match code[from..].find([';', '{']).map(|at| from + at) {
        Some(at) if code.as_bytes()[at] == b'{' => closing(code, at),
        Some(at) => at + 1,
        None => code.len(),
    }
}

/// Behind the brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_i32;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// A word of code and what stands around it, spaces left out.
#[derive(Clone, Copy, Debug)]
pub struct Word<'a> {
    pub text: &'a str,
    pub line: usize,
    before: &'a str,
    after: &'a str,
}

impl<'a> Word<'a> {
    /// Whether `text` follows.
    pub fn is_followed_by(&self, text: &str) -> bool {
        self.after.trim_start().starts_with(text)
    }

    /// Whether `text` precedes.
    pub fn is_preceded_by(&self, text: &str) -> bool {
        self.before.trim_end().ends_with(text)
    }

    /// What follows.
    pub fn rest(&self) -> &'a str {
        self.after
    }
}

/// Every identifier, keyword and number of the code.
pub fn words(code: &str) -> impl Iterator<Item = Word<'_>> {
    let (mut at, mut line) = (0, 1);
    std::iter::from_fn(move || {
        let bytes = code.as_bytes();
        while at < bytes.len() && !is_word(bytes[at]) {
            line += usize::from(bytes[at] == b'\n');
            at += 1;
        }
        let start = at;
        at += bytes[at..].iter().take_while(|byte| is_word(**byte)).count();
        (start < at).then(|| Word {
            text: &code[start..at],
            line,
            before: &code[..start],
            after: &code[at..],
        })
    })
}

/// Name, first line and number of lines of every function with a body.
pub fn functions(code: &str) -> Vec<(&str, usize, usize)> {
    let named = words(code)
        .zip(words(code).skip(1))
        .filter(|(word, name)| word.text == "fn" && name.is_preceded_by("fn"));
    named
        .filter_map(|(word, name)| body_lines(name.rest()).map(|lines| (name.text, word.line, lines)))
        .collect()
}

/// Lines from here to the end of the body; none for a declaration. Brackets of arguments, array types and the
/// like may hold `;` and braces, so only those outside of brackets count.
fn body_lines(rest: &str) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(rest[..closing(rest, at)].matches('\n').count() + 1),
            _ => {}
        }
    }
    None
}

#[test]
fn comments_strings_and_characters_are_no_code() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"a("b\"c")d"#, r"a(      )d"),
        ("r#\"a\"b\"#c", "        c"),
        ("br\"a\\\" b", "       b"),
        ("'a' 'b '\\'' b'\\n' x", "    'b            x"),
        ("<'a>('\u{e9}')", "<'a>(    )"),
        ("r#type for_r\"x\"", "r#type for_r   "),
    ];
    for (text, code) in cases {
        assert_eq!(code_of(text), code, "{text}");
    }
}

#[test]
fn tests_are_not_shipped() {
    let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { {} }\n}\nfn c() {}\n#[cfg(test)]\nmod d;\nfn e() {}\n";
    let (shipped, lines) = without_tests(code);
    let left: Vec<_> = words(&shipped)
        .filter(|word| word.text != "fn")
        .map(|word| (word.text, word.line))
        .collect();
    assert_eq!(left, [("a", 1), ("c", 6), ("e", 9)]);
    assert_eq!(lines, 6);
    assert_eq!(Source::new("kv/tests/x.rs", code).shipped_lines, 0);
    assert!(Source::new("kv/src/x.rs", code).test_text().contains("fn b()"));
    assert!(!Source::new("kv/src/x.rs", code).test_text().contains("fn c()"));
}

#[test]
fn functions_have_lengths() {
    let code = "trait T { fn a(&self) -> [u8; 3]; }\nfn b(x: [u8; 2]) -> u8\nwhere T: Sized\n{\n  if x {}\n}\nlet f: fn(u8) = g;\n";
    assert_eq!(functions(code), [("b", 2, 5)]);
}
