//! JSON as Go's `encoding/json` writes the protobuf structs: fields in the order of the message, numbers as
//! numbers, bytes in base64, zero values left out.
//!
//! Written by hand because the order and the omissions are the format: scripts compare these lines. Not
//! here: which command prints what (`output`).

use std::fmt::{Display, Write};

use dipper_client::{
    etcdserverpb::{
        DeleteRangeResponse, HashKvResponse, Member, MemberListResponse, PutResponse, RangeResponse, ResponseHeader,
        ResponseOp, StatusResponse, TxnResponse, response_op::Response,
    },
    mvccpb::{Event, KeyValue},
};

/// An object that is being written.
#[derive(Debug)]
pub struct Object {
    text: String,
}

impl Object {
    pub fn new() -> Self {
        Self { text: "{".to_owned() }
    }

    /// A field whose value is JSON already.
    pub fn raw(mut self, name: &str, json: impl Display) -> Self {
        let comma = if self.text.len() > 1 { "," } else { "" };
        write!(self.text, "{comma}\"{name}\":{json}").expect("a String takes everything");
        self
    }

    /// A field that is left out when `json` is `None`.
    pub fn some(self, name: &str, json: Option<impl Display>) -> Self {
        match json {
            Some(json) => self.raw(name, json),
            None => self,
        }
    }

    /// A number or bool that is left out when it is zero.
    pub fn number<N: Display + Default + PartialEq>(self, name: &str, value: N) -> Self {
        let given = (value != N::default()).then_some(value);
        self.some(name, given)
    }

    /// A text that is left out when it is empty.
    pub fn text(self, name: &str, value: &str) -> Self {
        self.some(name, (!value.is_empty()).then(|| string(value)))
    }

    /// Bytes that are left out when there are none.
    pub fn bytes(self, name: &str, value: &[u8]) -> Self {
        self.some(name, (!value.is_empty()).then(|| base64(value)))
    }

    /// A list that is left out when it is empty.
    pub fn list(self, name: &str, items: &[String]) -> Self {
        self.some(name, (!items.is_empty()).then(|| array(items)))
    }

    /// The fields of a header, where Go embeds it in the response.
    pub fn header_fields(self, header: Option<&ResponseHeader>) -> Self {
        let header = header.copied().unwrap_or_default();
        self.number("cluster_id", header.cluster_id)
            .number("member_id", header.member_id)
            .number("revision", header.revision)
            .number("raft_term", header.raft_term)
    }

    /// The usual first field.
    pub fn header(self, header: Option<&ResponseHeader>) -> Self {
        self.some(
            "header",
            header.map(|header| Self::new().header_fields(Some(header)).end()),
        )
    }

    pub fn end(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

pub fn array(items: &[String]) -> String {
    format!("[{}]", items.join(","))
}

/// A JSON string with Go's escapes: it is careful about HTML.
pub fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..' ' => {
                write!(out, "\\u{:04x}", char as u32).expect("a String takes everything");
            }
            char => out.push(char),
        }
    }
    out.push('"');
    out
}

