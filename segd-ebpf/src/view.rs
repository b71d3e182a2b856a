//! The policy in force, as `segd_common::decide` sees it.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use segd_common::addr::Addr;
use segd_common::decide::{Decision, Facts, View, decide_in_zone, zone_of, zone_on_wire};
use segd_common::id::{Generation, ServiceId, SubjectId, ZoneId};
use segd_common::table::{FailsafeKey, PolicyEntry, PolicyKey, ServiceKey};

use crate::maps::{ACTIVE, FAILSAFES, GENERATIONS, HOSTS, POLICY, PREFIXES4, PREFIXES6, SERVICES};

/// One generation slot. A program reads [`ACTIVE`] once, here, so that all its look-ups see one generation.
#[derive(Clone, Copy)]
pub(crate) struct Policy {
    slot: u32,
    pub(crate) generation: Generation,
    pub(crate) host: SubjectId,
}

impl Policy {
    /// `None` before the first policy: everything passes.
    #[inline(always)]
    pub(crate) fn current() -> Option<Self> {
        let slot = *ACTIVE.get(0)?;
        let info = GENERATIONS.get(slot)?;
        if info.generation == Generation::NONE {
            return None;
        }
        Some(Self { slot, generation: info.generation, host: info.host })
    }
}

impl View for Policy {
    #[inline(always)]
    fn host(&self, addr: &Addr) -> Option<ZoneId> {
        // SAFETY: a look-up's pointer stays valid for the program's run; the value is copied at once.
        HOSTS.get_value_ptr_mut(self.slot, addr).map(|zone| unsafe { (*zone)[0] })
    }

    #[inline(always)]
    fn prefix(&self, addr: &Addr) -> Option<ZoneId> {
        let zone = match addr.as_v4() {
            Some(v4) => PREFIXES4.get_value_ptr_mut(self.slot, &Key::new(32, v4)),
            None => PREFIXES6.get_value_ptr_mut(self.slot, &Key::new(128, addr.bytes())),
        };
        // SAFETY: as in `host`.
        zone.map(|zone| unsafe { (*zone)[0] })
    }

    #[inline(always)]
    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        let entry = POLICY.get_value_ptr_mut(self.slot, &Key::new(PolicyKey::BITS, *key));
        // SAFETY: as in `host`.
        entry.map(|entry| unsafe { (*entry)[0] })
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<ServiceId> {
        let service = SERVICES.get_value_ptr_mut(self.slot, &Key::new(32, *key));
        // SAFETY: as in `host`.
        service.map(|service| unsafe { (*service)[0] })
    }

    #[inline(always)]
    fn failsafe(&self, key: &FailsafeKey) -> bool {
        FAILSAFES.get_value_ptr_mut(self.slot, &Key::new(160, *key)).is_some()
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        now()
    }
}

/// Nanoseconds of CLOCK_BOOTTIME.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes nothing and always answers.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// `decide`, once per program instead of once per caller.
///
/// `on_wire`: the peer's address was read from a packet on an interface other than the loopback device.
#[inline(never)]
pub(crate) fn decide(policy: &Policy, facts: &Facts, on_wire: bool) -> Decision {
    let zone = if on_wire { zone_on_wire(policy, &facts.peer) } else { zone_of(policy, &facts.peer) };
    decide_in_zone(policy, facts, zone)
}
