//! Sockets older than the programs: what user space has found out of them, taken when they are first met.

use segd_common::addr::Addr;
use segd_common::counter::OVERFLOW;
use segd_common::socket::{Identity, Socket};
use segd_common::traffic::{Reason, Verdict};

use crate::case::{Context, cookie, copy};
use crate::maps::SEEDS;
use crate::view::now;

/// If nobody knows whose a socket is, gives it the owner and the flow that were found for it.
#[inline(always)]
pub(crate) fn adopt(ctx: Context, socket: &mut Socket) {
    if socket.owner.cgroup == 0 {
        take(socket, cookie(ctx));
    }
}

/// [`adopt`]. The flow counts as one that a former policy let pass: it is decided at once, and told as begun or, if it
/// may not go on, as revoked.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take(socket: *mut Socket, cookie: u64) -> u32 {
    // SAFETY: a live map value, or null, which the kernel holds possible.
    let Some(socket) = (unsafe { socket.as_mut() }) else {
        return 0;
    };
    let Some(seed) = SEEDS.get_ptr(&cookie) else {
        return 0;
    };
    // SAFETY: a look-up's pointer stays valid for the program's run.
    let seed = unsafe { &*seed };
    copy(&mut socket.owner, &seed.owner);
    socket.identity = Identity::NONE;
    let flow = &mut socket.flow;
    if flow.protocol == 0 && seed.protocol != 0 {
        // Of no generation, and all else is zero: no flow was there.
        flow.started = now();
        flow.counter = OVERFLOW;
        copy(&mut flow.peer, &seed.peer);
        // Not what the socket began before (`Socket::last`).
        flow.local = Addr::UNSPECIFIED;
        flow.peer_port = seed.peer_port;
        flow.direction = seed.direction;
        flow.verdict = Verdict::Allowed as u8;
        flow.reason = Reason::NoRule as u8;
        flow.protocol = seed.protocol;
    }
    let _ = SEEDS.remove(&cookie);
    1
}

/// Forgets what was found for a socket that ends.
#[inline(always)]
pub(crate) fn forget(ctx: Context) {
    let _ = SEEDS.remove(&cookie(ctx));
}
