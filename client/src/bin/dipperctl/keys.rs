//! put, get, del and compaction. The same arguments appear as lines of a transaction, so turning them into
//! a request is separate from sending it.

use std::{
    ffi::OsString,
    io::{Read, stdin},
    os::unix::ffi::OsStringExt,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use dipper_client::{
    Client,
    etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest,
        range_request::{SortOrder, SortTarget},
    },
};

use crate::{
    failure::{Exit, Failure},
    global::{Global, parse_i64},
    output::{Format, print_line},
    quote::quoted,
};

/// How long a range delete without `--range` waits for second thoughts.
const SECOND_THOUGHTS: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Put {
    /// Key, and value unless it comes from standard input
    args: Vec<OsString>,
    /// Lease ID (in hexadecimal) to attach to the key
    #[arg(long, default_value = "0")]
    lease: String,
    /// Return the previous key-value pair
    #[arg(long)]
    prev_kv: bool,
    /// Update the key using its current value
    #[arg(long)]
    ignore_value: bool,
    /// Update the key using its current lease
    #[arg(long)]
    ignore_lease: bool,
}

impl Put {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let output = global.output()?;
        let request = self.request()?;
        let client = global.client()?;
        let mut put = client.put(request.key, request.value).lease(request.lease);
        if request.prev_kv {
            put = put.prev_kv();
        }
        if request.ignore_value {
            put = put.ignore_value();
        }
        if request.ignore_lease {
            put = put.ignore_lease();
        }
        output.put(&put.send().await?)
    }

    /// The request; reads standard input when the value is not given.
    pub fn request(self) -> Result<PutRequest, Failure> {
        let needs = "put command needs 1 argument and input from stdin or 2 arguments";
        let mut args = self.args.into_iter().map(into_bytes);
        let key = args.next().ok_or_else(|| Failure::arguments(needs))?;
        let value = match (args.next(), self.ignore_value) {
            (Some(_), true) => {
                return Err(Failure::arguments(
                    "put command needs only 1 argument when 'ignore-value' is set",
                ));
            }
            (None, true) => Bytes::new(),
            (Some(value), false) => value,
            (None, false) => read_stdin()?.ok_or_else(|| Failure::arguments(needs))?,
        };
        let lease = parse_i64(&self.lease, 16)
            .map_err(|error| Failure::arguments(format!("bad lease ID ({error}), expecting ID in Hex")))?;
        let Self {
            prev_kv,
            ignore_value,
            ignore_lease,
            ..
        } = self;
        Ok(PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        })
    }
}

fn read_stdin() -> Result<Option<Bytes>, Failure> {
    let mut value = Vec::new();
    stdin().read_to_end(&mut value)?;
    Ok((!value.is_empty()).then(|| value.into()))
}

fn into_bytes(argument: OsString) -> Bytes {
    argument.into_vec().into()
}

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // The flags of etcdctl.
pub struct Get {
    /// Key and, for a range, the excluded end
    args: Vec<OsString>,
    /// Linearizable(l) or Serializable(s)
    #[arg(long, default_value = "l")]
    consistency: String,
    /// Order of results; ASCEND or DESCEND (ASCEND by default)
    #[arg(long, default_value = "")]
    order: String,
    /// Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION
    #[arg(long, default_value = "")]
    sort_by: String,
    /// Maximum number of results
    #[arg(long, default_value_t = 0)]
    limit: i64,
    /// Get keys with matching prefix
    #[arg(long)]
    prefix: bool,
    /// Get keys that are greater than or equal to the given key using byte compare
    #[arg(long)]
    from_key: bool,
    /// Specify the kv revision
    #[arg(long, default_value_t = 0)]
    rev: i64,
    /// Get only the keys
    #[arg(long)]
    keys_only: bool,
    /// Get only the count
    #[arg(long)]
    count_only: bool,
    /// Only write values when using the "simple" output format
    #[arg(long)]
    print_value_only: bool,
    /// Minimum revision of creation
    #[arg(long, default_value_t = 0)]
    min_create_rev: i64,
    /// Maximum revision of creation
    #[arg(long, default_value_t = 0)]
    max_create_rev: i64,
    /// Minimum revision of the last write
    #[arg(long, default_value_t = 0)]
    min_mod_rev: i64,
    /// Maximum revision of the last write
    #[arg(long, default_value_t = 0)]
    max_mod_rev: i64,
}

impl Get {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut output = global.output()?;
        output.value_only = self.print_value_only;
        let count_only = self.count_only;
        let request = self.request()?;
        let client = global.client()?;
        let response = get_with(&client, request).send().await?;
        if count_only && output.format != Format::Fields {
            return Err(Failure::arguments("--count-only is only for `--write-out=fields`"));
        }
        if output.value_only && output.format != Format::Simple {
            return Err(Failure::arguments("print-value-only is only for `--write-out=simple`"));
        }
        output.range(&response)
    }

    pub fn request(self) -> Result<RangeRequest, Failure> {
        if self.keys_only && self.count_only {
            return Err(Failure::arguments(
                "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
            ));
        }
        let needs = "get command needs one argument as key and an optional argument as range_end";
        let range = Range {
            args: self.args,
            prefix: self.prefix,
            from_key: self.from_key,
        };
        let (key, range_end) = range.pair(needs)?;
        let serializable = match self.consistency.as_str() {
            "s" => true,
            "l" => false,
            other => {
                return Err(Failure::new(
                    Exit::BadFeature,
                    format!("unknown consistency flag {other:?}"),
                ));
            }
        };
        let (sort_order, sort_target) = sorting(&self.order, &self.sort_by)?;
        Ok(RangeRequest {
            key,
            range_end,
            limit: self.limit,
            revision: self.rev.max(0),
            sort_order,
            sort_target,
            serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            min_mod_revision: self.min_mod_rev,
            max_mod_revision: self.max_mod_rev,
            min_create_revision: self.min_create_rev,
            max_create_revision: self.max_create_rev,
        })
    }
}

