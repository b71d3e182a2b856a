//! The zone files that are wondered about, and those before.

use std::path::Path;

use jiff::Timestamp;

use crate::commands::Failure;
use crate::commands::check::names;
use crate::config::Config;
use crate::policy::{self, Policy, Resolved, Sources};

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
        let sources = Sources::read_dir(dir).map_err(Failure::bad_input)?;
        let policy = policy::load(sources, now).map_err(|found| Failure::bad_input(found.render(false)))?;
        let names = match resolve {
            true => names::look_up(&policy, &config.names, now).await.0,
            false => Resolved::new(),
        };
        let found = policy::check(&policy, &config.failsafes, &names, now);
        if found.errors() > 0 {
            return Err(Failure::bad_input(found.render(false)));
        }
        Ok(Self { policy, names })
    }
}

/// The zone files before, if they are named or can be read. They only tell owners, so what has expired is no error.
pub(super) fn before(named: Option<&Path>, dir: &Path) -> Result<Option<Policy>, Failure> {
    let read = |dir| {
        let sources = Sources::read_dir(dir).map_err(Failure::bad_input)?;
        policy::load_stored(sources).map_err(|found| Failure::bad_input(found.render(false)))
    };
    match named {
        Some(named) => read(named).map(Some),
        None => Ok(read(dir).ok()),
    }
}
