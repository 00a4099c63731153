//! Many small rows in one piece of memory, which lives as long as any of them: an allocation each, and what an allocator
//! and a count of references cost with it, is more than the copy of a small row.

use bytes::{Bytes, BytesMut};

/// See the file's essay.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    free: BytesMut,
    /// Of the next piece, as long as no row is larger.
    bytes: usize,
}

impl Arena {
    /// The first row has its own piece: most scans end there.
    const SECOND_BYTES: usize = 4 << 10;
    const BYTES_MAX: usize = 64 << 10;

    /// Where the next row is to be written, of exactly so many bytes; [`Arena::take`] ends it.
    pub(crate) fn room(&mut self, bytes: usize) -> &mut BytesMut {
        if self.free.capacity() < bytes {
            self.free = BytesMut::with_capacity(bytes.max(self.bytes));
            self.bytes = (2 * self.bytes).clamp(Self::SECOND_BYTES, Self::BYTES_MAX);
        }
        &mut self.free
    }

    /// What was written since the last call.
    pub(crate) fn take(&mut self) -> Bytes {
        self.free.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_share_pieces_and_large_ones_have_their_own() {
        let mut arena = Arena::default();
        let mut row = |bytes: usize| {
            arena.room(bytes).resize(bytes, bytes as u8);
            arena.take()
        };
        let (first, second, third) = (row(10), row(20), row(30));
        assert_ne!(first.as_ptr().wrapping_add(10), second.as_ptr());
        assert_eq!(second.as_ptr().wrapping_add(20), third.as_ptr());
        let large = row(1 << 20);
        assert_eq!((large.len(), &third[..]), (1 << 20, &[30; 30][..]));
    }
}
