//! `[names]`: how the DNS names of zones are resolved.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::parse::{Value, table, unit};
use super::units;
use crate::policy::walk::Walk;

/// Port of DNS, RFC 1035 section 4.2.
const DNS_PORT: u16 = 53;

/// The longest time that a look-up may take.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// `[names]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesConfig {
    /// Whom to ask. Empty: whom `/etc/resolv.conf` names when a look-up begins.
    pub servers: Vec<SocketAddr>,
    /// A name is looked up again this long after the last look-up at the earliest, and this long after a failed one.
    pub min_ttl: Duration,
    /// And this long after it at the latest.
    pub max_ttl: Duration,
    /// How long the look-up of a name may take, with all servers and repetitions.
    pub timeout: Duration,
}

impl Default for NamesConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            min_ttl: Duration::from_secs(30),
            max_ttl: Duration::from_secs(3600),
            timeout: Duration::from_secs(5),
        }
    }
}

pub(super) fn read(walk: &mut Walk, value: Value<'_>, names: &mut NamesConfig) {
    let keys = ["servers", "min_ttl", "max_ttl", "timeout"];
    let Some(section) = table(walk, "names", value, &keys, &[]) else { return };
    for text in section.strings(walk, "servers", "nobody is asked").unwrap_or_default() {
        match server(&text.value) {
            Some(server) => names.servers.push(server),
            None => {
                let message = format!("`{}` is not an address, or an address and port", text.value);
                walk.found.error(text.place, message).help("write it like `10.0.0.53` or `127.0.0.1:5353`");
            }
        }
    }
    let forms = "write it like `30s`, `1h` or `1h 30m`, at least 1s";
    let at_least = |text: &str| units::duration(text).filter(|time| *time >= Duration::from_secs(1));
    for (key, field) in [("min_ttl", &mut names.min_ttl), ("max_ttl", &mut names.max_ttl)] {
        *field = unit(walk, &section, key, forms, at_least).unwrap_or(*field);
    }
    let forms = "write it like `5s`, from 1s to 1m";
    let limited = |text: &str| at_least(text).filter(|time| *time <= MAX_TIMEOUT);
    names.timeout = unit(walk, &section, "timeout", forms, limited).unwrap_or(names.timeout);
    if names.min_ttl > names.max_ttl {
        let key = if section.value("min_ttl").is_some() { "min_ttl" } else { "max_ttl" };
        let place = section.value(key).map_or(section.place(), |value| walk.place(value.span()));
        let (min, max) = (names.min_ttl, names.max_ttl);
        walk.found
            .error(place, "`min_ttl` is more than `max_ttl`")
            .help(format!("they are {min:?} and {max:?}"));
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    let with_port = text.parse().ok().filter(|server: &SocketAddr| server.port() != 0);
    with_port.or_else(|| Some(SocketAddr::from((text.parse::<IpAddr>().ok()?, DNS_PORT))))
}
