//! The history on disk: a SQLite database in the agent's state directory, written by one thread of the agent and read by
//! whoever may read the file.
//!
//! It has a write-ahead log and `synchronous = NORMAL`: whoever kills the agent, or the power, takes at most what was
//! written last and damages nothing.

mod error;
mod read;
mod retain;
mod rows;
mod rules;
mod schema;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::fold::{Changed, Fold, Kept, Removed, hour_start};
use super::sketch::Sketch;
use super::summary::Conversation;
pub use error::HistoryError;
pub use read::{Range, Reader};
pub(super) use retain::{Extent, Retention};
use rows::{Row, Rows};
pub use rules::RuleFacts;
pub(super) use rules::RuleNews;

/// The file's name in the state directory.
pub const FILE: &str = "history.db";

/// For another process that holds the file for a moment.
const PATIENCE: Duration = Duration::from_secs(5);

/// The writer's end.
#[derive(Debug)]
pub(super) struct Store {
    db: Connection,
    path: PathBuf,
    /// Conversations in the database, by hour and class of the fold.
    conversations: HashMap<(i64, u32), i64>,
    /// Names in the database, and the hour in which they are marked as used.
    names: HashMap<Arc<str>, (i64, i64)>,
    /// The oldest hour that these two know of.
    oldest: i64,
}

impl Store {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, HistoryError> {
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW);
        options.open(path).map_err(HistoryError::io("open", path))?;
        let mut db = Connection::open(path).map_err(HistoryError::of(path))?;
        db.busy_timeout(PATIENCE).map_err(HistoryError::of(path))?;
        db.set_prepared_statement_cache_capacity(32);
        schema::prepare(&mut db, path)?;
        let (conversations, names) = (HashMap::new(), HashMap::new());
        Ok(Self { db, path: path.to_owned(), conversations, names, oldest: 0 })
    }

    /// Looks at every page.
    pub(super) fn check(&self) -> Result<(), HistoryError> {
        let verdict: String = self
            .db
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(HistoryError::of(&self.path))?;
        if verdict == "ok" {
            return Ok(());
        }
        Err(HistoryError::Damaged { path: self.path.clone(), reason: verdict })
    }

    /// Writes what has changed, all of it or nothing.
    pub(super) fn write(&mut self, fold: &Fold, news: &RuleNews) -> Result<(), HistoryError> {
        let Self { db, path, conversations, names, oldest } = self;
        if let Some(now) = fold.oldest().filter(|now| now != oldest) {
            conversations.retain(|(hour, _), _| fold.holds(*hour));
            names.clear();
            *oldest = now;
        }
        let written = write(db, fold, news, &mut Ids { conversations, names });
        written.map_err(|error| {
            // They may be of rows that were taken back.
            conversations.clear();
            names.clear();
            HistoryError::of(path)(error)
        })
    }

    /// What was written of an hour.
    pub(super) fn load_hour(&self, hour: i64) -> Result<Vec<Kept>, HistoryError> {
        let read = || {
            let mut rows = Vec::new();
            Rows::between(hour, hour + 1).each(&self.db, |row| rows.push(row))?;
            let with_others = |row: Row| {
                let others = row.peers.map(|_| sketch(&self.db, hour, row.conversation)).transpose()?;
                Ok(Kept { others: others.flatten(), ..row.kept })
            };
            rows.into_iter().map(with_others).collect::<rusqlite::Result<_>>()
        };
        read().map_err(HistoryError::of(&self.path))
    }

    /// Single peers of the hours from `since` on.
    pub(super) fn each_peer(
        &self,
        since: i64,
        mut take: impl FnMut(i64, &Conversation, IpAddr),
    ) -> Result<(), HistoryError> {
        let mut rows = Rows::between(since, i64::MAX);
        let each = |row: Row| {
            if let Some(peer) = row.kept.peer {
                take(row.hour, &row.kept.of, peer);
            }
        };
        rows.each(&self.db, each).map_err(HistoryError::of(&self.path))
    }
}

/// Moves a file that is of no use, and what belongs to it, out of the way, in place of one that was moved before. Returns
/// where it is.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, HistoryError> {
    let aside = with_suffix(path, ".damaged");
    for suffix in ["-wal", "-shm", ""] {
        let (from, to) = (with_suffix(path, suffix), with_suffix(&aside, suffix));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let _ = fs::remove_file(&to);
            }
            result => result.map_err(HistoryError::io("move away", &from))?,
        }
    }
    Ok(aside)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What is known of what is in the database.
struct Ids<'a> {
    conversations: &'a mut HashMap<(i64, u32), i64>,
    names: &'a mut HashMap<Arc<str>, (i64, i64)>,
}

