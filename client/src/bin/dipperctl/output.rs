//! Prints responses: `simple` and `json` exactly as etcdctl does, `fields` for the key commands, `table`
//! where etcdctl has one.
//!
//! A response is rendered to bytes first and written once, so a closed pipe is one error, not half a line.

use std::io::{self, Write};

use dipper_client::{
    Batch,
    etcdserverpb::{
        DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, TxnResponse, response_op::Response,
    },
    mvccpb::{Event, KeyValue, event::EventType},
};

use crate::{
    failure::{Exit, Failure},
    json,
    quote::{hex, quoted},
};

/// `--write-out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Simple,
    Json,
    Fields,
    Table,
}

/// How responses are printed.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub format: Format,
    pub hex: bool,
    /// `get --print-value-only`.
    pub value_only: bool,
}

impl Output {
    pub fn range(self, response: &RangeResponse) -> Result<(), Failure> {
        match self.format {
            Format::Simple => print(&self.simple_kvs(&response.kvs)),
            Format::Json => print_line(&json::range(response)),
            Format::Fields => {
                let kvs: String = response.kvs.iter().map(|kv| fields_kv("", kv)).collect();
                let header = fields_header(response.header.as_ref());
                let tail = format!("\"More\" : {}\n\"Count\" : {}\n", response.more, response.count);
                print(format!("{header}{kvs}{tail}").as_bytes())
            }
            Format::Table => Err(unsupported()),
        }
    }

    pub fn put(self, response: &PutResponse) -> Result<(), Failure> {
        match self.format {
            Format::Simple => print(&self.simple_put(response)),
            Format::Json => print_line(&json::put(response)),
            Format::Fields => {
                let prev = response
                    .prev_kv
                    .as_ref()
                    .map(|kv| fields_kv("Prev", kv))
                    .unwrap_or_default();
                print(format!("{}{prev}", fields_header(response.header.as_ref())).as_bytes())
            }
            Format::Table => Err(unsupported()),
        }
    }

    pub fn delete(self, response: &DeleteRangeResponse) -> Result<(), Failure> {
        match self.format {
            Format::Simple => print(&self.simple_delete(response)),
            Format::Json => print_line(&json::delete(response)),
            Format::Fields => {
                let prev: String = response.prev_kvs.iter().map(|kv| fields_kv("Prev", kv)).collect();
                print(format!("{}{prev}", fields_header(response.header.as_ref())).as_bytes())
            }
            Format::Table => Err(unsupported()),
        }
    }

    pub fn txn(self, response: &TxnResponse) -> Result<(), Failure> {
        match self.format {
            Format::Simple => print(&self.simple_txn(response)),
            Format::Json => print_line(&json::txn(response)),
            Format::Fields | Format::Table => Err(unsupported()),
        }
    }

    pub fn batch(self, batch: &Batch) -> Result<(), Failure> {
        match self.format {
            Format::Simple => print(&self.simple_events(&batch.events)),
            Format::Json => print_line(&json::watch(&batch.header, &batch.events, 0, false)),
            Format::Fields | Format::Table => Err(unsupported()),
        }
    }

    /// The last response of a watch whose start is compacted.
    pub fn compacted(self, header: &ResponseHeader, compact_revision: i64) -> Result<(), Failure> {
        match self.format {
            Format::Json => print_line(&json::watch(header, &[], compact_revision, true)),
            _ => Ok(()),
        }
    }

    /// A line for people, or the JSON of the same response.
    pub fn line(self, simple: &str, json: &str) -> Result<(), Failure> {
        match self.format {
            Format::Simple => print_line(simple),
            Format::Json => print_line(json),
            Format::Fields | Format::Table => Err(unsupported()),
        }
    }

    /// Rows: as lines with commas, as a table, or the JSON of the same responses.
    pub fn rows(self, headers: &[&str], rows: &[Vec<String>], json: &str) -> Result<(), Failure> {
        match self.format {
            Format::Simple => {
                let lines: String = rows.iter().map(|row| row.join(", ") + "\n").collect();
                print(lines.as_bytes())
            }
            Format::Json => print_line(json),
            Format::Table => print(crate::table::draw(headers, rows).as_bytes()),
            Format::Fields => Err(unsupported()),
        }
    }

    fn simple_kvs(self, kvs: &[KeyValue]) -> Vec<u8> {
        let mut out = Vec::new();
        for kv in kvs {
            if !self.value_only {
                self.push_line(&mut out, &kv.key);
            }
            self.push_line(&mut out, &kv.value);
        }
        out
    }

    fn push_line(self, out: &mut Vec<u8>, bytes: &[u8]) {
        if self.hex {
            out.extend_from_slice(hex(bytes).as_bytes());
        } else {
            out.extend_from_slice(bytes);
        }
        out.push(b'\n');
    }

    fn simple_put(self, response: &PutResponse) -> Vec<u8> {
        [b"OK\n".to_vec(), self.simple_kvs(response.prev_kv.as_slice())].concat()
    }

    fn simple_delete(self, response: &DeleteRangeResponse) -> Vec<u8> {
        [
            format!("{}\n", response.deleted).into_bytes(),
            self.simple_kvs(&response.prev_kvs),
        ]
        .concat()
    }

    fn simple_txn(self, response: &TxnResponse) -> Vec<u8> {
        let mut out = if response.succeeded {
            b"SUCCESS\n".to_vec()
        } else {
            b"FAILURE\n".to_vec()
        };
        for op in &response.responses {
            out.push(b'\n');
            out.extend(match &op.response {
                Some(Response::ResponseRange(range)) => self.simple_kvs(&range.kvs),
                Some(Response::ResponsePut(put)) => self.simple_put(put),
                Some(Response::ResponseDeleteRange(delete)) => self.simple_delete(delete),
                Some(Response::ResponseTxn(nested)) => self.simple_txn(nested),
                None => Vec::new(),
            });
        }
        out
    }

    fn simple_events(self, events: &[Event]) -> Vec<u8> {
        let mut out = Vec::new();
        for event in events {
            out.extend_from_slice(type_name(event).as_bytes());
            out.push(b'\n');
            out.extend(self.simple_kvs(event.prev_kv.as_slice()));
            out.extend(self.simple_kvs(event.kv.as_slice()));
        }
        out
    }
}

/// `PUT` or `DELETE`.
pub fn type_name(event: &Event) -> &'static str {
    match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
    }
}

fn unsupported() -> Failure {
    Failure::new(Exit::BadFeature, "unsupported output format")
}

fn fields_header(header: Option<&ResponseHeader>) -> String {
    let header = header.copied().unwrap_or_default();
    format!(
        "\"ClusterID\" : {}\n\"MemberID\" : {}\n\"Revision\" : {}\n\"RaftTerm\" : {}\n",
        header.cluster_id, header.member_id, header.revision, header.raft_term
    )
}

fn fields_kv(prefix: &str, kv: &KeyValue) -> String {
    format!(
        "\"{prefix}Key\" : {}\n\"{prefix}CreateRevision\" : {}\n\"{prefix}ModRevision\" : {}\n\
         \"{prefix}Version\" : {}\n\"{prefix}Value\" : {}\n\"{prefix}Lease\" : {}\n",
        quoted(&kv.key),
        kv.create_revision,
        kv.mod_revision,
        kv.version,
        quoted(&kv.value),
        kv.lease
    )
}

/// Writes one line at once.
pub fn print_line(line: &str) -> Result<(), Failure> {
    print(format!("{line}\n").as_bytes())
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(())
}
