//! The client library: any member will do, the leader is found for writes, and an answer is never invented.
//!
//! ```no_run
//! # async fn example() -> Result<(), dipper_client::Error> {
//! use dipper_client::{Client, Compare, ConnectOptions};
//!
//! let client = Client::connect(["127.0.0.1:2379"], ConnectOptions::default()).await?;
//! client.put("ship", "argo").send().await?;
//! let found = client.get("sh").prefix().send().await?;
//! assert_eq!(found.kvs[0].value, "argo");
//! let won = client.txn().when(Compare::version("lock").equal(0)).then_put("lock", "me").send().await?;
//! println!("took the lock: {}", won.succeeded);
//! let mut watcher = client.watch("sh").prefix().open().await?;
//! while let Some(batch) = watcher.next().await {
//!     println!("{:?}", batch?.events);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Two rules shape everything here.
//! * A read may be asked again, of anybody, until its deadline. Members that are slow to answer are raced
//!   against the next one.
//! * A write is sent again only when it surely was not done. If that is not known, the caller hears
//!   [`Error::UnknownOutcome`] and decides; retrying such a write is how jetcd lost updates.
//!
//! It works with etcd from 3.4 on as well: nothing here depends on Dipper, except the leader hint, which is
//! used when present, and [`ConnectOptions::streams`], without which calls are made. Not here: the command line (`dipperctl` is a user of this crate), locks, elections,
//! users and TLS, which come with the server's.

mod client;
mod cluster;
mod error;
mod kv;
mod lane;
mod lease;
mod maintenance;
mod operation;
mod retry;
mod route;
mod txn;
mod unary;
mod watch;
mod wire;

pub use client::{Client, ConnectOptions, Writes};
pub use error::Error;
pub use kv::{Delete, Get, Pages, Put, prefix_end};
pub use lease::{KeepAlive, KeepAliveState};
pub use txn::{Compare, Comparison, Txn};
pub use watch::{Batch, Watch, Watcher};

/// The messages of etcd's API as the calls of this crate return them, and the rows of its error table.
pub use proto::{Error as ServerError, etcdserverpb, mvccpb};
