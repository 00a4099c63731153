//! Put, get, delete and compact, as builders over etcd's own requests; and pages of a long range, all read
//! at one revision.
//!
//! Not here: transactions (`txn`).

use bytes::Bytes;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, ResponseHeader,
    kv_client::KvClient,
    range_request::{SortOrder, SortTarget},
};

use crate::{Client, Error, client::request_under, route::Endpoint, wire::Wire};

/// The smallest key behind every key that starts with `prefix`, or `"\0"` ("no end") when there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let Some(last) = prefix.iter().rposition(|byte| *byte != 0xff) else {
        return Bytes::from_static(&[0]);
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

/// The pair that selects every key with the prefix `key`; the empty prefix is every key.
pub(crate) fn prefix_pair(key: Bytes) -> (Bytes, Bytes) {
    let end = prefix_end(&key);
    (first_key(key), end)
}

/// etcd refuses an empty key, so "from the start" is spelt `"\0"`.
pub(crate) fn first_key(key: Bytes) -> Bytes {
    if key.is_empty() { Bytes::from_static(&[0]) } else { key }
}

impl Client {
    /// Writes `value` under `key`.
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put<'_> {
        let request = PutRequest {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        };
        Put { client: self, request }
    }

    /// Reads `key`, or a range that starts there.
    pub fn get(&self, key: impl Into<Bytes>) -> Get<'_> {
        Get {
            client: self,
            request: RangeRequest {
                key: key.into(),
                ..Default::default()
            },
        }
    }

    /// Deletes `key`, or a range that starts there.
    pub fn delete(&self, key: impl Into<Bytes>) -> Delete<'_> {
        Delete {
            client: self,
            request: DeleteRangeRequest {
                key: key.into(),
                ..Default::default()
            },
        }
    }

    /// Forgets the history below `revision`. A second compaction at the same revision is an error.
    pub async fn compact(&self, revision: i64) -> Result<CompactionResponse, Error> {
        self.compact_with(CompactionRequest {
            revision,
            physical: false,
        })
        .await
    }

    /// As [`Client::compact`], with every field: `physical` waits until the space is really free.
    pub async fn compact_with(&self, request: CompactionRequest) -> Result<CompactionResponse, Error> {
        self.write(|endpoint, terms| async move { kv(&endpoint).compact(request_under(request, terms)).await })
            .await
    }

    pub(crate) fn note_header(&self, header: Option<&ResponseHeader>) {
        if let Some(header) = header {
            self.route.note_term(header.raft_term);
        }
    }
}

pub(crate) fn kv(endpoint: &Endpoint) -> KvClient<Wire> {
    // The server bounds its replies; a second bound here would only turn them into errors.
    KvClient::new(endpoint.wire.clone()).max_decoding_message_size(usize::MAX)
}

/// A put that is being described; nothing happens before [`Put::send`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent before send()"]
pub struct Put<'a> {
    client: &'a Client,
    request: PutRequest,
}

impl Put<'_> {
    /// Attaches the key to a lease: it is deleted when the lease ends.
    pub fn lease(mut self, id: i64) -> Self {
        self.request.lease = id;
        self
    }

    /// Returns the record that is replaced.
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// Keeps the value of an existing key and replaces its lease only. The value given must be empty.
    pub fn ignore_value(mut self) -> Self {
        self.request.ignore_value = true;
        self
    }

    /// Keeps the lease of an existing key.
    pub fn ignore_lease(mut self) -> Self {
        self.request.ignore_lease = true;
        self
    }

    /// The request as it will be sent.
    pub fn into_request(self) -> PutRequest {
        self.request
    }

    /// Sends it. Errors: every kind; [`Error::UnknownOutcome`] when the put may have happened.
    pub async fn send(self) -> Result<PutResponse, Error> {
        let Self { client, request } = self;
        let answer = client
            .write(|endpoint, terms| {
                let request = request.clone();
                async move { client.attempt(&endpoint, request, terms).await }
            })
            .await?;
        client.note_header(answer.header.as_ref());
        Ok(answer)
    }
}

/// A range read that is being described; nothing happens before [`Get::send`] or [`Get::pages`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent before send()"]
pub struct Get<'a> {
    client: &'a Client,
    request: RangeRequest,
}

impl<'a> Get<'a> {
    /// Every key that starts with the given key.
    pub fn prefix(mut self) -> Self {
        (self.request.key, self.request.range_end) = prefix_pair(self.request.key);
        self
    }

    /// Every key that is not smaller than the given key.
    pub fn from_key(mut self) -> Self {
        self.request.key = first_key(self.request.key);
        self.request.range_end = Bytes::from_static(&[0]);
        self
    }

