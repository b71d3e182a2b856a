//! The programs' own log, for debugging them: `segd run --program-log debug`. Without that the level is a constant
//! by which the kernel removes all of it. Only where a flow is decided, never on an established one's packets.

use aya_log_ebpf::debug;

use crate::case::Case;

/// Logs what was decided.
#[inline(never)]
pub(crate) fn decided(case: &Case) {
    debug!(
        &(),
        "direction {} protocol {} peer {:i} ports {} {} zone {} verdict {} reason {} rule {}",
        case.direction as u8,
        case.protocol,
        case.peer.bytes(),
        case.local_port,
        case.peer_port,
        case.zone.0,
        case.verdict as u8,
        case.reason as u8,
        case.rule.0
    );
}
