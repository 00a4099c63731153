//! The machine of one partition: a few keys by number, in their order, each with a cell.
//!
//! Everything is a number. Not here: where the numbers come from (`compile`), and how a state keeps its cells
//! (`cells`).

use super::cells::{Cell, Cells};
use crate::checkers::linearizable::Model;
use crate::history::CompareResult;
use std::cmp::Ordering;
use std::ops::Range;

/// One request with what it was answered; None where the answer is not known or not looked at.
#[derive(Clone, Debug)]
pub enum Action {
    Get {
        keys: Range<usize>,
        limit: usize,
        told: Option<Told>,
    },
    Put {
        key: usize,
        /// None: the value stays.
        value: Option<u32>,
        /// Nothing or one.
        before: Option<Vec<(usize, Cell)>>,
    },
    Delete {
        keys: Range<usize>,
        deleted: Option<usize>,
        before: Option<Vec<(usize, Cell)>>,
    },
    Txn {
        compares: Vec<Condition>,
        succeeded: Option<bool>,
        success: Vec<Action>,
        failure: Vec<Action>,
    },
    /// Cannot have been answered like this by any state.
    Never,
}

/// What a read told.
#[derive(Clone, Debug)]
pub struct Told {
    pub count: usize,
    pub more: bool,
    /// None for count_only. Of keys_only the values are not looked at.
    pub cells: Option<Vec<(usize, Cell)>>,
    pub keys_only: bool,
}

#[derive(Clone, Debug)]
pub struct Condition {
    pub keys: Range<usize>,
    pub result: CompareResult,
    pub target: Target,
}

#[derive(Clone, Debug)]
pub enum Target {
    Version(i64),
    Create(i64),
    Modified(i64),
    Value(String),
    /// Partitions with leases are not searched: everybody has none.
    Lease(i64),
}

/// An action and the name of what it writes.
#[derive(Clone, Debug)]
pub struct Step {
    pub action: Action,
    pub name: i64,
}

pub struct KeyValues {
    pub keys: usize,
    /// Texts of the values, by their numbers.
    pub values: Vec<String>,
}

impl Model for KeyValues {
    type Operation = Step;
    type State = Cells;

    fn initial(&self) -> Cells {
        Cells::none(self.keys)
    }

    fn step(&self, state: &Cells, step: &Step) -> Option<Cells> {
        let mut cells = state.successor();
        self.act(state, &mut cells, step, &step.action).then_some(cells)
    }

    fn heap_bytes(&self, state: &Cells) -> usize {
        state.own_bytes()
    }
}

impl KeyValues {
    /// Whether the action can be answered as it was; `cells` are what they are afterwards. Compares, nested ones
    /// too, are about what there was at the `start` of the whole step.
    fn act(&self, start: &Cells, cells: &mut Cells, step: &Step, action: &Action) -> bool {
        match action {
            Action::Get { keys, limit, told } => {
                told.as_ref().is_none_or(|told| read(cells, keys.clone(), *limit, told))
            }
            Action::Put { key, value, before } => {
                if let Some(before) = before
                    && !is_as_told(cells, *key, before.first().map(|(_, cell)| cell), false)
                {
                    return false;
                }
                let old = cells.get(*key);
                let Some(value) = value.or(old.map(|old| old.value)) else {
                    return false;
                };
                let cell = Cell {
                    value,
                    version: old.map_or(1, |old| old.version + 1),
                    create: old.map_or(step.name, |old| old.create),
                    modified: step.name,
                };
                cells.set(*key, Some(cell));
                true
            }
            Action::Delete { keys, deleted, before } => {
                let found = keys.clone().filter(|key| cells.get(*key).is_some());
                let found: Vec<_> = found.collect();
                if deleted.is_some_and(|deleted| deleted != found.len()) {
                    return false;
                }
                let agrees = before.as_ref().is_none_or(|before| {
                    before.len() == found.len()
                        && before
                            .iter()
                            .zip(&found)
                            .all(|((told, cell), key)| told == key && is_as_told(cells, *key, Some(cell), false))
                });
                for key in found {
                    cells.set(key, None);
                }
                agrees
            }
            Action::Txn {
                compares,
                succeeded,
                success,
                failure,
            } => {
                let holds = compares.iter().all(|condition| self.holds(start, condition));
                if succeeded.is_some_and(|succeeded| succeeded != holds) {
                    return false;
                }
                let branch = if holds { success } else { failure };
                branch.iter().all(|action| self.act(start, cells, step, action))
            }
            Action::Never => false,
        }
    }

    fn holds(&self, cells: &Cells, condition: &Condition) -> bool {
        let mut found = condition.keys.clone().filter_map(|key| cells.get(key)).peekable();
        if found.peek().is_none() {
            return self.holds_for(condition, None);
        }
        found.all(|cell| self.holds_for(condition, Some(&cell)))
    }

    fn holds_for(&self, condition: &Condition, cell: Option<&Cell>) -> bool {
        let ordering = match (&condition.target, cell) {
            (Target::Version(wanted), _) => cell.map_or(0, |cell| cell.version).cmp(wanted),
            (Target::Create(wanted), _) => cell.map_or(0, |cell| cell.create).cmp(wanted),
            (Target::Modified(wanted), _) => cell.map_or(0, |cell| cell.modified).cmp(wanted),
            (Target::Lease(wanted), _) => 0.cmp(wanted),
            (Target::Value(wanted), Some(cell)) => self.values[cell.value as usize].cmp(wanted),
            (Target::Value(_), None) => return false,
        };
        match condition.result {
            CompareResult::Equal => ordering == Ordering::Equal,
            CompareResult::NotEqual => ordering != Ordering::Equal,
            CompareResult::Greater => ordering == Ordering::Greater,
            CompareResult::Less => ordering == Ordering::Less,
        }
    }
}

fn read(cells: &mut Cells, keys: Range<usize>, limit: usize, told: &Told) -> bool {
    let found: Vec<_> = keys.filter(|key| cells.get(*key).is_some()).collect();
    if told.count != found.len() {
        return false;
    }
    let Some(told_cells) = &told.cells else {
        return !told.more;
    };
    let shown = if limit > 0 { limit.min(found.len()) } else { found.len() };
    told.more == (shown < found.len())
        && told_cells.len() == shown
        && told_cells
            .iter()
            .zip(&found)
            .all(|((key, cell), at)| key == at && is_as_told(cells, *at, Some(cell), told.keys_only))
}

/// Whether a cell is what was told of it. A name that nobody knew is learnt from whoever tells it first.
fn is_as_told(cells: &mut Cells, key: usize, told: Option<&Cell>, keys_only: bool) -> bool {
    let held = cells.get(key);
    let (Some(mut cell), Some(told)) = (held, told) else {
        return held.is_none() && told.is_none();
    };
    if cell.modified < 0 {
        if cell.create == cell.modified {
            cell.create = told.create;
        }
        cell.modified = told.modified;
    }
    if cell.create < 0 {
        cell.create = told.create;
    }
    cells.set(key, Some(cell));
    let value = if keys_only { cell.value } else { told.value };
    cell == Cell { value, ..*told }
}
