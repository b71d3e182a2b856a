//! The zone files that are wondered about, and those before.

use std::path::Path;

use jiff::Timestamp;

use crate::commands::check::names;
use crate::commands::{Failure, zones};
use crate::config::Config;
use crate::policy::{self, Policy, Resolved};

/// Zone files that `segd check` has nothing against.
pub(super) struct Files {
    pub(super) policy: Policy,
    pub(super) names: Resolved,
}

impl Files {
    /// Reads and checks them.
    pub(super) async fn read(
        dir: &Path,
        config: &Config,
        resolve: bool,
        now: Timestamp,
    ) -> Result<Self, Failure> {
        let policy = zones::load(dir, now)?;
        let names = match resolve {
            true => names::look_up(&policy, &config.names, now).await.0,
            false => Resolved::new(),
        };
        let found = policy::check(&policy, &config.failsafes, &names, now);
        if found.errors() > 0 {
            return Err(zones::told(found));
        }
        Ok(Self { policy, names })
    }
}

/// The zone files before, if they are named or can be read. They only tell owners, so what has expired is no error.
pub(super) fn before(named: Option<&Path>, dir: &Path) -> Result<Option<Policy>, Failure> {
    match named {
        Some(named) => zones::load_stored(named).map(Some),
        None => Ok(zones::load_stored(dir).ok()),
    }
}
