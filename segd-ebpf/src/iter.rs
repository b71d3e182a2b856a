//! What is kept of every live socket, whatever its network namespace, for user space to read in one go.

use core::ffi::c_void;

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write};
use segd_common::socket::{SEAT_HELD, SEAT_SHIFT, Seat, Socket};

use crate::borrow;

/// `struct bpf_iter__bpf_map_elem` of kernel/bpf/map_iter.c, the same since Linux 5.9.
#[repr(C)]
struct SeatContext {
    meta: *const Meta,
    map: *const c_void,
    key: *const u32,
    value: *mut Seat,
}

/// `struct bpf_iter__bpf_sk_storage_map` of net/core/bpf_sk_storage.c, which is the same since Linux 5.9.
#[repr(C)]
struct Context {
    meta: *const Meta,
    map: *const c_void,
    sk: *mut c_void,
    value: *mut Socket,
}

/// The beginning of `struct bpf_iter_meta` of include/linux/bpf.h.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// Counts what a socket's flow has carried so far.
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
#[unsafe(no_mangle)]
extern "C" fn settle_sockets(ctx: *const Context) -> i32 {
    // SAFETY: the kernel passes this context; the value is null after the last.
    let value = unsafe { (*ctx).value };
    if !value.is_null() {
        // SAFETY: not null; the value outlives the call.
        borrow::settle_any(unsafe { &mut (*value).flow });
    }
    0
}

/// Whether some socket has a seat, and not only is about to.
///
/// # Safety
/// The iterator's own value, not null.
#[inline(always)]
unsafe fn is_held(seat: *const Seat) -> bool {
    // SAFETY: by the caller.
    let whose = unsafe { (*seat).whose };
    whose & SEAT_HELD != 0 && whose >> SEAT_SHIFT != 0
}

/// [`settle_sockets`] for seats.
#[unsafe(link_section = "iter/bpf_map_elem")]
#[unsafe(no_mangle)]
extern "C" fn settle_seats(ctx: *const SeatContext) -> i32 {
    // SAFETY: the kernel passes this context; the value is null after the last, and outlives the call.
    unsafe {
        let seat = (*ctx).value;
        if !seat.is_null() && is_held(seat) {
            borrow::settle_any(&mut (*seat).socket.flow);
        }
    }
    0
}

/// Writes a socket's cookie, then what is kept of it. A value that finds no room any more is shown again to the next
/// read (`bpf_seq_read`, kernel/bpf/bpf_iter.c).
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
#[unsafe(no_mangle)]
extern "C" fn live_sockets(ctx: *const Context) -> i32 {
    // SAFETY: the kernel passes this context; socket and value are null after the last.
    let (meta, sk, value) = unsafe { ((*ctx).meta, (*ctx).sk, (*ctx).value) };
    if sk.is_null() || value.is_null() {
        return 0;
    }
    // SAFETY: neither is null, and both outlive the call.
    unsafe {
        write((*meta).seq, bpf_get_socket_cookie(sk), value);
    }
    0
}

/// # Safety
/// The iterator's own file and value.
#[inline(always)]
unsafe fn write(seq: *mut seq_file, cookie: u64, socket: *const Socket) {
    // SAFETY: by the caller; the buffers have the lengths that are passed.
    unsafe {
        bpf_seq_write(seq, (&raw const cookie).cast(), 8);
        bpf_seq_write(seq, socket.cast(), size_of::<Socket>() as u32);
    }
}

/// [`live_sockets`] for seats that are held.
#[unsafe(link_section = "iter/bpf_map_elem")]
#[unsafe(no_mangle)]
extern "C" fn live_seats(ctx: *const SeatContext) -> i32 {
    // SAFETY: the kernel passes this context; the value is null after the last, and outlives the call.
    unsafe {
        let (meta, seat) = ((*ctx).meta, (*ctx).value);
        if !seat.is_null() && is_held(seat) {
            write((*meta).seq, (*seat).whose >> SEAT_SHIFT, &raw const (*seat).socket);
        }
    }
    0
}
