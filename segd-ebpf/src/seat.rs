//! Seats: what is kept of most sockets lies in one table, at the place that the socket's cookie says. It costs neither an
//! allocation at a socket's beginning nor a release behind its end, and a packet finds it without a call.
//!
//! Each CPU gives cookies in order, so that few sockets want the same place at a time. One that finds its place held gets
//! socket-local storage instead, and so does each whose end is not sure to be seen: see [`crate::sock`]. A place that is free
//! again keeps what it held until another socket takes it, for packets that come behind the end.
//!
//! What takes a place for good, until the programs are taken off: a socket that another program of the cgroup refuses at its
//! creation, of which no release is told, and a connection for which another program takes TCP's state callback back.

use core::intrinsics::{AtomicOrdering, atomic_and, atomic_cxchg, atomic_xchg};
use core::ptr::{read_volatile, write_volatile};

use segd_common::packet::Ends;
use segd_common::schema::SEAT_ENTRIES;
use segd_common::socket::{Greeting, SEAT_HELD, SEAT_SHIFT, Seat, Socket};

use crate::case::{Case, copy, zero};
use crate::maps::{GREETED, SEATS};

const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;

#[inline(always)]
fn at(cookie: u64) -> Option<*mut Seat> {
    SEATS.get_ptr_mut((cookie % u64::from(SEAT_ENTRIES)) as u32)
}

/// The seat of the socket with this cookie, if it has one, and the word that says so.
#[inline(always)]
fn of(cookie: u64) -> Option<(*mut Seat, u64)> {
    let seat = at(cookie)?;
    // SAFETY: a field of a live map value.
    let whose = unsafe { read_volatile(&raw const (*seat).whose) };
    // Zero, the cookie of no socket, is that of a place that nobody had yet or that somebody is taking.
    if whose >> SEAT_SHIFT == cookie && cookie != 0 { Some((seat, whose)) } else { None }
}

/// What is kept of the socket with this cookie, if it has a seat.
#[inline(always)]
pub(crate) fn kept(cookie: u64) -> Option<&'static mut Socket> {
    // SAFETY: a look-up's pointer stays valid for the program's run. A place is given to another socket only after the end
    // of this one, which nothing of this one but a late packet can outrun: see `flow` for what such a packet does.
    of(cookie).map(|(seat, _)| unsafe { &mut (*seat).socket })
}

/// Gives a socket its seat, if that is free, until it [`leave`]s for each of the reasons in `until`.
#[inline(always)]
pub(crate) fn take(cookie: u64, until: u64) -> Option<&'static mut Socket> {
    let mine = cookie << SEAT_SHIFT | until;
    if mine >> SEAT_SHIFT != cookie {
        // The kernel counts down from the highest number where it was interrupted as it gave a cookie.
        return None;
    }
    let seat = at(cookie)?;
    // SAFETY: a look-up's pointer stays valid for the program's run. Who writes the first hold has the place alone, and from
    // then on the former socket does not find it; this one does when all of it is empty.
    unsafe {
        let whose = read_volatile(&raw const (*seat).whose);
        if whose & SEAT_HELD != 0 {
            return None;
        }
        let (_, free) = atomic_cxchg::<u64, ORDER, ORDER>(&raw mut (*seat).whose, whose, until);
        if !free {
            return None;
        }
        zero(&raw mut (*seat).socket);
        atomic_xchg::<u64, ORDER>(&raw mut (*seat).whose, mine);
        Some(&mut (*seat).socket)
    }
}

/// One more end until which a socket's seat is held. Returns false if it has a seat no more that was found for it.
#[inline(always)]
pub(crate) fn hold(cookie: u64, until: u64) -> bool {
    match of(cookie) {
        // SAFETY: a field of a live map value.
        Some((seat, whose)) if whose & until == 0 => unsafe {
            atomic_cxchg::<u64, ORDER, ORDER>(&raw mut (*seat).whose, whose, whose | until).1
        },
        _ => true,
    }
}

/// One of the ends until which a socket's seat is held has come. With the last one the seat is free.
#[inline(always)]
pub(crate) fn leave(cookie: u64, end: u64) {
    if let Some((seat, whose)) = of(cookie)
        && whose & end != 0
    {
        // SAFETY: a field of a live map value; while it is held for this end, nobody else gets the place.
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
        socket.identity = listener.identity;
        socket.former = listener.former;
        socket.watched = listener.watched;
    }
}
