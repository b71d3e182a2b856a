//! What was decided lately, by destination: connections that come and go to the same service are decided once in each
//! generation, with one look-up instead of five in tables of any size.
//!
//! A table that is its own hash: an entry that another one needs the place of is overwritten. Only `connect`, `sendmsg` and
//! accepted connections fill it, with what passes: no stranger can, and what a packet's address means does not differ from
//! what it means there, but for the host's own addresses, which do not come in.

use core::ptr::{read_volatile, write_volatile};

use segd_common::addr::Addr;
use segd_common::counter::OVERFLOW;
use segd_common::id::{Generation, RuleId, ServiceId, SubjectId, ZoneId};
use segd_common::traffic::{Direction, Reason, Verdict, protocol};

use crate::case::{Case, copy};
use crate::count::{add, exchange, place_of};
use crate::maps::DECIDED;
use crate::view::now;

/// Places: a power of two.
const PLACES: usize = 1024;

/// All places, as one value of a map: so that each is one cache line on Linux 6.18, which puts an array's values 8 bytes before
/// one (`struct bpf_array` of include/linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Lately {
    lead: u64,
    places: [Decided; PLACES],
}

/// One decision: a cache line.
#[repr(C)]
#[derive(Clone, Copy)]
struct Decided {
    /// Counts what was written here; [`BUSY`] while somebody writes.
    version: u64,
    peer: Addr,
    /// The server's port, the subject, protocol and direction.
    what: u64,
    expires: u64,
    generation: Generation,
    counter: u32,
    rule: RuleId,
    zone: ZoneId,
    service: ServiceId,
    verdict: u8,
    reason: u8,
    pad: [u8; 6],
}

const _: () = assert!(size_of::<Decided>() == 64);

const BUSY: u64 = u64::MAX;

/// What is asked, but for the peer. `port`: the server's.
#[inline(always)]
fn what(port: u16, subject: SubjectId, number: u8, direction: Direction) -> u64 {
    u64::from(port) | u64::from(subject.0) << 16 | u64::from(number) << 32 | (direction as u64) << 40
}

#[inline(always)]
fn asked(case: &Case) -> u64 {
    what(case.service_port(), case.subject.id, case.protocol, case.direction)
}

#[inline(always)]
fn place(peer: &Addr, what: u64) -> Option<*mut Decided> {
    // The golden ratio's bits (Knuth, The Art of Computer Programming, 6.4).
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let [high, low] = peer.words();
    let mixed = (high ^ low.rotate_left(32) ^ what).wrapping_mul(SPREAD);
    let place = (mixed >> (64 - PLACES.trailing_zeros())) as usize;
    // SAFETY: a place of the array, as the number has no more bits.
    DECIDED.get_ptr_mut(0).map(|lately| unsafe { (&raw mut (*lately).places).cast::<Decided>().add(place) })
}

/// Answers a case as it was answered before in this generation, with its counter. Returns whether it could; if not, the
/// answer's fields say nothing.
#[inline(always)]
pub(crate) fn recall(case: &mut Case) -> bool {
    let what = asked(case);
    let (peer, generation) = (case.peer, case.generation);
    // SAFETY: fields of the live map value that it is given.
    find(&peer, what, generation, |place, expires| unsafe {
        case.expires = expires;
        case.counter = read_volatile(&raw const (*place).counter);
        case.rule = read_volatile(&raw const (*place).rule);
        case.zone = read_volatile(&raw const (*place).zone);
        case.service = read_volatile(&raw const (*place).service);
        let verdict = read_volatile(&raw const (*place).verdict);
        case.verdict = if verdict == Verdict::Audited as u8 { Verdict::Audited } else { Verdict::Allowed };
        let reason = read_volatile(&raw const (*place).reason);
        case.reason = Reason::from_byte(reason).unwrap_or(Reason::NoRule);
    })
}

/// The counter of a TCP connection that a peer begins with this port, if such a one was let pass before in this generation;
/// else [`OVERFLOW`].
#[inline(always)]
pub(crate) fn accepted(peer: &Addr, port: u16, subject: SubjectId, generation: Generation) -> u32 {
    let what = what(port, subject, protocol::TCP, Direction::Inbound);
    let mut counter = OVERFLOW;
    // SAFETY: a field of the live map value that it is given.
    let found = find(peer, what, generation, |place, _| unsafe {
        counter = read_volatile(&raw const (*place).counter);
    });
    if found { counter } else { OVERFLOW }
}

/// Lets `read` read an answer, with the time when it expires. Returns whether there is one, and what was read is of that one.
#[inline(always)]
fn find(peer: &Addr, what: u64, generation: Generation, read: impl FnOnce(*const Decided, u64)) -> bool {
    let Some(place) = place(peer, what) else {
        return false;
    };
    // SAFETY: fields of a live map value, which others may write at the same time: what is read counts only if the version
    // is the same before and after. An add of nothing returns it with no read moved past it.
    unsafe {
        let version = add(&raw mut (*place).version, 0);
        if version == BUSY
            || read_volatile(&raw const (*place).what) != what
            || read_volatile(&raw const (*place).generation) != generation
            || !same(&raw const (*place).peer, peer)
        {
            return false;
        }
        let expires = read_volatile(&raw const (*place).expires);
        read(place, expires);
        add(&raw mut (*place).version, 0) == version && (expires == 0 || now() < expires)
    }
}

/// Whether an address that others may write at the same time reads as this one; neither read is moved.
///
/// # Safety
/// `shared` must be in a live map value.
#[inline(always)]
unsafe fn same(shared: *const Addr, own: &Addr) -> bool {
    let (shared, own) = (shared.cast::<u64>(), (&raw const *own).cast::<u64>());
    // SAFETY: an address is two words, by the caller's promise in a map value, and one on this program's frame.
    unsafe {
        read_volatile(shared) == read_volatile(own)
            && read_volatile(shared.add(1)) == read_volatile(own.add(1))
    }
}

/// Remembers a case's answer, of no packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn remember(case: *mut Case) -> u32 {
    // SAFETY: a case of this program or null, which the kernel holds possible.
    let Some(case) = (unsafe { case.as_mut() }) else {
        return 0;
    };
    if case.zone == ZoneId::LOOPBACK || !case.verdict.passes() {
        return 0;
    }
    case.counter = place_of(case);
    let what = asked(case);
    let Some(place) = place(&case.peer, what) else {
        return 0;
    };
    // SAFETY: fields of a live map value. Who finds another one writing leaves it alone; the exchanges keep the writes
    // between them.
    unsafe {
        let version = exchange(&raw mut (*place).version, BUSY);
        if version == BUSY {
            return 0;
        }
        copy(&raw mut (*place).peer, &case.peer);
        write_volatile(&raw mut (*place).what, what);
        write_volatile(&raw mut (*place).expires, case.expires);
        write_volatile(&raw mut (*place).generation, case.generation);
        write_volatile(&raw mut (*place).counter, case.counter);
        write_volatile(&raw mut (*place).rule, case.rule);
        write_volatile(&raw mut (*place).zone, case.zone);
        write_volatile(&raw mut (*place).service, case.service);
        write_volatile(&raw mut (*place).verdict, case.verdict as u8);
        write_volatile(&raw mut (*place).reason, case.reason as u8);
        exchange(&raw mut (*place).version, version + 1);
    }
    1
}
