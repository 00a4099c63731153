//! A range in pieces, for RangeStream: the state is pinned, the pieces grow towards what a message may hold,
//! and only the last says header, count and `more`, so that the merged pieces equal the one answer.
//!
//! No iterator outlives a piece: each seeks again, so that a slow client holds a snapshot but no files.

use crate::{
    engine::Engine,
    range::{self, At},
    state::header,
    view::View,
};
use bytes::Bytes;
use proto::{
    Error, KeyRange,
    etcdserverpb::{
        RangeRequest, RangeResponse,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};

/// Keys in the first piece: it is on its way before a large range was read.
const FIRST_PIECE_KEYS: usize = 10;

/// The pieces of one range.
pub struct RangeChunks<E: Engine> {
    view: View<E>,
    request: RangeRequest,
    at: At,
    range: KeyRange,
    /// Where the next piece starts; `None` after the last.
    from: Option<Bytes>,
    left: usize,
    keys: usize,
    count: Option<i64>,
}

impl<E: Engine> View<E> {
    /// Starts to answer a range in pieces; the errors are those that are known before the first.
    pub fn range_chunks(&self, request: RangeRequest) -> Result<RangeChunks<E>, Error> {
        let at = self.admit(&request)?;
        if request.sort_order() != SortOrder::None || request.sort_target() != SortTarget::Key {
            return Err(Error::Unimplemented("RangeStream does not support custom sort orders"));
        }
        if range::has_filter(&request) {
            return Err(Error::Unimplemented("RangeStream does not support revision filters"));
        }
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let left = usize::try_from(request.limit)
            .ok()
            .filter(|limit| *limit > 0)
            .unwrap_or(usize::MAX);
        let from = Some(range.from().clone());
        Ok(RangeChunks {
            view: self.clone(),
            request,
            at,
            range,
            from,
            left,
            keys: FIRST_PIECE_KEYS,
            count: None,
        })
    }
}

impl<E: Engine> RangeChunks<E> {
    /// The next piece, of about `bytes_max`; `None` after the last. May read the disk.
    pub fn next_chunk(&mut self, bytes_max: usize) -> Option<Result<RangeResponse, Error>> {
        let from = self.from.take()?;
        Some(self.piece(&from, bytes_max))
    }

    fn piece(&mut self, from: &Bytes, bytes_max: usize) -> Result<RangeResponse, Error> {
        let revision = match self.at {
            At::Latest => self.view.revision(),
            At::Revision(revision) => revision,
        };
        if self.view.is_compacted_by_now(revision) {
            return Err(Error::Compacted);
        }
        let count = match self.count {
            Some(count) => count,
            // Early, while what happened since the revision is still in memory.
            None => self
                .view
                .unless_forgotten(self.at, self.view.count(&self.range, self.at))?,
        };
        self.count = Some(count);
        let mut reply = RangeResponse::default();
        let mut more = false;
        if !self.request.count_only && !self.range.is_empty() {
            let end = self.range.to();
            let read = read_piece(self, from, end.as_deref(), bytes_max)?;
            let bytes: usize = read.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
            self.keys = if bytes * 2 <= bytes_max {
                self.keys * 2
            } else {
                (self.keys / 2).max(1)
            };
            self.left -= read.kvs.len();
            more = read.next.is_some();
            self.from = read.next.filter(|_| self.left > 0);
            reply.kvs = read.kvs;
        }
        if self.from.is_none() {
            reply.header = header(self.view.revision());
            reply.count = count;
            reply.more = more;
        }
        Ok(reply)
    }
}

struct Piece {
    kvs: Vec<KeyValue>,
    /// The first key that did not fit.
    next: Option<Bytes>,
}

fn read_piece<E: Engine>(
    chunks: &RangeChunks<E>,
    from: &[u8],
    to: Option<&[u8]>,
    bytes_max: usize,
) -> Result<Piece, Error> {
    let mut piece = Piece {
        kvs: Vec::new(),
        next: None,
    };
    let keys_max = chunks.keys.min(chunks.left);
    let mut bytes = 0;
    for live in range::scan(&chunks.view.snapshot, from, to, chunks.at) {
        let (key, record) = chunks.view.unless_forgotten(chunks.at, live)?;
        if piece.kvs.len() >= keys_max || (bytes >= bytes_max && !piece.kvs.is_empty()) {
            piece.next = Some(key);
            break;
        }
        let kv = range::answer(&chunks.request, key, &record);
        bytes += kv.key.len() + kv.value.len();
        piece.kvs.push(kv);
    }
    Ok(piece)
}
