//! What a socket is decided as, found as the programs find it.

use std::collections::HashMap;

use segd_common::socket::Owner;
use segd_common::table::Subject;

use crate::policy::Compiled;

/// Subjects of one policy. Their expiry is in nanoseconds since the Unix epoch, as in [`Compiled`].
#[derive(Clone, Debug)]
pub struct Subjects<'a> {
    pub(in crate::datapath) compiled: &'a Compiled,
    pub(in crate::datapath) cgroups: HashMap<u64, Subject>,
}

impl Subjects<'_> {
    /// What the sockets of an owner are decided as: the workload of its cgroup, else that of its user, else the host's
    /// zone, as which also sockets of nobody known are.
    #[must_use]
    pub fn of(&self, owner: &Owner) -> Subject {
        let host = Subject::lasting(self.compiled.host);
        if owner.cgroup == 0 {
            return host;
        }
        let users = &self.compiled.users;
        let by_user = || users.binary_search_by_key(&owner.uid, |u| u.0).ok().map(|n| users[n].1);
        self.cgroups.get(&owner.cgroup).copied().or_else(by_user).unwrap_or(host)
    }
}

#[cfg(test)]
mod tests {
    use segd_common::id::SubjectId;

    use super::*;

    #[test]
    fn the_cgroup_comes_before_the_user_and_the_user_before_the_host() {
        let subject = |n| Subject { expires: u64::from(n), ..Subject::lasting(SubjectId(n)) };
        let users = vec![(7, subject(70)), (8, subject(80))];
        let compiled = Compiled { host: SubjectId(1), users, ..Compiled::default() };
        let subjects = Subjects { compiled: &compiled, cgroups: HashMap::from([(100, subject(90))]) };
        let owner = |cgroup, uid| Owner { cgroup, uid, ..Owner::NONE };
        for (owner, wanted) in [
            (owner(100, 7), subject(90)),
            (owner(101, 8), subject(80)),
            (owner(101, 9), Subject::lasting(SubjectId(1))),
            (owner(0, 7), Subject::lasting(SubjectId(1))),
        ] {
            assert_eq!(subjects.of(&owner), wanted, "{owner:?}");
        }
    }
}
