//! Response headers. The state machine fills in the revision, because only it knows which one an answer is
//! of; who answers and in which term is added here, on top-level responses only: inside a transaction
//! etcd leaves both empty.

use super::member::Member;
use proto::etcdserverpb::ResponseHeader;

/// A header with this revision.
pub fn header<M: Member>(member: &M, revision: i64) -> ResponseHeader {
    let identity = member.identity();
    ResponseHeader {
        cluster_id: identity.cluster_id,
        member_id: identity.member_id,
        revision,
        raft_term: member.standing().term,
    }
}

/// The header that goes out for one that came from the state machine.
pub fn filled<M: Member>(member: &M, from_state: Option<ResponseHeader>) -> ResponseHeader {
    let revision = from_state.map_or_else(|| member.view().revision(), |header| header.revision);
    header(member, revision)
}
