//! Transactions: if every comparison holds then these operations, or else those, all at one revision.
//!
//! A transaction without a put or delete is a read and is retried like one; any other is sent once.

use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb::{
    Compare as CompareMessage, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request as Op,
};

use crate::{
    Client, Error,
    client::Terms,
    kv::{first_key, prefix_pair},
    route::Endpoint,
};

/// One condition of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(CompareMessage);

/// A condition whose subject is named and whose relation is not yet: `Compare::version("k")` of
/// `Compare::version("k").equal(0)`.
#[derive(Clone, Debug)]
#[must_use = "a comparison needs its relation: equal, greater, less or not_equal"]
pub struct Comparison<V> {
    key: Bytes,
    target: CompareTarget,
    union: fn(V) -> TargetUnion,
}

impl Compare {
    /// How often the key was written since it was created; 0 when it does not exist.
    pub fn version(key: impl Into<Bytes>) -> Comparison<i64> {
        Comparison {
            key: key.into(),
            target: CompareTarget::Version,
            union: TargetUnion::Version,
        }
    }

    /// The revision that created the key; 0 when it does not exist.
    pub fn create_revision(key: impl Into<Bytes>) -> Comparison<i64> {
        Comparison {
            key: key.into(),
            target: CompareTarget::Create,
            union: TargetUnion::CreateRevision,
        }
    }

    /// The revision of the key's last write; 0 when it does not exist.
    pub fn mod_revision(key: impl Into<Bytes>) -> Comparison<i64> {
        Comparison {
            key: key.into(),
            target: CompareTarget::Mod,
            union: TargetUnion::ModRevision,
        }
    }

    /// The key's lease; 0 when there is none.
    pub fn lease(key: impl Into<Bytes>) -> Comparison<i64> {
        Comparison {
            key: key.into(),
            target: CompareTarget::Lease,
            union: TargetUnion::Lease,
        }
    }

    /// The key's value. A key that does not exist never compares true.
    pub fn value(key: impl Into<Bytes>) -> Comparison<Bytes> {
        Comparison {
            key: key.into(),
            target: CompareTarget::Value,
            union: TargetUnion::Value,
        }
    }

    /// Holds if it holds for every key with this prefix.
    #[must_use]
    pub fn prefix(mut self) -> Self {
        (self.0.key, self.0.range_end) = prefix_pair(self.0.key);
        self
    }

    /// Holds if it holds for every key from the given one up to `end`, which is excluded.
    #[must_use]
    pub fn range_end(mut self, end: impl Into<Bytes>) -> Self {
        self.0.key = first_key(self.0.key);
        self.0.range_end = end.into();
        self
    }
}

impl<V> Comparison<V> {
    /// Subject = `value`.
    pub fn equal(self, value: impl Into<V>) -> Compare {
        self.relate(CompareResult::Equal, value.into())
    }

    /// Subject > `value`.
    pub fn greater(self, value: impl Into<V>) -> Compare {
        self.relate(CompareResult::Greater, value.into())
    }

    /// Subject < `value`.
    pub fn less(self, value: impl Into<V>) -> Compare {
        self.relate(CompareResult::Less, value.into())
    }

    /// Subject != `value`.
    pub fn not_equal(self, value: impl Into<V>) -> Compare {
        self.relate(CompareResult::NotEqual, value.into())
    }

    fn relate(self, result: CompareResult, value: V) -> Compare {
        Compare(CompareMessage {
            result: result.into(),
            target: self.target.into(),
            key: self.key,
            range_end: Bytes::new(),
            target_union: Some((self.union)(value)),
        })
    }
}

/// A transaction that is being described; nothing happens before [`Txn::send`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent before send()"]
pub struct Txn<'a> {
    client: &'a Client,
    request: TxnRequest,
}

impl Client {
    /// Starts a transaction: without a condition it takes the `then` branch.
    pub fn txn(&self) -> Txn<'_> {
        Txn {
            client: self,
            request: TxnRequest::default(),
        }
    }
}

impl Txn<'_> {
    /// One more condition; all must hold.
    pub fn when(mut self, compare: Compare) -> Self {
        self.request.compare.push(compare.0);
        self
    }

    /// One more operation if the conditions hold.
    pub fn then(mut self, op: impl Into<Op>) -> Self {
        self.request.success.push(RequestOp {
            request: Some(op.into()),
        });
        self
    }

    /// One more operation if they do not.
    pub fn or_else(mut self, op: impl Into<Op>) -> Self {
        self.request.failure.push(RequestOp {
            request: Some(op.into()),
        });
        self
    }

    /// Puts `key` if the conditions hold.
    pub fn then_put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.then(Op::RequestPut(PutRequest {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        }))
    }

    /// Reads `key` if the conditions hold.
    pub fn then_get(self, key: impl Into<Bytes>) -> Self {
        self.then(Op::RequestRange(RangeRequest {
            key: key.into(),
            ..Default::default()
        }))
    }

    /// Deletes `key` if the conditions hold.
    pub fn then_delete(self, key: impl Into<Bytes>) -> Self {
        self.then(Op::RequestDeleteRange(DeleteRangeRequest {
            key: key.into(),
            ..Default::default()
        }))
    }

    /// Reads `key` if the conditions do not hold.
    pub fn or_else_get(self, key: impl Into<Bytes>) -> Self {
        self.or_else(Op::RequestRange(RangeRequest {
            key: key.into(),
            ..Default::default()
        }))
    }

    /// The request as it will be sent; as an operation (`then(Op::RequestTxn(..))`) it nests.
    pub fn into_request(self) -> TxnRequest {
        self.request
    }

    /// Sends it. Errors: every kind; [`Error::UnknownOutcome`] when it may have happened, never for a
    /// transaction that only reads.
    pub async fn send(self) -> Result<TxnResponse, Error> {
        self.client.txn_with(self.request).await
    }
}

impl Client {
    /// Sends a transaction given as etcd's message.
    pub async fn txn_with(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let call = |endpoint: Arc<Endpoint>, terms: Terms| {
            let request = request.clone();
            async move { self.attempt(&endpoint, request, terms).await }
        };
        if only_reads(&request) {
            return self.read(call).await;
        }
        let answer = self.write(call).await?;
        self.note_header(answer.header.as_ref());
        Ok(answer)
    }
}

fn only_reads(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        // An operation without content reads nothing either: the server refuses it, whoever is asked.
        Some(Op::RequestRange(_)) | None => true,
        Some(Op::RequestTxn(nested)) => only_reads(nested),
        Some(Op::RequestPut(_) | Op::RequestDeleteRange(_)) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_nested_put_makes_a_transaction_a_write() {
        let client = Client::lazy(["127.0.0.1:1"], crate::ConnectOptions::default()).unwrap();
        let reading = client.txn().then_get("a").or_else_get("b").into_request();
        assert!(only_reads(&reading));
        let nested = client
            .txn()
            .then_get("a")
            .or_else(Op::RequestTxn(client.txn().then_put("a", "1").into_request()));
        assert!(!only_reads(&nested.into_request()));
    }

    #[test]
    fn a_comparison_names_target_and_value_alike() {
        let Compare(message) = Compare::value("k").not_equal("v");
        assert_eq!(message.target(), CompareTarget::Value);
        assert_eq!(message.result(), CompareResult::NotEqual);
        assert_eq!(message.target_union, Some(TargetUnion::Value("v".into())));
    }
}
