//! Two workloads about money: transfers that keep a sum, and payments that happen exactly once.

use super::{Step, Values, equal, found, get, list, put};
use crate::{
    history::{CompareTarget, Outcome, Reply, Request, Txn},
    rng::Rng,
};

/// Accounts of the bank.
pub const ACCOUNTS: u64 = 8;
/// What each holds at first.
pub const BALANCE: i64 = 100;

/// One transfer: read two accounts, then write both if neither changed.
#[derive(Clone, Debug, Default)]
pub struct Teller {
    is_open: bool,
    read: Option<[(String, i64, i64); 2]>,
}

fn account(number: u64) -> String {
    format!("bank/{number}")
}

impl Teller {
    pub fn next(&mut self, _: &mut Values, rng: &mut Rng) -> Step {
        if !self.is_open {
            let compares = vec![equal(account(0), CompareTarget::Create(0))];
            let success = (0..ACCOUNTS).map(|number| put(account(number), BALANCE.to_string()));
            return Step::Ask(Request::Txn(Txn {
                compares,
                success: success.collect(),
                failure: Vec::new(),
            }));
        }
        if let Some([from, to]) = self.read.take() {
            let amount = 1 + rng.below(10) as i64;
            let compares = [&from, &to].map(|(key, _, modified)| equal(key.clone(), CompareTarget::Mod(*modified)));
            let success = vec![
                put(from.0.clone(), (from.1 - amount).to_string()),
                put(to.0.clone(), (to.1 + amount).to_string()),
            ];
            return Step::Ask(Request::Txn(Txn {
                compares: compares.into(),
                success,
                failure: Vec::new(),
            }));
        }
        if rng.permille(300) {
            return Step::Ask(Request::Range(list("bank/")));
        }
        let from = rng.below(ACCOUNTS);
        let to = (from + 1 + rng.below(ACCOUNTS - 1)) % ACCOUNTS;
        Step::Ask(Request::Txn(Txn {
            success: vec![get(account(from)), get(account(to))],
            ..Txn::default()
        }))
    }

    pub fn done(&mut self, request: &Request, outcome: &Outcome) {
        let (Request::Txn(txn), Outcome::Ok(Reply::Txn { replies, .. })) = (request, outcome) else {
            return;
        };
        // Whether this one opened the accounts or found them open: they are.
        self.is_open = true;
        let read = |at: usize| -> Option<(String, i64, i64)> {
            let (Some(Request::Range(range)), Some(Reply::Range(reply))) = (txn.success.get(at), replies.get(at))
            else {
                return None;
            };
            let (value, modified) = found(reply);
            Some((range.key.clone(), value?.parse().ok()?, modified))
        };
        if let (Some(from), Some(to)) = (read(0), read(1)) {
            self.read = Some([from, to]);
        }
    }
}

/// Accounts that payments go between.
const PAYERS: u64 = 3;

#[derive(Clone, Debug, Default)]
enum Paying {
    #[default]
    Nothing,
    /// A payment which may have been tried before.
    Owed(Payment),
    /// And the two accounts as they were read: balance and modification.
    Ready(Payment, [(i64, i64); 2]),
}

#[derive(Clone, Debug)]
struct Payment {
    id: String,
    from: u64,
    to: u64,
    amount: i64,
}

/// One payment at a time, tried until it is known to be done.
#[derive(Clone, Debug, Default)]
pub struct Payer {
    is_open: bool,
    paying: Paying,
}

fn paid(number: u64) -> String {
    format!("payments/account/{number}")
}

impl Payer {
    pub fn next(&mut self, values: &mut Values, rng: &mut Rng) -> Step {
        if !self.is_open {
            let success = (0..PAYERS).map(|number| put(paid(number), BALANCE.to_string()));
            return Step::Ask(Request::Txn(Txn {
                compares: vec![equal(paid(0), CompareTarget::Create(0))],
                success: success.collect(),
                failure: Vec::new(),
            }));
        }
        if matches!(self.paying, Paying::Nothing) {
            let from = rng.below(PAYERS);
            self.paying = Paying::Owed(Payment {
                id: values.next(),
                from,
                to: (from + 1 + rng.below(PAYERS - 1)) % PAYERS,
                amount: 1 + rng.below(20) as i64,
            });
        }
        let request = match &self.paying {
            Paying::Ready(payment, read) => payment.done_once(read),
            Paying::Owed(payment) => payment.look(),
            Paying::Nothing => return Step::Rest,
        };
        Step::Ask(request)
    }

    pub fn done(&mut self, _: &Request, outcome: &Outcome) {
        let Outcome::Ok(Reply::Txn { replies, succeeded, .. }) = outcome else {
            // Not done, or not known: look again, and try the same id again.
            if let Paying::Ready(payment, _) = std::mem::take(&mut self.paying) {
                self.paying = Paying::Owed(payment);
            }
            return;
        };
        self.is_open = true;
        self.paying = match (std::mem::take(&mut self.paying), &replies[..]) {
            (Paying::Owed(_), [Reply::Range(receipt), ..]) if !receipt.kvs.is_empty() => Paying::Nothing,
            (Paying::Owed(payment), [_, Reply::Range(from), Reply::Range(to)]) => {
                let read = [from, to].map(|account| {
                    let (value, modified) = found(account);
                    (value.and_then(|value| value.parse().ok()).unwrap_or(0), modified)
                });
                Paying::Ready(payment, read)
            }
            (Paying::Ready(..), _) if *succeeded => Paying::Nothing,
            (Paying::Ready(payment, _), _) => Paying::Owed(payment),
            (paying, _) => paying,
        };
    }
}

impl Payment {
    fn receipt(&self) -> String {
        format!("payments/id/{}", self.id)
    }

    /// Whether it was done, and what the accounts hold.
    fn look(&self) -> Request {
        Request::Txn(Txn {
            success: vec![get(self.receipt()), get(paid(self.from)), get(paid(self.to))],
            ..Txn::default()
        })
    }

    /// The receipt is what makes it happen once; the balances must be those that were read.
    fn done_once(&self, [from, to]: &[(i64, i64); 2]) -> Request {
        let Self {
            from: a, to: b, amount, ..
        } = self;
        Request::Txn(Txn {
            compares: vec![
                equal(self.receipt(), CompareTarget::Create(0)),
                equal(paid(*a), CompareTarget::Mod(from.1)),
                equal(paid(*b), CompareTarget::Mod(to.1)),
            ],
            success: vec![
                put(self.receipt(), format!("{a}:{b}:{amount}")),
                put(paid(*a), (from.0 - amount).to_string()),
                put(paid(*b), (to.0 + amount).to_string()),
            ],
            failure: Vec::new(),
        })
    }
}
