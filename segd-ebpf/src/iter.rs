//! What is kept of every live socket, whatever its network namespace, for user space to read in one go.

use core::ffi::c_void;

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write};
use segd_common::schema::SEAT_BLOCK;
use segd_common::socket::{SEAT_HELD, SEAT_SHIFT, Seat, Socket};

use crate::borrow;
use crate::maps::SEATS;

/// `struct bpf_iter__bpf_map_elem` of kernel/bpf/map_iter.c, the same since Linux 5.9, of `SEAT_BLOCKS`.
#[repr(C)]
struct BlockContext {
    meta: *const Meta,
    map: *const c_void,
    key: *const u32,
    value: *mut u32,
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

/// How many blocks are walked over in one call of read(2), which goes on until something is written and lets nobody else run
/// meanwhile.
const STRETCH: u32 = 16;

/// Calls `each` with every seat of a block that some socket has, and not only is about to, and its SO_COOKIE. Returns the
/// block's first one, if a call of read(2) ends with this block.
#[inline(always)]
fn walk(block: u32, mut each: impl FnMut(*mut Seat, u64)) -> Option<*const Seat> {
    let first = block * SEAT_BLOCK;
    for place in 0..SEAT_BLOCK {
        let seat = SEATS.get_ptr_mut(first | place)?;
        // SAFETY: a look-up's pointer stays valid for the program's run.
        let whose = unsafe { (*seat).whose };
        if whose & SEAT_HELD != 0 && whose >> SEAT_SHIFT != 0 {
            each(seat, whose >> SEAT_SHIFT);
        }
    }
    if block % STRETCH == STRETCH - 1 { SEATS.get_ptr(first) } else { None }
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

/// [`settle_sockets`] for the seats of a block. Writes eight bytes of no meaning at the end of each stretch.
#[unsafe(link_section = "iter/bpf_map_elem")]
#[unsafe(no_mangle)]
extern "C" fn settle_seats(ctx: *const BlockContext) -> i32 {
    // SAFETY: the kernel passes this context; the key is null after the last, and outlives the call.
    let (meta, key) = unsafe { ((*ctx).meta, (*ctx).key) };
    if key.is_null() {
        return 0;
    }
    // SAFETY: the key is not null; the seats are live values of their map; the file is the iterator's own.
    unsafe {
        let last = walk(*key, |seat, _| borrow::settle_any(&mut (*seat).socket.flow));
        if let Some(any) = last {
            bpf_seq_write((*meta).seq, (&raw const (*any).whose).cast_mut().cast(), 8);
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

/// [`live_sockets`] for the seats of a block; at the end of each stretch one more, with cookie 0.
#[unsafe(link_section = "iter/bpf_map_elem")]
#[unsafe(no_mangle)]
extern "C" fn live_seats(ctx: *const BlockContext) -> i32 {
    // SAFETY: the kernel passes this context; the key is null after the last, and outlives the call.
    let (meta, key) = unsafe { ((*ctx).meta, (*ctx).key) };
    if key.is_null() {
        return 0;
    }
    // SAFETY: the key is not null; the seats are live values of their map; the file is the iterator's own.
    unsafe {
        let show = |seat: *const Seat, cookie| write((*meta).seq, cookie, &raw const (*seat).socket);
        let last = walk(*key, |seat, cookie| show(seat, cookie));
        if let Some(any) = last {
            show(any, 0);
        }
    }
    0
}
