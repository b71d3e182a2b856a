//! What the rows of an hour belong to.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use segd_common::traffic::Verdict;

use super::Limits;
use crate::history::sketch::Sketch;
use crate::history::summary::{Conversation, Sum};
use crate::policy::ids::OTHER_SERVICE;

/// Names that were not known in former hours get three of so many quarters of the places.
const QUARTERS: usize = 4;

pub(super) type Program = (Option<Arc<str>>, Option<Arc<str>>, Option<u32>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) class: u32,
    /// `None`: further peers.
    pub(super) peer: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) sums: Sum,
    pub(super) changed: bool,
    pub(super) written: bool,
}

/// Flows that differ only in their peers, local addresses and programs.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Single peers.
    pub(super) kept: Vec<Key>,
    pub(super) others: Option<Sketch>,
}

/// Groups that differ only in their ports.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) ports: HashSet<(u16, Option<(u8, u8)>)>,
    /// Single peers.
    pub(super) rows: usize,
}

/// Where a class belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) group: u32,
    pub(super) scope: u32,
}

/// Conversations that differ only in their peer, which means nothing here.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) of: Arc<Conversation>,
    pub(super) at: Place,
    /// Of one without a local address: those that differ only in that they have one.
    pub(super) local: Vec<u32>,
}

/// Whether a name is one of those that are kept, now or from now on.
pub(super) fn has_name<T: Eq + Hash>(
    names: &mut HashSet<T>,
    name: T,
    limits: &Limits,
    is_known: impl FnOnce() -> bool,
) -> bool {
    if names.contains(&name) {
        return true;
    }
    let new = limits.names - limits.names / QUARTERS;
    let fits = names.len() < new || (names.len() < limits.names && is_known());
    fits && names.insert(name)
}

pub(super) fn is_ruled(class: &Conversation) -> bool {
    class.verdict == Verdict::Allowed && class.rule.is_some()
}

pub(super) fn group_of(class: &Conversation) -> Conversation {
    Conversation { process: None, unit: None, uid: None, local: None, ..class.clone() }
}

pub(super) fn scope_of(class: &Conversation) -> Conversation {
    Conversation { port: 0, icmp: None, service: OTHER_SERVICE.into(), ..group_of(class) }
}
