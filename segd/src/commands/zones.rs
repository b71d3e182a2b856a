//! Zone files as arguments of commands.

use std::path::Path;

use jiff::Timestamp;

use super::Failure;
use crate::policy::{self, Diagnostics, Policy, Sources};

/// The zone files of a directory, as the agent would load them now.
pub(super) fn load(dir: &Path, now: Timestamp) -> Result<Policy, Failure> {
    policy::load(read(dir)?, now).map_err(told)
}

/// The same where what has expired is no error.
pub(super) fn load_stored(dir: &Path) -> Result<Policy, Failure> {
    policy::load_stored(read(dir)?).map_err(told)
}

fn read(dir: &Path) -> Result<Sources, Failure> {
    Sources::read_dir(dir).map_err(Failure::bad_input)
}

/// What is wrong with zone files.
pub(super) fn told(found: Diagnostics) -> Failure {
    Failure::bad_input(found.render(false))
}

/// `HOST=ZONE`: the zone of a host that cannot be told otherwise.
pub(super) fn host_zone(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(host, zone)| !host.is_empty() && !zone.is_empty());
    parts
        .map(|(host, zone)| (host.to_owned(), zone.to_owned()))
        .ok_or_else(|| "write it like wms-app-1=fulfillment".to_owned())
}