fn write(db: &mut Connection, fold: &Fold, news: &RuleNews, ids: &mut Ids<'_>) -> rusqlite::Result<()> {
    let to = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut rows: HashMap<i64, i64> = HashMap::new();
    for Removed { hour, class, of, peer } in fold.removals() {
        let conversation = ids.conversation(&to, (hour, class), of)?;
        let gone = to
            .prepare_cached("DELETE FROM flow WHERE hour = ? AND conversation = ? AND peer = ?")?
            .execute(params![hour, conversation, bytes(Some(peer))])?;
        *rows.entry(hour).or_default() -= i64::try_from(gone).unwrap_or_default();
    }
    for changed in fold.changes() {
        let conversation = ids.conversation(&to, (changed.hour, changed.class), changed.of)?;
        write_row(&to, &changed, conversation)?;
        *rows.entry(changed.hour).or_default() += i64::from(changed.is_new);
    }
    for (hour, more) in rows {
        to.prepare_cached(
            "INSERT INTO hour VALUES (?, ?) ON CONFLICT DO UPDATE SET rows = rows + excluded.rows",
        )?
        .execute(params![hour, more])?;
    }
    if let Some(oldest) = fold.oldest() {
        to.prepare_cached("DELETE FROM sketch WHERE hour < ?")?.execute([oldest])?;
    }
    news.write(&to)?;
    to.commit()
}

fn write_row(to: &Transaction<'_>, changed: &Changed<'_>, conversation: i64) -> rusqlite::Result<()> {
    let Changed { hour, peer, sums, others, .. } = *changed;
    let start = hour_start(hour).as_microsecond();
    to.prepare_cached("INSERT OR REPLACE INTO flow VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?.execute(
        params![
            hour,
            conversation,
            bytes(peer),
            number(sums.flows),
            number(sums.packets.received),
            number(sums.packets.sent),
            number(sums.bytes.received),
            number(sums.bytes.sent),
            sums.first.as_microsecond() - start,
            sums.last.as_microsecond() - start,
            others.map(|others| number(others.count())),
        ],
    )?;
    if let Some(others) = others {
        to.prepare_cached("INSERT OR REPLACE INTO sketch VALUES (?, ?, ?)")?.execute(params![
            hour,
            conversation,
            others.to_bytes()
        ])?;
    }
    Ok(())
}

impl Ids<'_> {
    fn conversation(
        &mut self,
        to: &Transaction<'_>,
        key: (i64, u32),
        of: &Conversation,
    ) -> rusqlite::Result<i64> {
        if let Some(id) = self.conversations.get(&key) {
            return Ok(*id);
        }
        let Conversation {
            host,
            subject,
            workload,
            process,
            unit,
            uid,
            direction,
            local,
            peer: _,
            peer_zone,
            protocol,
            port,
            icmp,
            service,
            verdict,
            reason,
            rule,
        } = of;
        let mut name = |text: &str| self.name(to, text, key.0);
        let local = local.map(|ip| ip.to_string());
        let mut maybe = |text: Option<&str>| text.map_or(Ok(0), &mut name);
        let of = [
            maybe(Some(host))?,
            maybe(Some(subject))?,
            maybe(workload.as_deref())?,
            maybe(process.as_deref())?,
            maybe(unit.as_deref())?,
            uid.map_or(-1, i64::from),
            maybe(Some(direction.name()))?,
            maybe(local.as_deref())?,
            maybe(Some(peer_zone))?,
            maybe(Some(protocol))?,
            i64::from(*port),
            icmp.map_or(-1, |(kind, code)| i64::from(u16::from_be_bytes([kind, code]))),
            maybe(Some(service))?,
            maybe(Some(verdict.name()))?,
            maybe(Some(reason.name()))?,
            maybe(rule.as_deref())?,
            key.0,
        ];
        let id = to
            .prepare_cached(
                "INSERT INTO conversation (host, subject, workload, process, unit, uid, direction, local, peer_zone,
                   protocol, port, icmp, service, verdict, reason, rule, hour)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                 ON CONFLICT DO UPDATE SET hour = max(hour, excluded.hour) RETURNING id",
            )?
            .query_row(of, |row| row.get(0))?;
        self.conversations.insert(key, id);
        Ok(id)
    }

    fn name(&mut self, to: &Transaction<'_>, text: &str, hour: i64) -> rusqlite::Result<i64> {
        if let Some((id, _)) = self.names.get(text).filter(|(_, used)| *used >= hour) {
            return Ok(*id);
        }
        let id = to
            .prepare_cached(
                "INSERT INTO name (text, hour) VALUES (?, ?)
                 ON CONFLICT DO UPDATE SET hour = max(hour, excluded.hour) RETURNING id",
            )?
            .query_row(params![text, hour], |row| row.get(0))?;
        self.names.insert(text.into(), (id, hour));
        Ok(id)
    }
}

/// An address as it is written; no bytes for further peers.
fn bytes(peer: Option<IpAddr>) -> Vec<u8> {
    match peer {
        None => Vec::new(),
        Some(IpAddr::V4(ip)) => ip.octets().to_vec(),
        Some(IpAddr::V6(ip)) => ip.octets().to_vec(),
    }
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Who the further peers of a conversation are.
fn sketch(db: &Connection, hour: i64, conversation: i64) -> rusqlite::Result<Option<Sketch>> {
    let seen: Option<Vec<u8>> = db
        .prepare_cached("SELECT seen FROM sketch WHERE hour = ? AND conversation = ?")?
        .query_row([hour, conversation], |row| row.get(0))
        .optional()?;
    Ok(seen.and_then(|seen| Sketch::from_bytes(&seen)))
}

#[cfg(test)]
mod tests;