fn sorting(order: &str, target: &str) -> Result<(i32, i32), Failure> {
    let unknown = |what: &str, value: &str| Failure::new(Exit::BadFeature, format!("bad sort {what} {value}"));
    let sort_target = match target.to_uppercase().as_str() {
        "CREATE" => SortTarget::Create,
        "KEY" | "" => SortTarget::Key,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(unknown("target", target)),
    };
    let sort_order = match order.to_uppercase().as_str() {
        // Keys come ascending anyway; saying so would make the server sort.
        "ASCEND" if sort_target == SortTarget::Key => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        "" => SortOrder::None,
        _ => return Err(unknown("order", order)),
    };
    Ok((sort_order.into(), sort_target.into()))
}

/// The read that `request` describes.
fn get_with(client: &Client, request: RangeRequest) -> dipper_client::Get<'_> {
    let (order, target) = (request.sort_order(), request.sort_target());
    let mut get = client
        .get(request.key)
        .range_end(request.range_end)
        .limit(request.limit)
        .revision(request.revision)
        .sort(target, order)
        .mod_revisions(request.min_mod_revision, request.max_mod_revision)
        .create_revisions(request.min_create_revision, request.max_create_revision);
    if request.serializable {
        get = get.serializable();
    }
    if request.keys_only {
        get = get.keys_only();
    }
    if request.count_only {
        get = get.count_only();
    }
    get
}

/// Which keys a command means.
pub struct Range {
    pub args: Vec<OsString>,
    pub prefix: bool,
    pub from_key: bool,
}

impl Range {
    /// The pair of etcd's requests; `needs` is the complaint about a missing key.
    pub fn pair(self, needs: &str) -> Result<(Bytes, Bytes), Failure> {
        if self.prefix && self.from_key {
            return Err(Failure::arguments(
                "`--prefix` and `--from-key` cannot be set at the same time, choose one",
            ));
        }
        let mut args = self.args.into_iter().map(into_bytes);
        let key = args.next().ok_or_else(|| Failure::arguments(needs))?;
        let end = args.next();
        if end.is_some() && (self.prefix || self.from_key) {
            return Err(Failure::arguments(
                "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
            ));
        }
        let all = Bytes::from_static(&[0]);
        Ok(match (self.prefix, self.from_key) {
            (true, _) if key.is_empty() => (all.clone(), all),
            (true, _) => (key.clone(), dipper_client::prefix_end(&key)),
            (_, true) if key.is_empty() => (all.clone(), all),
            (_, true) => (key, all),
            _ => (key, end.unwrap_or_default()),
        })
    }
}

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // The flags of etcdctl.
pub struct Del {
    /// Key and, for a range, the excluded end
    args: Vec<OsString>,
    /// Delete keys with matching prefix
    #[arg(long)]
    prefix: bool,
    /// Return deleted key-value pairs
    #[arg(long)]
    prev_kv: bool,
    /// Delete keys that are greater than or equal to the given key using byte compare
    #[arg(long)]
    from_key: bool,
    /// Delete a range of keys without a delay
    #[arg(long)]
    range: bool,
}

impl Del {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let output = global.output()?;
        let warn = self.args.len() == 2 && !self.range && !self.prefix && !self.from_key;
        let request = self.request()?;
        let client = global.client()?;
        if warn {
            eprintln!(
                "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next 2 \
                 seconds to cancel. You can provide `--range` flag to avoid the delay.",
                quoted(&request.key),
                quoted(&request.range_end)
            );
            tokio::time::sleep(SECOND_THOUGHTS).await;
        }
        let mut delete = client.delete(request.key).range_end(request.range_end);
        if request.prev_kv {
            delete = delete.prev_kv();
        }
        output.delete(&delete.send().await?)
    }

    pub fn request(self) -> Result<DeleteRangeRequest, Failure> {
        let needs = "del command needs one argument as key and an optional argument as range_end";
        if self.args.len() > 2 {
            return Err(Failure::arguments(needs));
        }
        let range = Range {
            args: self.args,
            prefix: self.prefix,
            from_key: self.from_key,
        };
        let (key, range_end) = range.pair(needs)?;
        Ok(DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.prev_kv,
        })
    }
}

#[derive(Debug, Args)]
pub struct Compaction {
    /// Revision
    args: Vec<String>,
    /// Wait until the space is free
    #[arg(long)]
    physical: bool,
}

impl Compaction {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let [revision] = self.args.as_slice() else {
            return Err(Failure::arguments("compaction command needs 1 argument"));
        };
        let revision = parse_i64(revision, 10).map_err(|error| Failure::new(Exit::Error, error))?;
        global
            .client()?
            .compact_with(CompactionRequest {
                revision,
                physical: self.physical,
            })
            .await?;
        // etcdctl prints this line in every format.
        print_line(&format!("compacted revision {revision}"))
    }
}
