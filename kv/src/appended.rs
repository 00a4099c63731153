//! The events of a batch, which come in order: no hash finds them, and nothing sorts them.

use crate::touched::Held;
use bytes::Bytes;

/// See the file's essay.
#[derive(Debug, Default)]
pub(crate) struct Appended {
    rows: Vec<(Bytes, Held)>,
}

impl Appended {
    /// With room for so many rows.
    pub(crate) fn with_room(rows: usize) -> Self {
        Self {
            rows: Vec::with_capacity(rows),
        }
    }

    /// Adds a row behind all others.
    pub(crate) fn push(&mut self, key: Bytes, row: Bytes) {
        assert!(
            self.rows.last().is_none_or(|(last, _)| *last < key),
            "an event is older than the one before it"
        );
        self.rows.push((key, Some(row)));
    }

    /// The row, if it is one of these.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Held> {
        let position = self.rows.binary_search_by(|(own, _)| own[..].cmp(key)).ok()?;
        Some(&self.rows[position].1)
    }

    /// The rows of `[from, to)`.
    pub(crate) fn in_range(&self, from: &[u8], to: Option<&[u8]>) -> impl Iterator<Item = (&Bytes, &Held)> {
        let below = |key: &[u8]| self.rows.partition_point(|(own, _)| own[..] < *key);
        let end = to.map_or(self.rows.len(), below);
        let rows = self.rows.get(below(from)..end).unwrap_or_default();
        rows.iter().map(|(key, row)| (key, row))
    }

    /// All of them.
    pub(crate) fn into_rows(self) -> impl Iterator<Item = (Bytes, Held)> {
        self.rows.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_one_by_one_and_by_range() {
        let mut appended = Appended::with_room(2);
        for key in ["b", "d", "f"] {
            appended.push(key.into(), format!("row of {key}").into());
        }
        assert_eq!(appended.get(b"d"), Some(&Some("row of d".into())));
        assert_eq!(appended.get(b"e"), None);
        let keys = |from: &str, to: Option<&str>| {
            let rows = appended.in_range(from.as_bytes(), to.map(str::as_bytes));
            rows.map(|(key, _)| key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(keys("", None), ["b", "d", "f"]);
        assert_eq!(keys("c", Some("f")), ["d"]);
        assert_eq!(keys("f", Some("c")), [""; 0]);
        assert_eq!(appended.into_rows().count(), 3);
    }
}
