//! Dependencies are what `deny.toml` says they are: permissive licences, crates.io only, no surprise
//! duplicates, and no exception that outlived its reason.
//!
//! An offline stand-in for `cargo deny check licenses bans sources`: it reads the same file and asks only
//! `cargo metadata`. It is not a check for new advisories; that needs the advisory database and is
//! `cargo deny check advisories` on a machine that can fetch it.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    PathBuf::from(here)
        .parent()
        .expect("the workspace is one up")
        .to_owned()
}

/// The values of `key = "..."` in the lines of the list `name = [ ... ]`; without a key, all that is quoted.
fn list(toml: &str, name: &str, key: Option<&str>) -> Vec<String> {
    let start = toml
        .find(&format!("\n{name} = ["))
        .unwrap_or_else(|| panic!("deny.toml has no list {name}"));
    let body = &toml[start..];
    let body = &body[..body.find("\n]").unwrap_or_else(|| panic!("the list {name} has no end"))];
    let rows = body.lines().skip(2).map(str::trim).filter(|row| !row.starts_with('#'));
    rows.filter_map(|row| {
        let from = match key {
            Some(key) => row.find(&format!("{key} = \"")).map(|at| at + key.len() + 4),
            None => row.find('"').map(|at| at + 1),
        };
        let rest = &row[from?..];
        Some(rest[..rest.find('"')?].to_owned())
    })
    .collect()
}

struct Package {
    name: String,
    version: String,
    licence: String,
    source: Option<String>,
}

/// What this machine's builds really use, build and test dependencies included.
fn packages() -> Vec<Package> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--offline",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            &platform,
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = metadata["resolve"]["nodes"].as_array().expect("a resolved graph");
    let used: BTreeSet<String> = nodes.iter().map(|node| text(&node["id"])).collect();
    let all = metadata["packages"].as_array().expect("packages").iter();
    all.filter(|package| used.contains(&text(&package["id"])))
        .map(|package| Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: text(&package["license"]),
            source: package["source"].as_str().map(str::to_owned),
        })
        .collect()
}

/// An SPDX expression, decided with the licences that are allowed; notes those that it needed.
struct Expression<'a> {
    tokens: Vec<&'a str>,
    allowed: &'a BTreeSet<String>,
    needed: BTreeSet<String>,
}

impl<'a> Expression<'a> {
    /// Which allowed licences satisfy the expression; `None` where none do.
    fn needs(text: &'a str, allowed: &'a BTreeSet<String>) -> Option<BTreeSet<String>> {
        // Before SPDX a slash meant "or". Brackets become words of their own.
        let mut tokens = Vec::new();
        for word in text.split([' ', '/']).filter(|word| !word.is_empty()) {
            let opened = word.trim_start_matches('(');
            let closed = opened.trim_end_matches(')');
            tokens.extend(std::iter::repeat_n("(", word.len() - opened.len()));
            tokens.push(closed);
            tokens.extend(std::iter::repeat_n(")", opened.len() - closed.len()));
        }
        // `A/B`: two names side by side.
        let mut spelled: Vec<&str> = Vec::new();
        for token in tokens {
            let is_name = |token: &str| !["AND", "OR", "WITH", "(", ")"].contains(&token);
            if is_name(token) && spelled.last().is_some_and(|last| is_name(last)) {
                spelled.push("OR");
            }
            spelled.push(token);
        }
        spelled.reverse();
        let mut expression = Expression {
            tokens: spelled,
            allowed,
            needed: BTreeSet::new(),
        };
        let satisfied = expression.any() && expression.tokens.is_empty();
        satisfied.then_some(expression.needed)
    }

    fn any(&mut self) -> bool {
        let mut satisfied = self.all();
        while self.tokens.pop_if(|token| *token == "OR").is_some() {
            satisfied |= self.all();
        }
        satisfied
    }

    fn all(&mut self) -> bool {
        let mut satisfied = self.one();
        while self.tokens.pop_if(|token| *token == "AND").is_some() {
            satisfied &= self.one();
        }
        satisfied
    }

    fn one(&mut self) -> bool {
        let Some(name) = self.tokens.pop() else { return false };
        if name == "(" {
            let satisfied = self.any();
            return self.tokens.pop() == Some(")") && satisfied;
        }
        let with = self
            .tokens
            .pop_if(|token| *token == "WITH")
            .and_then(|_| self.tokens.pop());
        let name = with.map_or(name.to_owned(), |exception| format!("{name} WITH {exception}"));
        let satisfied = self.allowed.contains(&name);
        if satisfied {
            self.needed.insert(name);
        }
        satisfied
    }
}

