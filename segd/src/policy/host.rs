//! Which zone this host is in.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::builtin::is_built_in;
use super::diagnostics::suggest;
use super::locate::{Atlas, By};
use super::model::Policy;
use super::resolved::Resolved;

/// Why the host's zone is not known. Enforcing on a guess would cut the wrong traffic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostZoneError {
    /// `segd.toml` names a zone that the zone files do not define.
    #[error("segd.toml says that this host is in zone `{zone}`, which the zone files do not define{help}")]
    NotDefined {
        /// What it names.
        zone: String,
        /// The nearest name, or all of them.
        help: String,
    },
    /// No address is in a zone.
    #[error("no address of this host is in a zone:{list}\n{REMEDY}")]
    None {
        /// A line for each address.
        list: String,
    },
    /// Addresses are in different zones.
    #[error("the addresses of this host are in {count} zones:{list}\n{REMEDY}")]
    Several {
        /// How many.
        count: usize,
        /// A line for each address.
        list: String,
    },
}

const REMEDY: &str = "set `zone` under [host] in segd.toml, or put the address into the `cidrs` of one zone (a /32 or /128 wins)";

/// The configured zone, else the one zone that the host's own addresses are in. Loopback and link-local
/// addresses say nothing; neither do addresses in no zone as long as another one is.
pub fn host_zone(
    policy: &Policy,
    configured: Option<&str>,
    addresses: &[IpAddr],
    names: &Resolved,
) -> Result<String, HostZoneError> {
    if let Some(zone) = configured {
        if policy.zones.contains_key(zone) {
            return Ok(zone.to_owned());
        }
        let help = suggest(zone, "zones", policy.zones.keys().map(String::as_str));
        let help = help.map_or(String::new(), |h| format!("; {h}"));
        return Err(HostZoneError::NotDefined { zone: zone.to_owned(), help });
    }
    let atlas = Atlas::new(policy, names);
    let mut zones = BTreeSet::new();
    let mut list = String::new();
    for address in addresses {
        let located = atlas.locate(*address);
        let what = match located.by {
            By::Prefix(_) if matches!(located.zone, "loopback" | "link-local") => continue,
            By::Prefix(prefix) => format!("{} (by {prefix})", located.zone),
            By::Name(name) => format!("{} (by {name})", located.zone),
            By::Nothing => "no zone".to_owned(),
        };
        list.push_str(&format!("\n  {address}: {what}"));
        if !is_built_in(located.zone) {
            zones.insert(located.zone);
        }
    }
    let mut found = zones.iter();
    match (found.next(), found.next()) {
        (Some(zone), None) => Ok((*zone).to_owned()),
        (Some(_), Some(_)) => Err(HostZoneError::Several { count: zones.len(), list }),
        (None, _) if list.is_empty() => {
            Err(HostZoneError::None { list: "\n  it has loopback and link-local addresses only".to_owned() })
        }
        (None, _) => Err(HostZoneError::None { list }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Sources, load};

    fn zone(configured: Option<&str>, addresses: &[&str]) -> Result<String, String> {
        let text = r#"
            [zone.orders]
            cidrs = ["10.1.0.0/16", "2001:db8:1::/48"]
            [zone.transport]
            cidrs = ["10.2.0.0/16", "10.1.0.9/32"]
            names = ["gateway.example.com"]
        "#;
        let policy = load(Sources::from_texts([("a.toml", text)]), jiff::Timestamp::UNIX_EPOCH).unwrap();
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let mut names = Resolved::new();
        let gateway = ["10.1.0.8".parse().unwrap()];
        names.set("gateway.example.com", gateway, jiff::Timestamp::UNIX_EPOCH);
        host_zone(&policy, configured, &addresses, &names).map_err(|e| e.to_string())
    }

    #[test]
    fn one_zone_is_enough() {
        for (configured, addresses, wanted) in [
            (Some("transport"), &["10.1.0.1"][..], "transport"),
            (None, &["127.0.0.1", "::1", "fe80::1", "10.1.0.1"], "orders"),
            (None, &["172.17.0.1", "2001:db8:1::7", "10.1.0.1"], "orders"),
            (None, &["10.1.0.9"], "transport"),
            (None, &["10.1.0.8"], "transport"),
        ] {
            assert_eq!(zone(configured, addresses), Ok(wanted.to_owned()), "{configured:?} {addresses:?}");
        }
    }

    #[test]
    fn errors_name_every_address_and_what_to_do() {
        assert_eq!(
            zone(Some("order"), &[]).unwrap_err(),
            "segd.toml says that this host is in zone `order`, which the zone files do not define; \
             did you mean `orders`?"
        );
        assert_eq!(
            zone(None, &["127.0.0.1", "172.17.0.1", "10.1.0.1", "10.2.0.1"]).unwrap_err(),
            format!(
                "the addresses of this host are in 2 zones:\n  172.17.0.1: no zone\n  \
                 10.1.0.1: orders (by 10.1.0.0/16)\n  10.2.0.1: transport (by 10.2.0.0/16)\n{REMEDY}"
            )
        );
        assert!(
            zone(None, &["10.1.0.8", "10.1.0.1"]).unwrap_err().contains("transport (by gateway.example.com)")
        );
        assert_eq!(
            zone(None, &["172.17.0.1"]).unwrap_err(),
            format!("no address of this host is in a zone:\n  172.17.0.1: no zone\n{REMEDY}")
        );
        assert!(zone(None, &["127.0.0.1"]).unwrap_err().contains("loopback and link-local addresses only"));
    }
}
