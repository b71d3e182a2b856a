//! Both ends' records of the same flows, joined: what both saw counts once.
//!
//! A flow is denied if one end denies it, and audited if one end audits it. What the client's host denies never reaches
//! the server; all else that began at the client is held, hour by hour, against what arrived at the server.

use std::collections::BTreeMap;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Verdict};

use super::hosts::{Hosts, Who};
use crate::history::{Peer, Summary};

/// A summary, and what the zone files that it is held against would decide of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) summary: &'a Summary,
    pub(super) then: Then,
}

/// What other zone files would decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Then {
    /// Nobody asked.
    NotAsked,
    /// It cannot be said.
    Undecided,
    /// This.
    Decided(Verdict),
}

/// Flows as both ends saw them, or as the only one did that recorded them. One of the two is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) client: Option<View<'a>>,
    pub(super) server: Option<View<'a>>,
    /// So many; 0: only their end was recorded.
    pub(super) flows: u64,
    /// Whether these carry the bytes of the client's record.
    pub(super) client_bytes: bool,
    /// Or of the server's.
    pub(super) server_bytes: bool,
}

impl Piece<'_> {
    fn views(&self) -> impl Iterator<Item = &View<'_>> {
        self.client.iter().chain(&self.server)
    }

    /// The worse of both ends'.
    pub(super) fn verdict(&self) -> Verdict {
        self.views().map(|view| view.summary.of.verdict).max().unwrap_or(Verdict::Allowed)
    }

    /// The worse of both ends'; what one end would deny is denied whatever the other one would do.
    pub(super) fn then(&self) -> Then {
        let denied = Then::Decided(Verdict::Denied);
        let all = || self.views().map(|view| view.then);
        if all().any(|then| then == denied) {
            denied
        } else if all().any(|then| then == Then::Undecided) {
            Then::Undecided
        } else {
            all().max().unwrap_or(Then::NotAsked)
        }
    }
}

/// What two records of the same flow agree in.
type Key<'a> = (Timestamp, Who, Who, &'a str, u16, Option<(u8, u8)>);

/// All flows, in pieces.
pub(super) fn pieces<'a>(hosts: &Hosts, views: impl Iterator<Item = View<'a>>) -> Vec<Piece<'a>> {
    let mut groups: BTreeMap<Key<'a>, (Vec<View<'a>>, Vec<View<'a>>)> = BTreeMap::new();
    let mut pieces = Vec::new();
    for view in views {
        let of = &view.summary.of;
        let (own, peer) = (Who::Host(of.host.clone()), hosts.peer(of));
        let joinable = matches!(peer, Who::Host(_));
        let (client, server) = match of.direction {
            Direction::Outbound => (own, peer),
            Direction::Inbound => (peer, own),
        };
        if !joinable {
            pieces.push(alone(view, view.summary.flows));
            continue;
        }
        let key = (view.summary.hour, client, server, &*of.protocol, of.port, of.icmp);
        let (out, inn) = groups.entry(key).or_default();
        match of.direction {
            Direction::Outbound => out.push(view),
            Direction::Inbound => inn.push(view),
        }
    }
    for (clients, servers) in groups.into_values() {
        join(clients, servers, &mut pieces);
    }
    pieces
}

/// Flows of which only one end told.
fn alone(view: View<'_>, flows: u64) -> Piece<'_> {
    let outbound = view.summary.of.direction == Direction::Outbound;
    Piece {
        client: outbound.then_some(view),
        server: (!outbound).then_some(view),
        flows,
        client_bytes: outbound,
        server_bytes: !outbound,
    }
}

fn join<'a>(clients: Vec<View<'a>>, mut servers: Vec<View<'a>>, pieces: &mut Vec<Piece<'a>>) {
    let denied = |view: &View<'_>| view.summary.of.verdict == Verdict::Denied;
    pieces.extend(clients.iter().filter(|v| denied(v)).map(|v| alone(*v, v.summary.flows)));
    let mut clients: Vec<_> = clients.into_iter().filter(|v| !denied(v)).collect();
    if clients.is_empty() || servers.is_empty() {
        pieces.extend(clients.into_iter().chain(servers).map(|v| alone(v, v.summary.flows)));
        return;
    }
    // The worst of one end are taken to be the worst of the other.
    for side in [&mut clients, &mut servers] {
        side.sort_by(|a, b| {
            (b.summary.of.verdict, &a.summary.of).cmp(&(a.summary.of.verdict, &b.summary.of))
        });
    }
    let weight =
        |side: &[View<'_>]| side.iter().any(|v| v.summary.bytes.received | v.summary.bytes.sent != 0);
    let by_client = weight(&clients);
    let (mut c, mut s) = (Side::new(&clients), Side::new(&servers));
    // Each view is in one piece at least, which has its bytes.
    loop {
        let (client, server) = (c.now(), s.now());
        if c.is_over() && s.is_over() {
            break;
        }
        let flows = match (c.is_over(), s.is_over()) {
            (false, false) => c.left.min(s.left),
            (false, true) => c.left,
            _ => s.left,
        };
        // What one end has more of than the other is its own.
        let both = !c.is_over() && !s.is_over() || flows == 0;
        pieces.push(Piece {
            client: client.filter(|_| both || !c.is_over()),
            server: server.filter(|_| both || !s.is_over()),
            flows,
            client_bytes: by_client && c.first(),
            server_bytes: !by_client && s.first(),
        });
        c.take(flows);
        s.take(flows);
    }
}

/// How far the records of one end are used up.
struct Side<'v, 'a> {
    views: &'v [View<'a>],
    at: usize,
    left: u64,
    fresh: bool,
}

impl<'v, 'a> Side<'v, 'a> {
    fn new(views: &'v [View<'a>]) -> Self {
        Self { views, at: 0, left: views.first().map_or(0, |v| v.summary.flows), fresh: true }
    }

    fn is_over(&self) -> bool {
        self.at >= self.views.len()
    }

    /// The record in hand; when all are used up, the last one.
    fn now(&self) -> Option<View<'a>> {
        self.views.get(self.at).or(self.views.last()).copied()
    }

    /// Whether the record in hand was in no piece yet.
    fn first(&self) -> bool {
        self.fresh && !self.is_over()
    }

    fn take(&mut self, flows: u64) {
        if self.is_over() {
            return;
        }
        self.left = self.left.saturating_sub(flows);
        self.fresh = false;
        if self.left == 0 {
            self.at += 1;
            self.left = self.views.get(self.at).map_or(0, |v| v.summary.flows);
            self.fresh = true;
        }
    }
}

/// How many peers a view stands for that were not recorded.
pub(super) fn unrecorded(view: &View<'_>) -> u64 {
    match view.summary.of.peer {
        Peer::Others(n) => n,
        Peer::Address(_) => 0,
    }
}
