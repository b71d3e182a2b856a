//! A new cgroup gets its workload at the instant it is made, before a process can be in it and make a socket; a removed
//! one gives its place back, and is remembered for the sockets that live on. In every slot that knows workloads, for a
//! generation may be being built beside the one in force.
//!
//! The kernel holds one lock around every event of a cgroup (`trace_cgroup_path_lock`, kernel/cgroup/cgroup-internal.h),
//! so these programs run one at a time, and one place for their work is enough.

use core::ffi::c_void;
use core::ptr::null_mut;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel_str};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use segd_common::counter::Loss;
use segd_common::glob::{Matching, PATH_BYTES, STEPS};
use segd_common::schema::{MAX_PATTERNS, SLOTS};
use segd_common::socket::LEVELS;
use segd_common::table::{Pattern, Subject};

use crate::case::copy;
use crate::count;
use crate::maps::{ACTIVE, ENDED, PATTERNS, SEARCH, WORKLOADS};

/// Offsets of the fields of the events cgroup_mkdir and cgroup_rmdir, the same on Linux 6.1 to 6.18
/// (events/cgroup/cgroup_mkdir/format of tracefs): the hierarchy's number, 0 for cgroup2; the cgroup's depth below the root;
/// its id; where its path stands, in the low half a number of bytes from the event's beginning.
const ROOT: usize = 8;
const LEVEL: usize = 12;
const ID: usize = 16;
const PATH: usize = 24;

/// The search for a new cgroup's workload in one slot.
#[repr(C)]
pub(crate) struct Search {
    path: [u8; PATH_BYTES],
    pattern: Pattern,
    best: Subject,
    matching: Matching,
    /// Bytes of `path`.
    len: u32,
    slot: u32,
    /// Bytes of the path that `best` matched; 0: nothing did yet.
    matched: u32,
    /// How deep the cgroup is.
    level: u32,
}

#[tracepoint]
fn cgroup_mkdir(ctx: TracePointContext) -> u32 {
    let Some(id) = id_of(&ctx) else {
        return 0;
    };
    let Some(search) = search() else {
        return 0;
    };
    // SAFETY: fields of the event; the text ends with a NUL, and the buffer has the length that is passed.
    unsafe {
        let (Ok(place), Ok(level)) = (ctx.read_at::<u32>(PATH), ctx.read_at::<u32>(LEVEL)) else {
            return 0;
        };
        search.level = level;
        let text = ctx.as_ptr().cast_const().byte_add((place & 0xffff) as usize);
        let read = bpf_probe_read_kernel_str((&raw mut search.path).cast(), PATH_BYTES as u32, text);
        // With the NUL.
        search.len = u32::try_from(read - 1).unwrap_or(0);
    }
    for slot in 0..SLOTS {
        put(slot, id);
    }
    0
}

#[tracepoint]
fn cgroup_rmdir(ctx: TracePointContext) -> u32 {
    let Some(id) = id_of(&ctx) else {
        return 0;
    };
    for slot in 0..SLOTS {
        end(slot, id);
    }
    if let Some(active) = ACTIVE.get(0) {
        end(active.slot, id);
    }
    for slot in 0..SLOTS {
        if let Some(workloads) = WORKLOADS.get(slot) {
            // Most are no workload's.
            let _ = workloads.remove(&id);
        }
    }
    0
}

/// Remembers what a removed cgroup was in a slot, if it stood there.
#[inline(always)]
fn end(slot: u32, id: u64) {
    if let Some(subject) = WORKLOADS.get_value_ptr_mut(slot, &id) {
        // SAFETY: a look-up's pointer stays valid for the program's run.
        let _ = ENDED.insert(&id, unsafe { (*subject)[0].id }, 0);
    }
}

/// The id of an event's cgroup, if that is in the cgroup2 tree.
#[inline(always)]
fn id_of(ctx: &TracePointContext) -> Option<u64> {
    // SAFETY: fields of the event.
    unsafe { if ctx.read_at::<u32>(ROOT).ok()? == 0 { ctx.read_at::<u64>(ID).ok() } else { None } }
}

#[inline(always)]
fn search() -> Option<&'static mut Search> {
    // SAFETY: a look-up's pointer stays valid for the program's run, and no other program runs that uses it.
    SEARCH.get_ptr_mut(0).map(|search| unsafe { &mut *search })
}

/// Finds the workload of a new cgroup by the patterns of a slot, and remembers it there.
#[inline(always)]
fn put(slot: u32, id: u64) {
    if let Some(search) = search() {
        (search.slot, search.matched) = (slot, 0);
    }
    // SAFETY: the callback has the type that the helper wants.
    unsafe { bpf_loop(MAX_PATTERNS, try_pattern as *mut c_void, null_mut(), 0) };
    // Looked up anew, as a reference from before would promise that the callbacks change nothing.
    let Some(Search { best, matched, level, len, .. }) = search() else {
        return;
    };
    // What an ancestor is, a socket knows by that, unless it is too deep to be remembered.
    let own = *matched == *len || *level > LEVELS as u32;
    if *matched == 0 || !own {
        return;
    }
    let Some(workloads) = WORKLOADS.get(slot) else {
        return;
    };
    let subject = [*best];
    if workloads.insert(&id, &subject, 0).is_err() {
        count::lose(Loss::Workloads, 1);
    }
}

/// Returns 1 to end the loop, as every callback of `bpf_loop`.
unsafe extern "C" fn try_pattern(index: u32, _: *mut c_void) -> i64 {
    let Some(begun) = search() else {
        return 1;
    };
    let Some(pattern) = PATTERNS.get_value_ptr_mut(begun.slot, &index) else {
        return 1;
    };
    // SAFETY: a look-up's pointer stays valid for the program's run.
    let [pattern] = unsafe { &*pattern };
    copy(&raw mut begun.pattern, pattern);
    begun.matching = Matching::new(pattern);
    // SAFETY: the callback has the type that the helper wants.
    unsafe { bpf_loop(STEPS, step as *mut c_void, null_mut(), 0) };
    // As in `put`.
    let Some(done) = search() else {
        return 1;
    };
    let matched = done.matching.matched();
    if matched > done.matched {
        done.matched = matched;
        copy(&raw mut done.best, &pattern.subject);
    }
    0
}

unsafe extern "C" fn step(_: u32, _: *mut c_void) -> i64 {
    let Some(Search { path, pattern, matching, len, .. }) = search() else {
        return 1;
    };
    i64::from(!matching.step(pattern, path, *len))
}
