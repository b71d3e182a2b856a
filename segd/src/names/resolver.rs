//! Asks DNS servers, by hickory-resolver.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};

use super::state::{Answer, Bounds, Family};
use crate::config::NamesConfig;
use crate::telemetry::text::printable;

/// The name is there, or a name below it is.
const NO_ADDRESS: &str = "it has no address";

/// Whom to ask, and how patiently.
#[derive(Clone, Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    bounds: Bounds,
    timeout: Duration,
}

impl Resolver {
    /// By `[names]`.
    #[must_use]
    pub fn new(config: &NamesConfig) -> Self {
        let NamesConfig { servers, min_ttl, max_ttl, timeout } = config;
        let bounds = Bounds { min: *min_ttl, max: *max_ttl };
        Self { servers: servers.clone(), bounds, timeout: *timeout }
    }

    /// How soon a name is looked up again.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// For one round of look-ups: reads `/etc/resolv.conf` and `/etc/hosts`, unless servers are given, as either may have
    /// changed since (a host may start before it has servers). If that fails, so does each look-up of the round.
    pub(super) fn lookup(&self) -> Lookup {
        let builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| format!("/etc/resolv.conf: {error}"))
        } else {
            let servers = self.servers.iter().map(server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
            Ok(builder)
        };
        let resolver = builder.and_then(|mut builder| {
            self.limit(builder.options_mut());
            builder.build().map_err(|error| error.to_string())
        });
        Lookup { resolver, timeout: self.timeout }
    }

    fn limit(&self, options: &mut ResolverOpts) {
        // A packet may get lost; so each server is asked twice.
        options.timeout = self.timeout / 2;
        options.attempts = 1;
        // The state is the cache, and TTLs are to be those of the answers.
        options.cache_size = 0;
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(on_port).into();
    NameServerConfig::new(address.ip(), true, connections)
}

/// One round's resolver.
#[derive(Clone)]
pub(super) struct Lookup {
    resolver: Result<TokioResolver, String>,
    timeout: Duration,
}

impl Lookup {
    /// Asks for both families at once.
    pub(super) async fn addresses(&self, name: &str) -> Answer {
        let (v4, v6) = tokio::join!(self.family(name, RecordType::A), self.family(name, RecordType::AAAA));
        Answer { v4, v6 }
    }

    async fn family(&self, name: &str, kind: RecordType) -> Family {
        let resolver = match &self.resolver {
            Ok(resolver) => resolver,
            Err(error) => return Family::Failed(error.clone()),
        };
        let mut absolute = match Name::from_ascii(name) {
            Ok(name) => name,
            Err(error) => return Family::Failed(error.to_string()),
        };
        absolute.set_fqdn(true);
        match tokio::time::timeout(self.timeout, resolver.lookup(absolute, kind)).await {
            Err(_) => Family::Failed(format!("no answer within {:?}", self.timeout)),
            Ok(Err(error)) => failed(&error),
            Ok(Ok(found)) => {
                let records = found.answers();
                let addresses: BTreeSet<_> =
                    records.iter().filter_map(|record| record.data.ip_addr()).collect();
                let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(0);
                match addresses.is_empty() {
                    true => Family::Nothing(NO_ADDRESS.to_owned()),
                    false => Family::Found { addresses, ttl: Duration::from_secs(ttl.into()) },
                }
            }
        }
    }
}

fn failed(error: &NetError) -> Family {
    if error.is_nx_domain() {
        Family::Nothing("there is no such name".to_owned())
    } else if error.is_no_records_found() {
        Family::Nothing(NO_ADDRESS.to_owned())
    } else {
        Family::Failed(printable(&error.to_string()))
    }
}
