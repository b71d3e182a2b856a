//! segd's BPF programs, one file a hook family. None holds policy of its own: they collect the facts, ask
//! `segd_common::decide`, and count and tell the answer.

#![no_std]
#![no_main]
#![expect(internal_features, reason = "an atomic add in a map has no stable name on this target")]
#![expect(clippy::cast_possible_truncation, reason = "the kernel's contexts widen every field to u32")]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value is copied on a stack of 512 bytes"
)]
#![feature(core_intrinsics)]

mod borrow;
mod bytes;
mod case;
mod cgroup;
mod connect;
mod count;
mod debug;
mod decided;
mod flow;
mod iter;
mod look;
mod maps;
mod seat;
mod seed;
mod sendmsg;
mod skb;
mod sock;
mod sock_ops;
mod subject;
mod tell;
mod view;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Dual licence: the kernel gives helpers marked GPL-only to programs that say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
