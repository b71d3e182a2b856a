//! Programs that do nothing, on the hooks of segd's, and two that only look a socket's storage up: what `cargo xtask bench`
//! holds segd against. Not part of segd.

#![no_std]
#![no_main]

use core::ffi::c_void;
use core::ptr::{from_ref, null_mut};

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::{btf_map, cgroup_skb, cgroup_sock, cgroup_sock_addr, sock_ops};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext, SockOpsContext};

#[cgroup_sock(sock_create)]
fn sock_create(_: SockContext) -> i32 {
    1
}

#[cgroup_sock(sock_release)]
fn sock_release(_: SockContext) -> i32 {
    1
}

#[sock_ops]
fn sock_ops(_: SockOpsContext) -> u32 {
    1
}

#[cgroup_skb(ingress)]
fn ingress(_: SkBuffContext) -> i32 {
    1
}

#[cgroup_skb(egress)]
fn egress(_: SkBuffContext) -> i32 {
    1
}

#[cgroup_sock_addr(connect4)]
fn connect4(_: SockAddrContext) -> i32 {
    1
}

#[cgroup_sock_addr(connect6)]
fn connect6(_: SockAddrContext) -> i32 {
    1
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(_: SockAddrContext) -> i32 {
    1
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(_: SockAddrContext) -> i32 {
    1
}

/// Packets that a socket had.
#[btf_map]
static PACKETS: SkStorage<u64> = SkStorage::new();

#[cgroup_skb(ingress)]
fn ingress_look_up(ctx: SkBuffContext) -> i32 {
    look_up(&ctx)
}

#[cgroup_skb(egress)]
fn egress_look_up(ctx: SkBuffContext) -> i32 {
    look_up(&ctx)
}

/// Counts a packet in its socket's storage.
#[inline(always)]
fn look_up(ctx: &SkBuffContext) -> i32 {
    // SAFETY: the context's socket, which is checked for null; the value lives as long as the socket.
    unsafe {
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if !sk.is_null() {
            let map = from_ref(&PACKETS).cast_mut().cast::<c_void>();
            let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
            let packets = bpf_sk_storage_get(map, sk.cast(), null_mut(), flags).cast::<u64>();
            if !packets.is_null() {
                *packets += 1;
            }
        }
    }
    1
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// As segd's own programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
