//! What a (key, range_end) pair selects. This is the only place that knows etcd's three spellings:
//! `range_end` empty is the single key, `"\0"` is every key from `key` on, anything else is an exclusive
//! end. (`key` and `range_end` both `"\0"` is the whole keyspace: it falls out of the second.)

use bytes::Bytes;

/// A half-open interval of keys, as the client asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyRange {
    /// One key.
    Key(Bytes),
    /// `from <= key < to`; selects nothing when `to <= from`.
    Between(Bytes, Bytes),
    /// `from <= key`.
    From(Bytes),
}

impl KeyRange {
    /// Reads the pair as etcd does. Never fails: an inverted range is an empty one, not an error.
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        match range_end.as_ref() {
            [] => Self::Key(key),
            [0] => Self::From(key),
            _ => Self::Between(key, range_end),
        }
    }

    /// The first key that can be selected.
    pub fn from(&self) -> &Bytes {
        match self {
            Self::Key(from) | Self::Between(from, _) | Self::From(from) => from,
        }
    }

    /// The first key behind the range, or `None` when it has no end. For a single key that is `key + "\0"`.
    pub fn to(&self) -> Option<Bytes> {
        match self {
            Self::Key(key) => Some(Bytes::from([key.as_ref(), &[0]].concat())),
            Self::Between(_, to) => Some(to.clone()),
            Self::From(_) => None,
        }
    }

    /// Whether `key` is selected.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => only == key,
            Self::Between(from, to) => from.as_ref() <= key && key < to.as_ref(),
            Self::From(from) => from.as_ref() <= key,
        }
    }

    /// Whether no key can be selected.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Between(from, to) if to <= from)
    }

    /// Whether some key is selected by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let starts_before_end = |a: &Self, b: &Self| b.to().is_none_or(|end| a.from() < &end);
        !self.is_empty() && !other.is_empty() && starts_before_end(self, other) && starts_before_end(other, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static str, end: &'static str) -> KeyRange {
        KeyRange::new(Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()))
    }

    #[test]
    fn the_three_spellings() {
        assert_eq!(range("a", ""), KeyRange::Key("a".into()));
        assert_eq!(range("a", "\0"), KeyRange::From("a".into()));
        assert_eq!(range("a", "c"), KeyRange::Between("a".into(), "c".into()));
        assert!(range("\0", "\0").contains(b"\xff\xff"));
        assert!(!range("\0", "\0").contains(b""));
    }

    #[test]
    fn an_inverted_range_is_empty() {
        for empty in [range("c", "a"), range("c", "c")] {
            assert!(empty.is_empty());
            assert!(!empty.contains(b"b") && !empty.contains(b"c"));
            assert!(!empty.overlaps(&range("a", "\0")));
        }
    }

    #[test]
    fn overlap_is_a_shared_key() {
        assert!(range("b", "").overlaps(&range("a", "c")));
        assert!(!range("c", "").overlaps(&range("a", "c")));
        assert!(range("z", "\0").overlaps(&range("a", "\0")));
        assert!(!range("a", "b").overlaps(&range("b", "c")));
        assert!(range("a", "").overlaps(&range("a", "")));
        assert!(!range("a", "").overlaps(&range("a\0", "")));
    }
}
