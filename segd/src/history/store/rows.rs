//! Rows of the database as they were kept.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, params};
use segd_common::traffic::{Direction, Reason, Verdict};

use crate::history::fold::{Kept, hour_start};
use crate::history::summary::{Conversation, Peer, Sum, Summary};
use crate::telemetry::named::{self, Named};
use crate::telemetry::record::InOut;

/// Rows read at a time.
const PAGE: i64 = 1024;

/// Names and conversations that are kept from one page to the next.
const CACHED: usize = 16_384;

/// A flow of the database.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) hour: i64,
    pub(super) conversation: i64,
    pub(super) kept: Kept,
    /// How many further peers it stands for; `None`: it is of one.
    pub(super) peers: Option<u64>,
}

impl From<Row> for Summary {
    fn from(row: Row) -> Self {
        let Row { hour, kept: Kept { of, peer, sums, .. }, peers, .. } = row;
        let peer = peer.map_or_else(|| Peer::Others(peers.unwrap_or_default()), Peer::Address);
        let Sum { flows, packets, bytes, first, last } = sums;
        Self { of: Conversation { peer, ..of }, hour: hour_start(hour), flows, packets, bytes, first, last }
    }
}

/// The rows of some hours, read a page at a time: between two pages nothing is held in the database.
#[derive(Debug)]
pub(super) struct Rows {
    /// The last row that was read.
    after: (i64, i64, Vec<u8>),
    /// The hour that is no longer read.
    until: i64,
    names: HashMap<i64, Arc<str>>,
    conversations: HashMap<i64, Conversation>,
}

impl Rows {
    /// Of the hours from `since` to the one before `until`.
    pub(super) fn between(since: i64, until: i64) -> Self {
        let (names, conversations) = (HashMap::new(), HashMap::new());
        Self { after: (since, i64::MIN, Vec::new()), until, names, conversations }
    }

    pub(super) fn each(&mut self, db: &Connection, mut take: impl FnMut(Row)) -> rusqlite::Result<()> {
        while let Some(page) = self.page(db)? {
            page.into_iter().for_each(&mut take);
        }
        Ok(())
    }

    /// The next rows; `None` at the end.
    pub(super) fn page(&mut self, db: &Connection) -> rusqlite::Result<Option<Vec<Row>>> {
        let (hour, conversation, peer) = &self.after;
        let mut statement = db.prepare_cached(
            "SELECT hour, conversation, peer, flows, packets_in, packets_out, bytes_in, bytes_out, first, last, peers
             FROM flow WHERE (hour, conversation, peer) > (?, ?, ?) AND hour < ?
             ORDER BY hour, conversation, peer LIMIT ?",
        )?;
        let mut found = statement.query(params![hour, conversation, peer, self.until, PAGE])?;
        let mut page = Vec::new();
        let mut after = None;
        while let Some(row) = found.next()? {
            let key: (i64, i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let of = self.conversation(db, key.1)?;
            page.push(kept(row, of, &key)?);
            after = Some(key);
        }
        let Some(after) = after else { return Ok(None) };
        self.after = after;
        Ok(Some(page))
    }

    fn conversation(&mut self, db: &Connection, id: i64) -> rusqlite::Result<Conversation> {
        if let Some(of) = self.conversations.get(&id) {
            return Ok(of.clone());
        }
        let of: [i64; 16] = db
            .prepare_cached(
                "SELECT host, subject, workload, process, unit, uid, direction, local, peer_zone, protocol, port, icmp,
                   service, verdict, reason, rule
                 FROM conversation WHERE id = ?",
            )?
            .query_row([id], |row| {
                let mut of = [0; 16];
                for (column, value) in of.iter_mut().enumerate() {
                    *value = row.get(column)?;
                }
                Ok(of)
            })?;
        let [host, subject, workload, process, unit, uid, direction, local, zone, protocol, port, icmp, ..] =
            of;
        let [.., service, verdict, reason, rule] = of;
        let mut name = |id: i64| self.name(db, id);
        let mut maybe = |id: i64| if id == 0 { Ok(None) } else { name(id).map(Some) };
        let (workload, process, unit) = (maybe(workload)?, maybe(process)?, maybe(unit)?);
        let (local, rule) = (maybe(local)?, maybe(rule)?);
        let of = Conversation {
            host: name(host)?,
            subject: name(subject)?,
            workload,
            process,
            unit,
            uid: u32::try_from(uid).ok(),
            direction: word::<Direction>(&name(direction)?)?,
            local: local.and_then(|text| text.parse().ok()),
            peer: Peer::Others(0),
            peer_zone: name(zone)?,
            protocol: name(protocol)?.to_string().into(),
            port: u16::try_from(port).unwrap_or_default(),
            icmp: u16::try_from(icmp).ok().map(|icmp| icmp.to_be_bytes().into()),
            service: name(service)?,
            verdict: word::<Verdict>(&name(verdict)?)?,
            reason: word::<Reason>(&name(reason)?)?,
            rule,
        };
        if self.conversations.len() >= CACHED {
            self.conversations.clear();
        }
        self.conversations.insert(id, of.clone());
        Ok(of)
    }

    fn name(&mut self, db: &Connection, id: i64) -> rusqlite::Result<Arc<str>> {
        if let Some(name) = self.names.get(&id) {
            return Ok(Arc::clone(name));
        }
        let name: Arc<str> = db
            .prepare_cached("SELECT text FROM name WHERE id = ?")?
            .query_row([id], |row| row.get::<_, String>(0))?
            .into();
        if self.names.len() >= CACHED {
            self.names.clear();
        }
        self.names.insert(id, Arc::clone(&name));
        Ok(name)
    }
}

fn kept(row: &rusqlite::Row<'_>, of: Conversation, key: &(i64, i64, Vec<u8>)) -> rusqlite::Result<Row> {
    let (hour, conversation, ref peer) = *key;
    let count = |column: usize| row.get(column).map(|n: i64| u64::try_from(n).unwrap_or_default());
    let start = hour_start(hour).as_microsecond();
    let time = |column: usize| {
        let time = start.saturating_add(row.get(column)?);
        Timestamp::from_microsecond(time).map_err(|error| conversion(column, Type::Integer, error))
    };
    let sums = Sum {
        flows: count(3)?,
        packets: InOut { received: count(4)?, sent: count(5)? },
        bytes: InOut { received: count(6)?, sent: count(7)? },
        first: time(8)?,
        last: time(9)?,
    };
    let peers: Option<i64> = row.get(10)?;
    let peers = peers.map(|n| u64::try_from(n).unwrap_or_default());
    let peer = match **peer {
        [] => None,
        [a, b, c, d] => Some(IpAddr::from([a, b, c, d])),
        _ => {
            let octets: [u8; 16] =
                peer.as_slice().try_into().map_err(|error| conversion(2, Type::Blob, error))?;
            Some(IpAddr::from(octets))
        }
    };
    Ok(Row { hour, conversation, kept: Kept { of, peer, sums, others: None }, peers })
}

fn word<T: Named>(text: &str) -> rusqlite::Result<T> {
    named::parse(text).map_err(|error| conversion(0, Type::Text, error))
}

fn conversion(
    column: usize,
    from: Type,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, from, Box::new(error))
}
