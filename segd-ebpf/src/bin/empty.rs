//! Programs that do nothing, on the hooks of segd's: what `cargo xtask bench` holds segd against. Not part of segd.

#![no_std]
#![no_main]

use aya_ebpf::macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, sock_ops};
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

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// As segd's own programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
