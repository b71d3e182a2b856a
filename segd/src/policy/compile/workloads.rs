//! Which of a host's sockets are decided as a workload.

use std::collections::BTreeMap;

use segd_common::table::Subject;

use crate::policy::compiled::Compiled;
use crate::policy::workload::Selector;

/// Adds what finds the sockets of one workload. Of two with the same uid the first one counts.
pub(super) fn select(
    out: &mut Compiled,
    selector: &Selector,
    subject: Subject,
    users: &BTreeMap<String, u32>,
) {
    out.patterns.extend(selector.pattern(subject));
    if let Selector::User(user) = selector
        && let Some(uid) = user.uid(users)
        && out.users.iter().all(|(other, _)| *other != uid)
    {
        out.users.push((uid, subject));
    }
}
