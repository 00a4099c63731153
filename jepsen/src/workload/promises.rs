//! What each workload promises beyond the store's own rules, in the words that the checkers know.

use super::{Kind, lock, money};
use crate::expectations::Promise;

/// The promises of a workload. The unguarded lock makes one, too: it is seen to be broken.
pub fn of(kind: Kind) -> Vec<Promise> {
    let lists = |prefix: &str| Promise::Lists {
        prefix: prefix.to_owned(),
    };
    match kind {
        Kind::Set => vec![lists("set/")],
        Kind::ListAppend => vec![lists("append/")],
        Kind::RwTxn => vec![Promise::Registers {
            prefix: "rw/".to_owned(),
        }],
        Kind::Register => vec![Promise::Registers {
            prefix: "register/".to_owned(),
        }],
        Kind::Bank => vec![Promise::Bank {
            prefix: "bank/".to_owned(),
            total: money::ACCOUNTS as i64 * money::BALANCE,
        }],
        Kind::Payments => vec![Promise::Payments {
            receipts: "payments/id/".to_owned(),
            accounts: "payments/account/".to_owned(),
        }],
        Kind::GuardedLock | Kind::UnguardedLock => (0..lock::ROUNDS_MAX)
            .map(|round| Promise::Lock {
                lock: lock::key(kind == Kind::GuardedLock).to_owned(),
                resource: lock::list(kind == Kind::GuardedLock, round),
            })
            .collect(),
        Kind::KvMix | Kind::Kubernetes | Kind::Watch | Kind::Lease | Kind::Admin => Vec::new(),
    }
}
