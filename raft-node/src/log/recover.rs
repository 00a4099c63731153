//! The judgement of what a disk gave back: a whole log, a log with a torn tail to cut, or a damaged one.
//!
//! ```text
//!   found                                              verdict
//!   term or vote below MARK's                          damaged: a vote was forgotten
//!   an entry up to MARK missing, broken or another     damaged: an acknowledgement may have been forgotten
//!   commit behind the last entry                       damaged: entries that were there once are not
//!   the storage engine cannot read a row               damaged, wherever it lies: a torn tail reads as absent
//!   a gap or broken row behind MARK                    torn tail: cut from there
//! ```
//!
//! Pure: rows come in as an iterator, so every line of the table is a unit test without a disk. Entries below the
//! one the log was truncated at are covered by the state machine and are not asked for.

use super::mark::Mark;
use super::row::{Link, decode_entry};
use super::{HardState, InstallIntent};
use std::path::Path;

/// What a log says of itself outside its entries.
#[derive(Debug, Default)]
pub struct Notes {
    pub(super) hard_state: HardState,
    pub(super) truncated: Link,
    pub(super) install_intent: Option<InstallIntent>,
}

/// A log that may be used: entries up to `last`, once the rows behind it are removed.
#[derive(Debug, PartialEq)]
pub struct Judged {
    pub(super) last: Link,
    pub(super) torn_rows: u64,
}

/// Judges a log by MARK; `rows` are the entry rows behind the truncation in order, or why one cannot be read.
pub(super) fn judge(
    mark: Mark,
    notes: &Notes,
    rows: impl Iterator<Item = Result<(u64, Box<[u8]>), String>>,
) -> Result<Judged, String> {
    judge_vote(mark, &notes.hard_state)?;
    let judged = walk(mark, notes.truncated, rows)?;
    let reached = judged.last;
    if reached.id.index < mark.entry.index {
        return Err(format!(
            "MARK says {:?} was synced, but the log ends at {:?}",
            mark.entry, reached.id
        ));
    }
    let covered = notes
        .install_intent
        .as_ref()
        .map_or(0, |intent| intent.index)
        .max(reached.id.index);
    if notes.hard_state.commit > covered {
        return Err(format!(
            "entry {} was committed, but the log ends at {:?}",
            notes.hard_state.commit, reached.id
        ));
    }
    Ok(judged)
}

fn judge_vote(mark: Mark, found: &HardState) -> Result<(), String> {
    let forgotten = found.term < mark.term || (found.term == mark.term && mark.vote != 0 && found.vote != mark.vote);
    if !forgotten {
        return Ok(());
    }
    let (term, vote) = (mark.term, mark.vote);
    Err(format!(
        "MARK says term {term} and vote {vote} were synced, but the log has {} and {}",
        found.term, found.vote
    ))
}

fn walk(
    mark: Mark,
    truncated: Link,
    rows: impl Iterator<Item = Result<(u64, Box<[u8]>), String>>,
) -> Result<Judged, String> {
    let mut judged = Judged {
        last: truncated,
        torn_rows: 0,
    };
    judge_link(mark, truncated)?;
    for row in rows {
        let (index, row) = row?;
        if judged.torn_rows > 0 {
            judged.torn_rows += 1;
            continue;
        }
        match decode_entry(index, &row, Some(judged.last)) {
            Ok((_, link)) => {
                judge_link(mark, link)?;
                judged.last = link;
            }
            Err(why) if judged.last.id.index < mark.entry.index => {
                return Err(format!("entry {index}, which MARK says was synced, is broken: {why}"));
            }
            Err(_) => judged.torn_rows = 1,
        }
    }
    Ok(judged)
}

fn judge_link(mark: Mark, found: Link) -> Result<(), String> {
    if found.id.index != mark.entry.index || found == mark.link() {
        return Ok(());
    }
    let (expected, chain) = (mark.entry, mark.chain);
    Err(format!(
        "MARK says {expected:?} with chain {chain:016x} was synced, but the log has {found:?}"
    ))
}

/// What an operator reads when a log is damaged: what was expected and found, which files, and the way back.
pub(super) fn damage_text(directory: &Path, what: &str, complaints: &[String]) -> String {
    let complaints = complaints.join("; ");
    let complaints = if complaints.is_empty() {
        String::new()
    } else {
        format!(" RocksDB said: {complaints}.")
    };
    format!(
        "the Raft log in {} cannot be used: {what}.{complaints} A member with a damaged log must not vote, since it may \
         have forgotten what it acknowledged. If the disk is sound again: remove this member from the cluster, delete \
         its data directory, and add it again as a new member; the other members are not affected and hold all its \
         data. The only member of a cluster is restored from a backup.",
        directory.display()
    )
}

#[cfg(test)]
mod tests {
    use super::super::EntryId;
    use super::super::row::encode_entry;
    use super::*;
    use raft::eraftpb::Entry;

    type Rows = Vec<(u64, Box<[u8]>)>;

