//! What segd's BPF programs and segd's user space share, and nothing else.
//!
//! Everything here is plain data and pure functions: no allocation, no panic, no kernel, no clock.
//! The one question segd answers, "may this packet pass?", is answered by [`decide::decide`], which the
//! BPF programs, `segd explain`, `segd check` and the tests all call.
//!
//! Every struct that lives in a BPF map is `repr(C)` with explicit padding. Change one of them, or what one
//! of its fields means, only together with [`schema::VERSION`].

#![no_std]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod counter;
pub mod decide;
pub mod event;
pub mod flow;
pub mod glob;
pub mod id;
pub mod packet;
pub mod schema;
pub mod socket;
pub mod table;
pub mod traffic;

#[cfg(feature = "user")]
mod pod {
    use aya::Pod;

    macro_rules! pods {
        ($($t:ty),* $(,)?) => {
            // SAFETY: each is `Copy`, `repr(C)` or `repr(transparent)`, without padding (its module's tests
            // check the size) and valid for every bit pattern, as its fields are integers and arrays of them.
            $(unsafe impl Pod for $t {})*
        };
    }
    pods!(
        crate::addr::Addr,
        crate::counter::Counter,
        crate::counter::CounterKey,
        crate::event::Event,
        crate::flow::Budget,
        crate::flow::Denial,
        crate::flow::DenialKey,
        crate::flow::Flow,
        crate::flow::FlowKey,
        crate::flow::OwnedFlow,
        crate::socket::Seat,
        crate::socket::Seed,
        crate::socket::Socket,
        crate::id::ServiceId,
        crate::id::ZoneId,
        crate::table::Active,
        crate::table::FailsafeKey,
        crate::table::Pattern,
        crate::table::PeerZone,
        crate::table::PolicyEntry,
        crate::table::PolicyKey,
        crate::table::ServiceKey,
        crate::table::Subject,
    );
}