    /// Every key from the given key up to `end`, which is excluded.
    pub fn range_end(mut self, end: impl Into<Bytes>) -> Self {
        self.request.range_end = end.into();
        self
    }

    /// At most so many keys; 0 is no limit.
    pub fn limit(mut self, keys: i64) -> Self {
        self.request.limit = keys;
        self
    }

    /// As of this revision; 0 is now.
    pub fn revision(mut self, revision: i64) -> Self {
        self.request.revision = revision;
        self
    }

    /// In this order; by key ascending when not called.
    pub fn sort(mut self, target: SortTarget, order: SortOrder) -> Self {
        self.request.sort_target = target.into();
        self.request.sort_order = order.into();
        self
    }

    /// From whatever the asked member has applied: faster, and possibly old.
    pub fn serializable(mut self) -> Self {
        self.request.serializable = true;
        self
    }

    /// Without values.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Only how many there are.
    pub fn count_only(mut self) -> Self {
        self.request.count_only = true;
        self
    }

    /// Only keys last modified in these revisions, both included; 0 leaves a side open.
    pub fn mod_revisions(mut self, min: i64, max: i64) -> Self {
        (self.request.min_mod_revision, self.request.max_mod_revision) = (min, max);
        self
    }

    /// Only keys created in these revisions, both included; 0 leaves a side open.
    pub fn create_revisions(mut self, min: i64, max: i64) -> Self {
        (self.request.min_create_revision, self.request.max_create_revision) = (min, max);
        self
    }

    /// The request as it will be sent.
    pub fn into_request(self) -> RangeRequest {
        self.request
    }

    /// Reads it all in one reply.
    pub async fn send(self) -> Result<RangeResponse, Error> {
        let Self { client, request } = self;
        client
            .read(|endpoint, terms| {
                let request = request.clone();
                async move { client.attempt(&endpoint, request, terms).await }
            })
            .await
    }

    /// Reads it in replies of at most `keys` keys each, in key order and all as of one revision.
    pub fn pages(mut self, keys: i64) -> Pages<'a> {
        self.request.limit = keys;
        Pages { get: Some(self) }
    }
}

/// The pages of a range; the first one fixes the revision.
#[derive(Debug)]
pub struct Pages<'a> {
    get: Option<Get<'a>>,
}

impl Pages<'_> {
    /// The next page, or `None` after the last. After an error it may be called again for the same page.
    pub async fn next(&mut self) -> Option<Result<RangeResponse, Error>> {
        let get = self.get.as_mut()?;
        let page = match get.clone().send().await {
            Ok(page) => page,
            Err(error) => return Some(Err(error)),
        };
        match page.kvs.last() {
            Some(last) if page.more => {
                get.request.key = [last.key.as_ref(), &[0]].concat().into();
                if get.request.revision == 0 {
                    get.request.revision = page.header.as_ref().map_or(0, |header| header.revision);
                }
            }
            _ => self.get = None,
        }
        Some(Ok(page))
    }
}

/// A delete that is being described; nothing happens before [`Delete::send`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent before send()"]
pub struct Delete<'a> {
    client: &'a Client,
    request: DeleteRangeRequest,
}

impl Delete<'_> {
    /// Every key that starts with the given key.
    pub fn prefix(mut self) -> Self {
        (self.request.key, self.request.range_end) = prefix_pair(self.request.key);
        self
    }

    /// Every key that is not smaller than the given key.
    pub fn from_key(mut self) -> Self {
        self.request.key = first_key(self.request.key);
        self.request.range_end = Bytes::from_static(&[0]);
        self
    }

    /// Every key from the given key up to `end`, which is excluded.
    pub fn range_end(mut self, end: impl Into<Bytes>) -> Self {
        self.request.range_end = end.into();
        self
    }

    /// Returns the records that are deleted.
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// The request as it will be sent.
    pub fn into_request(self) -> DeleteRangeRequest {
        self.request
    }

    /// Sends it. Errors: every kind; [`Error::UnknownOutcome`] when the delete may have happened.
    pub async fn send(self) -> Result<DeleteRangeResponse, Error> {
        let Self { client, request } = self;
        let answer = client
            .write(|endpoint, terms| {
                let request = request.clone();
                async move { client.attempt(&endpoint, request, terms).await }
            })
            .await?;
        client.note_header(answer.header.as_ref());
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(prefix_end(b"a"), "b");
        assert_eq!(prefix_end(b"a\xff"), "b");
        assert_eq!(prefix_end(b"\xff\xff"), "\0");
        assert_eq!(prefix_end(b""), "\0");
        assert_eq!(
            prefix_pair(Bytes::new()),
            (Bytes::from_static(&[0]), Bytes::from_static(&[0]))
        );
    }
}