    /// Rows of entries 1 to `last`, and the link behind each.
    fn rows(last: u64) -> (Rows, Vec<Link>) {
        let (mut rows, mut links, mut row) = (Rows::new(), vec![Link::default()], Vec::new());
        for index in 1..=last {
            let entry = Entry {
                index,
                term: 1 + index / 4,
                data: vec![index as u8; 9].into(),
                ..Entry::default()
            };
            links.push(encode_entry(links[links.len() - 1], &entry, &mut row));
            rows.push((index, row.clone().into_boxed_slice()));
        }
        (rows, links)
    }

    fn verdict(mark: Mark, notes: &Notes, rows: Rows) -> Result<Judged, String> {
        judge(mark, notes, rows.into_iter().map(Ok))
    }

    fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
        HardState {
            term,
            vote,
            commit,
            ..HardState::default()
        }
    }

    #[test]
    fn a_break_is_damage_up_to_mark_and_a_torn_tail_behind_it() {
        for (mark_at, broken_at) in (0..=10).flat_map(|mark| (1..=10).map(move |broken| (mark, broken))) {
            let breaks: [fn(&mut Rows, usize); 4] = [
                |rows, at| drop(rows.remove(at)),
                |rows, at| rows[at].1[15] ^= 1,
                |rows, at| rows[at].1 = Box::default(),
                |rows, at| rows[at].1 = encoded_alone(at as u64 + 1),
            ];
            for (kind, broken) in breaks.iter().enumerate() {
                let (mut rows, links) = rows(10);
                broken(&mut rows, broken_at - 1);
                let mark = Mark::new(links[mark_at], &HardState::default());
                let verdict = verdict(mark, &Notes::default(), rows);
                if broken_at <= mark_at {
                    assert!(
                        verdict.is_err(),
                        "mark {mark_at}, break {kind} at {broken_at}: {verdict:?}"
                    );
                } else {
                    let torn_rows = 10 - (broken_at as u64 - 1) - u64::from(kind == 0);
                    assert_eq!(
                        verdict,
                        Ok(Judged {
                            last: links[broken_at - 1],
                            torn_rows
                        }),
                        "break {kind}"
                    );
                }
            }
        }
    }

    /// A row that is whole, but of another history.
    fn encoded_alone(index: u64) -> Box<[u8]> {
        let (mut row, entry) = (
            Vec::new(),
            Entry {
                index,
                term: 9,
                ..Entry::default()
            },
        );
        encode_entry(
            Link {
                chain: 77,
                ..Link::default()
            },
            &entry,
            &mut row,
        );
        row.into_boxed_slice()
    }

    #[test]
    fn a_forgotten_vote_is_damage() {
        let mark = Mark {
            term: 5,
            vote: 2,
            ..Mark::default()
        };
        let found = |term, vote| Notes {
            hard_state: hard_state(term, vote, 0),
            ..Notes::default()
        };
        for (term, vote, accepted) in [
            (5, 2, true),
            (6, 0, true),
            (6, 3, true),
            (5, 0, false),
            (5, 3, false),
            (4, 2, false),
            (0, 0, false),
        ] {
            let verdict = verdict(mark, &found(term, vote), Vec::new());
            assert_eq!(verdict.is_ok(), accepted, "term {term} vote {vote}: {verdict:?}");
        }
        let no_vote = Mark {
            term: 5,
            ..Mark::default()
        };
        assert!(
            verdict(no_vote, &found(5, 3), Vec::new()).is_ok(),
            "a vote behind MARK is no contradiction"
        );
    }

    #[test]
    fn a_commit_behind_the_end_is_damage_unless_a_snapshot_brings_it() {
        let (rows, _) = rows(4);
        let mut notes = Notes {
            hard_state: hard_state(2, 0, 5),
            ..Notes::default()
        };
        assert!(verdict(Mark::default(), &notes, rows.clone()).is_err());
        notes.install_intent = Some(InstallIntent {
            index: 5,
            term: 2,
            directory: String::new(),
        });
        assert!(verdict(Mark::default(), &notes, rows).is_ok());
    }

    #[test]
    fn a_truncation_covers_mark_below_it() {
        let (mut rows, links) = rows(10);
        let notes = Notes {
            truncated: links[6],
            ..Notes::default()
        };
        rows.drain(..6);
        for mark_at in 0..=10 {
            let mark = Mark::new(links[mark_at], &HardState::default());
            assert_eq!(
                verdict(mark, &notes, rows.clone()),
                Ok(Judged {
                    last: links[10],
                    torn_rows: 0
                })
            );
        }
        let other = Mark {
            chain: 1,
            entry: EntryId {
                index: 6,
                term: links[6].id.term,
            },
            ..Mark::default()
        };
        assert!(
            verdict(other, &notes, rows.clone()).is_err(),
            "the same entry with another history"
        );
        let unreadable = rows.into_iter().map(Ok).chain([Err("bad block".to_owned())]);
        assert_eq!(judge(Mark::default(), &notes, unreadable), Err("bad block".to_owned()));
    }
}
