//! Whose socket it is: a workload's, by its cgroup or its user, else the host's.

use core::mem::MaybeUninit;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_socket_uid,
    bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id,
};
use segd_common::socket::{Ancestors, Identity, LEVELS, Socket};
use segd_common::table::{HAS_USERS, HAS_WORKLOADS, Subject};

use crate::case::Case;
use crate::maps::{ANCESTORS, ENDED, USERS, WORKLOADS};

/// Whether the policy asks whose socket it is and nobody knows. Only a packet can tell, of a socket that is older than
/// the agent.
#[inline(always)]
pub(crate) fn is_unsure(socket: &Socket, case: &Case) -> bool {
    case.flags & (HAS_WORKLOADS | HAS_USERS) != 0
        && (socket.owner.cgroup == 0
            || (!socket.identity.holds(case.generation) && ancestors(socket.owner.cgroup).is_none()))
}

/// Takes whose socket it is from a packet.
#[inline(always)]
pub(crate) fn ask(skb: *mut __sk_buff, socket: &mut Socket) {
    // SAFETY: the context of the running program, whose type has the helpers.
    unsafe {
        socket.owner.uid = bpf_get_socket_uid(skb);
        socket.owner.cgroup = bpf_skb_cgroup_id(skb);
        remember(socket.owner.cgroup, |level| bpf_skb_ancestor_cgroup_id(skb, level));
    }
    socket.identity = Identity::NONE;
}

/// Sees to it that the ancestors of a cgroup are known, if the process that runs now is in it.
#[inline(always)]
pub(crate) fn know_ancestors(cgroup: u64) {
    // SAFETY: the helpers take nothing, or a number.
    unsafe {
        if ancestors(cgroup).is_none() && cgroup == bpf_get_current_cgroup_id() {
            remember(cgroup, |level| bpf_get_current_ancestor_cgroup_id(level));
        }
    }
}

/// Linux 6.1 takes no key from the memory of a global function's argument, so it is copied.
#[inline(always)]
fn ancestors(cgroup: u64) -> Option<*const Ancestors> {
    ANCESTORS.get_ptr(&cgroup)
}

/// Remembers a cgroup's ancestors, which `at` tells by their level.
#[inline(always)]
fn remember(cgroup: u64, at: impl Fn(i32) -> u64) {
    let mut place = MaybeUninit::<Ancestors>::uninit();
    let to = place.as_mut_ptr().cast::<u64>();
    for level in 0..LEVELS {
        // SAFETY: the array has so many words.
        unsafe { write_volatile(to.add(level), at(level as i32)) };
    }
    // SAFETY: all its words are written. What finds no room is asked for again.
    let _ = ANCESTORS.insert(&cgroup, unsafe { place.assume_init_ref() }, 0);
}

/// Sets what the socket of a packet is decided as, where there is no memory to remember it.
#[inline(never)]
pub(crate) fn of_packet(skb: *mut __sk_buff, case: &mut Case) {
    if case.flags & HAS_WORKLOADS != 0 {
        // SAFETY: as in `ask`.
        let mut found = known(case.slot, unsafe { bpf_skb_cgroup_id(skb) });
        for level in (0..LEVELS).rev() {
            if found.is_none() {
                // SAFETY: as in `ask`.
                found = known(case.slot, unsafe { bpf_skb_ancestor_cgroup_id(skb, level as i32) });
            }
        }
        if let Some(subject) = found {
            case.subject = subject;
            return;
        }
    }
    if case.flags & HAS_USERS != 0 {
        // SAFETY: as in `ask`.
        if let Some(subject) = by_user(case.slot, unsafe { bpf_get_socket_uid(skb) }) {
            case.subject = subject;
        }
    }
}

/// Sets what a socket is decided as, found once for each generation.
///
/// Several CPUs may find it at once, and during a swap not in the same generation: so what was found is one word, with the
/// generation for which it holds.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn resolve(socket: *mut Socket, case: *mut Case) -> u32 {
    // SAFETY: a live map value and a case of this program, or null, which the kernel holds possible.
    let (Some(socket), Some(case)) = (unsafe { (socket.as_mut(), case.as_mut()) }) else {
        return 0;
    };
    // SAFETY: fields of a live map value.
    let (identity, former) =
        unsafe { (read_volatile(&raw const socket.identity), read_volatile(&raw const socket.former)) };
    let (subject, anew) = if identity.holds(case.generation) {
        (Subject::lasting(identity.subject()), false)
    } else {
        let subject = look_up(case, socket);
        // The word has no place for the time when it ends.
        (subject, subject.expires != 0 || is_unsure(socket, case))
    };
    let before = identity.subject();
    case.former = former;
    if identity != Identity::NONE && before != subject.id {
        case.former = before;
    }
    if case.former.0 == 0 {
        case.former = subject.id;
    }
    let found = Identity::new(case.generation, subject.id, anew);
    if found != identity {
        // SAFETY: fields of a live map value; nobody takes the identity for what it was before the other was written.
        unsafe {
            write_volatile(&raw mut socket.former, case.former);
            write_volatile(&raw mut socket.identity, found);
        }
    }
    case.subject = subject;
    1
}

#[inline(always)]
fn look_up(case: &Case, socket: &Socket) -> Subject {
    if socket.owner.cgroup != 0 {
        let found = if case.flags & HAS_WORKLOADS != 0 { by_cgroups(case.slot, socket) } else { None };
        if let Some(subject) = found {
            return subject;
        }
        let found = if case.flags & HAS_USERS != 0 { by_user(case.slot, socket.owner.uid) } else { None };
        if let Some(subject) = found {
            return subject;
        }
    }
    // The host's, as a new case says.
    case.subject
}

/// By its cgroup, else the nearest ancestor that is a workload's.
#[inline(always)]
fn by_cgroups(slot: u32, socket: &Socket) -> Option<Subject> {
    let own = known(slot, socket.owner.cgroup);
    if own.is_some() {
        return own;
    }
    let ancestors = ancestors(socket.owner.cgroup)?;
    for level in (0..LEVELS).rev() {
        // SAFETY: a look-up's pointer stays valid for the program's run.
        let found = known(slot, unsafe { (*ancestors)[level] });
        if found.is_some() {
            return found;
        }
    }
    None
}

/// A cgroup's workload, or what it was until it was removed, if the policy still knows that.
#[inline(always)]
fn known(slot: u32, cgroup: u64) -> Option<Subject> {
    if cgroup == 0 {
        return None;
    }
    if let Some(subject) = by_cgroup(slot, cgroup) {
        return Some(subject);
    }
    let ended = ENDED.get_ptr(&cgroup)?;
    // SAFETY: a look-up's pointer stays valid for the program's run.
    by_cgroup(slot, Subject::key(unsafe { *ended }))
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
