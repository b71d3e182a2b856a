//! The programs' own log, for debugging them: `segd run --program-log debug`. Without that the level is a constant
//! by which the kernel removes all of it. Only where a flow is decided, never on an established one's packets.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_log_ebpf::debug;
use segd_common::decide::Decision;

use crate::flow::Party;

/// The context of whatever program runs.
struct Context(*mut c_void);

impl EbpfContext for Context {
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}

/// Logs what was decided.
#[inline(never)]
pub(crate) fn decided(ctx: *mut c_void, party: &Party, decision: &Decision) {
    debug!(
        &Context(ctx),
        "direction {} protocol {} peer {:i} ports {} {} zone {} verdict {} reason {} rule {}",
        party.direction as u8,
        party.protocol,
        party.ends.peer.bytes(),
        party.ends.local_port,
        party.ends.peer_port,
        decision.zone.0,
        decision.verdict as u8,
        decision.reason as u8,
        decision.rule.0
    );
}
