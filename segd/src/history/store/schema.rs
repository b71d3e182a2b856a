//! The tables, and what is set on every connection.

use std::path::Path;

use rusqlite::Connection;

use super::HistoryError;

/// The schema of this version, as `PRAGMA user_version`.
pub(super) const VERSION: i64 = 1;

/// Pages in the write-ahead log before it is carried over.
const WAL_PAGES: i64 = 512;

/// Bytes that the write-ahead log is cut to after that.
const WAL_BYTES: i64 = 4 << 20;

/// Names are kept once; so is what differs only in hour and peer. Numbers for names are those of `name`, and 0 for none.
/// `hour` counts from 1970: in `name` and `conversation` it is the last one in which they were used. `first` and `last`
/// of a flow are microseconds since its hour began. A flow whose `peer` is empty stands for `peers` further ones, and
/// while its hour lasts `sketch` knows which.
const TABLES: &str = "
CREATE TABLE name (
  id INTEGER PRIMARY KEY,
  text TEXT NOT NULL UNIQUE,
  hour INTEGER NOT NULL
) STRICT;
CREATE TABLE conversation (
  id INTEGER PRIMARY KEY,
  host INTEGER NOT NULL, subject INTEGER NOT NULL, workload INTEGER NOT NULL,
  process INTEGER NOT NULL, unit INTEGER NOT NULL, uid INTEGER NOT NULL,
  direction INTEGER NOT NULL, local INTEGER NOT NULL, peer_zone INTEGER NOT NULL,
  protocol INTEGER NOT NULL, port INTEGER NOT NULL, icmp INTEGER NOT NULL, service INTEGER NOT NULL,
  verdict INTEGER NOT NULL, reason INTEGER NOT NULL, rule INTEGER NOT NULL,
  hour INTEGER NOT NULL,
  UNIQUE (process, rule, peer_zone, port, icmp, protocol, service, local, subject, workload, unit, uid, direction,
    verdict, reason, host)
) STRICT;
CREATE TABLE flow (
  hour INTEGER NOT NULL, conversation INTEGER NOT NULL, peer BLOB NOT NULL,
  flows INTEGER NOT NULL,
  packets_in INTEGER NOT NULL, packets_out INTEGER NOT NULL, bytes_in INTEGER NOT NULL, bytes_out INTEGER NOT NULL,
  first INTEGER NOT NULL, last INTEGER NOT NULL,
  peers INTEGER,
  PRIMARY KEY (hour, conversation, peer)
) STRICT, WITHOUT ROWID;
CREATE TABLE sketch (
  hour INTEGER NOT NULL, conversation INTEGER NOT NULL, seen BLOB NOT NULL,
  PRIMARY KEY (hour, conversation)
) STRICT, WITHOUT ROWID;
CREATE TABLE hour (hour INTEGER PRIMARY KEY, rows INTEGER NOT NULL) STRICT;
CREATE TABLE rule (
  id TEXT PRIMARY KEY,
  since INTEGER NOT NULL, last_hit INTEGER, hits INTEGER NOT NULL, gone INTEGER
) STRICT, WITHOUT ROWID;
";

/// Makes the tables in a new file, and refuses one that a later version wrote.
pub(super) fn prepare(db: &mut Connection, path: &Path) -> Result<(), HistoryError> {
    let failed = HistoryError::of(path);
    // Before the first table, or it has no effect.
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(&failed)?;
    db.pragma_update(None, "journal_mode", "WAL").map_err(&failed)?;
    db.pragma_update(None, "synchronous", "NORMAL").map_err(&failed)?;
    db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES).map_err(&failed)?;
    db.pragma_update(None, "journal_size_limit", WAL_BYTES).map_err(&failed)?;
    db.pragma_update(None, "temp_store", "MEMORY").map_err(&failed)?;
    if version(db, path)? == 0 {
        let tables: i64 =
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(&failed)?;
        if tables > 0 {
            let reason = "it is a database of something else".to_owned();
            return Err(HistoryError::Damaged { path: path.to_owned(), reason });
        }
        let new = db.transaction().map_err(&failed)?;
        new.execute_batch(TABLES).map_err(&failed)?;
        new.pragma_update(None, "user_version", VERSION).map_err(&failed)?;
        new.commit().map_err(&failed)?;
    }
    Ok(())
}

/// The schema of a file; 0: none yet.
pub(super) fn version(db: &Connection, path: &Path) -> Result<i64, HistoryError> {
    let version =
        db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(HistoryError::of(path))?;
    match version {
        0..=VERSION => Ok(version),
        _ => Err(HistoryError::Newer { path: path.to_owned(), version, known: VERSION }),
    }
}
