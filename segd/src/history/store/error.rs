//! Why the history cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the history cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// There is none.
    #[error("there is no flow history at {}; the agent keeps one unless `[history] enabled = false`", .0.display())]
    None(PathBuf),
    /// A later version of segd wrote it.
    #[error("{} is of schema {version}, which a later version of segd wrote; this one knows {known}: use that version, or move the file away", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        version: i64,
        /// The schema of this version.
        known: i64,
    },
    /// It is damaged, or something else than a history.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file or its directory.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The database.
    #[error("cannot use {}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The thread that writes it does not answer.
    #[error("the flow history at {} is not being written: {reason}", path.display())]
    Stuck {
        /// The file.
        path: PathBuf,
        /// Since when or why.
        reason: String,
    },
}

impl HistoryError {
    /// Whether the file itself is of no use any more.
    pub(in crate::history) fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Of what SQLite says.
    pub(super) fn of(path: &Path) -> impl Fn(rusqlite::Error) -> Self {
        move |source| {
            let code = source.sqlite_error_code();
            let is_broken = matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase));
            if is_broken || is_strange(&source) {
                return Self::Damaged { path: path.to_owned(), reason: source.to_string() };
            }
            Self::Database { path: path.to_owned(), source }
        }
    }
}

/// Whether rows hold what segd never writes, or lack what it always does. Waiting does not mend that.
fn is_strange(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, QueryReturnedNoRows,
    };
    matches!(
        error,
        FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
            | QueryReturnedNoRows
    )
}