/// Bytes as a JSON string.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::from("\"");
    for chunk in bytes.chunks(3) {
        let triple = chunk.iter().fold(0_u32, |triple, byte| triple << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = ALPHABET[(triple >> (18 - 6 * at)) as usize & 63] as char;
            out.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    out.push('"');
    out
}

pub fn key_value(kv: &KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .end()
}

fn key_values(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(key_value).collect()
}

pub fn range(response: &RangeResponse) -> String {
    Object::new()
        .header(response.header.as_ref())
        .list("kvs", &key_values(&response.kvs))
        .number("more", response.more)
        .number("count", response.count)
        .end()
}

pub fn put(response: &PutResponse) -> String {
    Object::new()
        .header(response.header.as_ref())
        .some("prev_kv", response.prev_kv.as_ref().map(key_value))
        .end()
}

pub fn delete(response: &DeleteRangeResponse) -> String {
    Object::new()
        .header(response.header.as_ref())
        .number("deleted", response.deleted)
        .list("prev_kvs", &key_values(&response.prev_kvs))
        .end()
}

pub fn txn(response: &TxnResponse) -> String {
    let responses: Vec<_> = response.responses.iter().map(response_op).collect();
    Object::new()
        .header(response.header.as_ref())
        .number("succeeded", response.succeeded)
        .list("responses", &responses)
        .end()
}

/// Go keeps a oneof in an interface field `Response`; the names within are those of etcd from 3.5 on.
fn response_op(op: &ResponseOp) -> String {
    let inner = match &op.response {
        Some(Response::ResponseRange(response)) => Object::new().raw("response_range", range(response)).end(),
        Some(Response::ResponsePut(response)) => Object::new().raw("response_put", put(response)).end(),
        Some(Response::ResponseDeleteRange(response)) => {
            Object::new().raw("response_delete_range", delete(response)).end()
        }
        Some(Response::ResponseTxn(response)) => Object::new().raw("response_txn", txn(response)).end(),
        None => "null".to_owned(),
    };
    Object::new().raw("Response", inner).end()
}

pub fn event(event: &Event) -> String {
    Object::new()
        .number("type", event.r#type)
        .some("kv", event.kv.as_ref().map(key_value))
        .some("prev_kv", event.prev_kv.as_ref().map(key_value))
        .end()
}

/// A watch response; Go's client has its own struct for it, with capitals and without omissions.
pub fn watch(header: &ResponseHeader, events: &[Event], compact_revision: i64, canceled: bool) -> String {
    let events: Vec<_> = events.iter().map(event).collect();
    Object::new()
        .raw("Header", Object::new().header_fields(Some(header)).end())
        .raw("Events", array(&events))
        .raw("CompactRevision", compact_revision)
        .raw("Canceled", canceled)
        .raw("Created", false)
        .end()
}

fn member(member: &Member) -> String {
    let urls = |urls: &[String]| -> Vec<String> { urls.iter().map(|url| string(url)).collect() };
    Object::new()
        .number("ID", member.id)
        .text("name", &member.name)
        .list("peerURLs", &urls(&member.peer_ur_ls))
        .list("clientURLs", &urls(&member.client_ur_ls))
        .number("isLearner", member.is_learner)
        .end()
}

pub fn members(response: &MemberListResponse) -> String {
    let members: Vec<_> = response.members.iter().map(member).collect();
    Object::new()
        .header(response.header.as_ref())
        .list("members", &members)
        .end()
}

pub fn status(status: &StatusResponse) -> String {
    let errors: Vec<_> = status.errors.iter().map(|error| string(error)).collect();
    let downgrade = status.downgrade_info.as_ref().map(|downgrade| {
        Object::new()
            .number("enabled", downgrade.enabled)
            .text("targetVersion", &downgrade.target_version)
            .end()
    });
    Object::new()
        .header(status.header.as_ref())
        .text("version", &status.version)
        .number("dbSize", status.db_size)
        .number("leader", status.leader)
        .number("raftIndex", status.raft_index)
        .number("raftTerm", status.raft_term)
        .number("raftAppliedIndex", status.raft_applied_index)
        .list("errors", &errors)
        .number("dbSizeInUse", status.db_size_in_use)
        .number("isLearner", status.is_learner)
        .text("storageVersion", &status.storage_version)
        .number("dbSizeQuota", status.db_size_quota)
        .some("downgradeInfo", downgrade)
        .end()
}

pub fn hash_kv(response: &HashKvResponse) -> String {
    Object::new()
        .header(response.header.as_ref())
        .number("hash", response.hash)
        .number("compact_revision", response.compact_revision)
        .number("hash_revision", response.hash_revision)
        .end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        let pairs = [
            ("", "\"\""),
            ("a", "\"YQ==\""),
            ("ab", "\"YWI=\""),
            ("abc", "\"YWJj\""),
            ("abcd", "\"YWJjZA==\""),
        ];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn zero_values_are_left_out_and_html_is_escaped() {
        assert_eq!(
            Object::new().number("a", 0).text("b", "").number("c", false).end(),
            "{}"
        );
        assert_eq!(
            Object::new().number("a", 1).text("b", "<\n").end(),
            "{\"a\":1,\"b\":\"\\u003c\\n\"}"
        );
    }
}
