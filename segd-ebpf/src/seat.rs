//! Seats: what is kept of most sockets lies in one table, at the place that the socket's cookie says. It costs neither an
//! allocation at a socket's beginning nor a release behind its end, and a packet finds it without a call.
//!
//! Cookies are given in order, so a place is wanted again only when as many sockets have come as there are places. A socket
//! that finds its place held gets socket-local storage instead, and so does each whose end the programs may not see: see
//! [`crate::sock`]. A place that is free again keeps what it held until another socket takes it, for packets that come
//! behind the end.

use core::intrinsics::{AtomicOrdering, atomic_and, atomic_cxchg, atomic_or};
use core::ptr::{read_volatile, write_volatile};

use segd_common::flow::{Greeting, SEAT_HELD, SEAT_SHIFT, Seat, Socket};
use segd_common::packet::Ends;
use segd_common::schema::SEAT_ENTRIES;

use crate::case::{Case, copy, zero};
use crate::maps::{GREETED, SEATS};

const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;

#[inline(always)]
fn at(cookie: u64) -> Option<*mut Seat> {
    SEATS.get_ptr_mut((cookie % u64::from(SEAT_ENTRIES)) as u32)
}

/// The seat of the socket with this cookie, if it has one.
#[inline(always)]
fn of(cookie: u64) -> Option<*mut Seat> {
    let seat = at(cookie)?;
    // SAFETY: a field of a live map value. Zero, the cookie of no socket, is that of a place that nobody had yet.
    let own = unsafe { read_volatile(&raw const (*seat).whose) >> SEAT_SHIFT == cookie && cookie != 0 };
    if own { Some(seat) } else { None }
}

/// What is kept of the socket with this cookie, if it has a seat.
#[inline(always)]
pub(crate) fn kept(cookie: u64) -> Option<&'static mut Socket> {
    // SAFETY: a look-up's pointer stays valid for the program's run. A place is given to another socket only after the end
    // of this one.
    of(cookie).map(|seat| unsafe { &mut (*seat).socket })
}

/// Gives a socket its seat, if that is free, until it [`leave`]s for each of the reasons in `until`.
#[inline(always)]
pub(crate) fn take(cookie: u64, until: u64) -> Option<&'static mut Socket> {
    let seat = at(cookie)?;
    // SAFETY: a look-up's pointer stays valid for the program's run. Who writes the first hold has the place alone, and from
    // then on the former socket does not find it.
    unsafe {
        let whose = read_volatile(&raw const (*seat).whose);
        if whose & SEAT_HELD != 0 {
            return None;
        }
        let mine = cookie << SEAT_SHIFT | until;
        let (_, free) = atomic_cxchg::<u64, ORDER, ORDER>(&raw mut (*seat).whose, whose, mine);
        if !free {
            return None;
        }
        let socket = &raw mut (*seat).socket;
        zero(socket);
        Some(&mut *socket)
    }
}

/// One more end until which a socket's seat is held, if it has one.
#[inline(always)]
pub(crate) fn hold(cookie: u64, until: u64) {
    if let Some(seat) = of(cookie) {
        // SAFETY: a field of a live map value.
        unsafe { atomic_or::<u64, u64, ORDER>(&raw mut (*seat).whose, until) };
    }
}

/// One of the ends until which a socket's seat is held has come. With the last one the seat is free.
#[inline(always)]
pub(crate) fn leave(cookie: u64, end: u64) {
    if let Some(seat) = of(cookie) {
        // SAFETY: a field of a live map value.
        unsafe { atomic_and::<u64, u64, ORDER>(&raw mut (*seat).whose, !end) };
    }
}

/// A packet came to a listener: if it is a handshake's last, the kernel makes the connection's socket of it at once.
#[inline(always)]
pub(crate) fn greet(listener: u64, ends: &Ends) {
    if let Some(greeting) = GREETED.get_ptr_mut(0) {
        // SAFETY: this CPU's value, which only its softirqs write and read.
        unsafe {
            write_volatile(&raw mut (*greeting).listener, listener);
            copy(&raw mut (*greeting).peer, &ends.peer);
            (*greeting).peer_port = ends.peer_port;
            (*greeting).local_port = ends.local_port;
        }
    }
}

/// Gives an accepted connection what its listener's seat says of the owner, as the kernel does with a listener's storage.
#[inline(always)]
pub(crate) fn inherit(case: &Case, socket: &mut Socket) {
    let Some(greeting) = GREETED.get_ptr(0) else {
        return;
    };
    // SAFETY: as in `greet`.
    let Greeting { listener, peer, peer_port, local_port, .. } = unsafe { &*greeting };
    if *peer != case.peer || *peer_port != case.peer_port || *local_port != case.local_port {
        return;
    }
    if let Some(listener) = kept(*listener) {
        copy(&mut socket.owner, &listener.owner);
        socket.subject = listener.subject;
        socket.former = listener.former;
        socket.watched = listener.watched;
    }
}
