//! CATALOGUE.md names scenarios, seeded bugs and files: they exist.

use jepsen::{scenarios::ALL, world::sim::mutant::SEEDED};
use std::path::Path;

const CATALOGUE: &str = include_str!("../CATALOGUE.md");

fn words() -> impl Iterator<Item = &'static str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
    CATALOGUE
        .split(move |letter| !is_part(letter))
        .map(|word| word.trim_end_matches(['.', '/']))
        .filter(|word| !word.is_empty())
}

#[test]
fn every_scenario_is_named_and_every_name_is_one() {
    let mut named: Vec<&str> = words()
        .zip(words().skip(1))
        .filter(|(before, _)| *before == "scenario")
        .map(|(_, name)| name)
        .collect();
    named.sort_unstable();
    named.dedup();
    for name in &named {
        assert!(
            *name == "x" || ALL.iter().any(|scenario| scenario.name == *name),
            "there is no scenario {name}"
        );
    }
    for scenario in ALL.iter().filter(|scenario| scenario.name != "calm") {
        assert!(named.contains(&scenario.name), "{} is in no row", scenario.name);
    }
}

#[test]
fn every_seeded_bug_is_in_a_row() {
    let is_number = |word: &str, kind: char| {
        word.strip_prefix(kind)
            .is_some_and(|digits| !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_digit()))
    };
    let named: Vec<&str> = words()
        .filter(|word| is_number(word, 'm') || is_number(word, 'b'))
        .collect();
    for name in &named {
        assert!(
            SEEDED.iter().any(|seeded| seeded.number == *name),
            "there is no seeded bug {name}"
        );
    }
    assert!(named.len() > 20, "{named:?}");
}

#[test]
fn every_file_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace is one up");
    let files: Vec<&str> = words()
        .filter(|word| word.contains('/') && word.contains(".rs"))
        .collect();
    for file in &files {
        assert!(root.join(file).exists(), "{file} is not there");
    }
    assert!(files.len() > 10, "{files:?}");
}
