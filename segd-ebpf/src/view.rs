//! The policy in force, as `segd_common::decide` sees it.

use core::ptr::read_volatile;

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use segd_common::addr::Addr;
use segd_common::decide::View;
use segd_common::id::{Generation, ServiceId, SubjectId};
use segd_common::table::{FailsafeKey, HAS_DEADLINE, PeerZone, PolicyEntry, PolicyKey, ServiceKey};

use crate::maps::{ACTIVE, FAILSAFES, HOSTS, POLICY, PREFIXES4, PREFIXES6, SERVICES};

/// The generation in force. A program reads it once, so that all its look-ups see one generation.
#[derive(Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) slot: u32,
    pub(crate) generation: Generation,
    /// What the host's sockets are decided as that belong to no workload.
    pub(crate) host: SubjectId,
    /// As in [`GenerationInfo`](segd_common::table::GenerationInfo).
    pub(crate) flags: u8,
}

impl Policy {
    /// `None` before the first policy: everything passes.
    #[inline(always)]
    pub(crate) fn current() -> Option<Self> {
        let active = ACTIVE.get_ptr(0)?;
        // SAFETY: a look-up's pointer stays valid for the program's run; user space may write another slot's number, so it is
        // read once.
        let (mut slot, active) = unsafe { (read_volatile(&raw const (*active).slot), &*active) };
        let mut info = active.infos.get(slot as usize)?;
        if info.flags & HAS_DEADLINE != 0 && now() >= *active.deadlines.get(slot as usize)? {
            slot = u32::from(info.fallback);
            info = active.infos.get(slot as usize)?;
        }
        if info.generation == Generation::NONE {
            return None;
        }
        Some(Self { slot, generation: info.generation, host: info.host, flags: info.flags })
    }
}

/// The tables of a generation slot.
pub(crate) struct Slot(pub(crate) u32);

impl View for Slot {
    #[inline(always)]
    fn host(&self, addr: &Addr) -> Option<PeerZone> {
        // SAFETY: a look-up's pointer stays valid for the program's run; the value is copied at once.
        HOSTS.get_value_ptr_mut(self.0, addr).map(|zone| unsafe { (*zone)[0] })
    }

    #[inline(always)]
    fn prefix(&self, addr: &Addr) -> Option<PeerZone> {
        let zone = match addr.as_v4() {
            Some(v4) => PREFIXES4.get_value_ptr_mut(self.0, &Key::new(32, v4)),
            None => PREFIXES6.get_value_ptr_mut(self.0, &Key::new(128, addr.bytes())),
        };
        // SAFETY: as in `host`.
        zone.map(|zone| unsafe { (*zone)[0] })
    }

    #[inline(always)]
    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        let entry = POLICY.get_value_ptr_mut(self.0, &Key::new(PolicyKey::BITS, *key));
        // SAFETY: as in `host`.
        entry.map(|entry| unsafe { (*entry)[0] })
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<ServiceId> {
        let service = SERVICES.get_value_ptr_mut(self.0, &Key::new(32, *key));
        // SAFETY: as in `host`.
        service.map(|service| unsafe { (*service)[0] })
    }

    #[inline(always)]
    fn failsafe(&self, key: &FailsafeKey) -> bool {
        FAILSAFES.get_value_ptr_mut(self.0, &Key::new(160, *key)).is_some()
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