fn deny_toml() -> String {
    std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml is in the tree")
}

#[test]
fn every_licence_is_allowed_and_every_allowance_needed() {
    let allowed: BTreeSet<String> = list(&deny_toml(), "allow", None).into_iter().collect();
    let mut needed = BTreeSet::new();
    for package in packages() {
        let found = Expression::needs(&package.licence, &allowed);
        let Package {
            name, version, licence, ..
        } = package;
        needed.extend(found.unwrap_or_else(|| panic!("{name} {version}: licence `{licence}` is not allowed")));
    }
    let unused: Vec<_> = allowed.difference(&needed).collect();
    assert!(
        unused.is_empty(),
        "deny.toml allows licences that nobody uses: {unused:?}"
    );
}

#[test]
fn everything_comes_from_crates_io_or_the_tree() {
    for package in packages() {
        let source = package.source.as_deref().unwrap_or(CRATES_IO);
        assert_eq!(source, CRATES_IO, "{} {}", package.name, package.version);
    }
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is in the tree");
    for line in lock.lines().filter_map(|line| line.strip_prefix("source = ")) {
        assert_eq!(line.trim_matches('"'), CRATES_IO, "Cargo.lock");
    }
}

#[test]
fn duplicates_are_the_known_ones() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(package.name).or_default().insert(package.version);
    }
    let found: BTreeSet<String> = versions
        .into_iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, _)| name)
        .collect();
    let known: BTreeSet<String> = list(&deny_toml(), "skip", Some("crate")).into_iter().collect();
    let new: Vec<_> = found.difference(&known).collect();
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(
        new.is_empty(),
        "new duplicates, to be avoided or to be listed in deny.toml: {new:?}"
    );
    assert!(gone.is_empty(), "deny.toml lists duplicates that are none: {gone:?}");
}

#[test]
fn accepted_advisories_are_about_crates_that_we_have() {
    let names: BTreeSet<String> = packages().into_iter().map(|package| package.name).collect();
    let toml = deny_toml();
    let ids = list(&toml, "ignore", Some("id"));
    let reasons = list(&toml, "ignore", Some("reason"));
    assert_eq!(ids.len(), reasons.len(), "every accepted advisory has a reason");
    for (id, reason) in ids.iter().zip(&reasons) {
        let (name, why) = reason
            .split_once(": ")
            .unwrap_or_else(|| panic!("{id}: the reason begins with the crate"));
        assert!(
            names.contains(name),
            "{id} is about {name}, which is gone: remove it from deny.toml"
        );
        assert!(why.len() > 20, "{id}: why is it harmless?");
    }
}

#[test]
fn the_licence_of_dipper_is_apaches_in_full() {
    let licence = std::fs::read_to_string(root().join("LICENSE")).expect("LICENSE is in the tree");
    assert!(licence.trim_start().starts_with("Apache License"));
    assert!(licence.contains("END OF TERMS AND CONDITIONS"));
}

#[test]
fn the_checkers_can_fail() {
    let allowed: BTreeSet<String> = ["MIT", "Zlib"].map(str::to_owned).into();
    let needs = |text| Expression::needs(text, &allowed).map(|needed| needed.into_iter().collect::<Vec<_>>().join(" "));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(needs("MIT"), some("MIT"));
    assert_eq!(needs("GPL-3.0 OR MIT"), some("MIT"));
    assert_eq!(needs("MIT/GPL-3.0"), some("MIT"));
    assert_eq!(needs("GPL-3.0 / MIT"), some("MIT"));
    assert_eq!(needs("(MIT OR GPL-3.0) AND Zlib"), some("MIT Zlib"));
    assert_eq!(needs("MIT AND Zlib OR GPL-3.0"), some("MIT Zlib"));
    for refused in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR Zlib) AND GPL-3.0",
        "MIT WITH exception",
        "(MIT",
        "MIT)",
    ] {
        assert_eq!(needs(refused), None, "{refused}");
    }
    let toml = "\n[x]\nallow = [\n    # \"No\",\n    \"A\",\n    \"B\",\n]\nskip = [\n    { crate = \"c\", reason = \"r\" },\n]\n";
    assert_eq!(list(toml, "allow", None), ["A", "B"]);
    assert_eq!(list(toml, "skip", Some("crate")), ["c"]);
    assert_eq!(list(toml, "skip", Some("reason")), ["r"]);
}
