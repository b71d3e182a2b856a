//! Whose socket it is: a workload's, by its cgroup or its user, else the host's.

use core::ptr::{read_volatile, write_volatile};

use segd_common::flow::{Owner, Resolved, Socket};
use segd_common::table::{HAS_USERS, HAS_WORKLOADS, Subject};

use crate::case::Case;
use crate::maps::{USERS, WORKLOADS};

/// Whether the policy asks whose socket it is and nobody knows. Only a packet can tell, of a socket that is older than
/// the agent.
#[inline(always)]
pub(crate) fn is_unsure(socket: &Socket, case: &Case) -> bool {
    case.flags & (HAS_WORKLOADS | HAS_USERS) != 0 && socket.owner.cgroup == 0
}

/// Sets what a socket is decided as, found once for each generation.
///
/// Several CPUs may find it at once, and during a swap not in the same generation. So the word that says for which
/// generation it holds is taken away first and comes last, and is read before and after.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn resolve(socket: *mut Socket, case: *mut Case) -> u32 {
    // SAFETY: a live map value and a case of this program, or null, which the kernel holds possible.
    let (Some(socket), Some(case)) = (unsafe { (socket.as_mut(), case.as_mut()) }) else {
        return 0;
    };
    let kept = &raw mut socket.subject;
    // SAFETY: fields of a live map value.
    let (word, expires, again, former) = unsafe {
        (
            read_volatile(&raw const (*kept).word),
            read_volatile(&raw const (*kept).expires),
            read_volatile(&raw const (*kept).word),
            read_volatile(&raw const (*kept).former),
        )
    };
    let subject = if Resolved::generation(word) == case.generation && again == word {
        Subject { expires, ..Subject::lasting(Resolved::subject(word)) }
    } else {
        look_up(case, &socket.owner)
    };
    let before = Resolved::subject(word);
    case.former = former;
    if word != 0 && before != subject.id {
        case.former = before;
    }
    if case.former.0 == 0 {
        case.former = subject.id;
    }
    let found = Resolved::word(case.generation, subject.id);
    if found != word {
        // SAFETY: fields of a live map value.
        unsafe {
            write_volatile(&raw mut (*kept).word, 0);
            write_volatile(&raw mut (*kept).expires, subject.expires);
            write_volatile(&raw mut (*kept).former, case.former);
            write_volatile(&raw mut (*kept).word, found);
        }
    }
    case.subject = subject;
    1
}

#[inline(always)]
fn look_up(case: &Case, owner: &Owner) -> Subject {
    if owner.cgroup != 0 {
        let found = if case.flags & HAS_WORKLOADS != 0 { by_cgroup(case.slot, owner.cgroup) } else { None };
        if let Some(subject) = found {
            return subject;
        }
        let found = if case.flags & HAS_USERS != 0 { by_user(case.slot, owner.uid) } else { None };
        if let Some(subject) = found {
            return subject;
        }
    }
    // The host's, as a new case says.
    case.subject
}

#[inline(always)]
fn by_cgroup(slot: u32, cgroup: u64) -> Option<Subject> {
    // SAFETY: a look-up's pointer stays valid for the program's run; the value is copied at once.
    WORKLOADS.get_value_ptr_mut(slot, &cgroup).map(|subject| unsafe { (*subject)[0] })
}

#[inline(always)]
fn by_user(slot: u32, uid: u32) -> Option<Subject> {
    // SAFETY: as in `by_cgroup`.
    USERS.get_value_ptr_mut(slot, &uid).map(|subject| unsafe { (*subject)[0] })
}
