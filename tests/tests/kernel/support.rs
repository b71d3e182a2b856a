//! Two zones, one host each, and the policy between them: what most tests start from.

use std::time::Duration;

use aya::maps::{Map, MapData};
use segd::datapath::Place;
use segd::policy::ids::Registry;
use segd::policy::{self, Compiled, Sources};
use segd_tests::{Agent, Host, Lab};
use serde_json::Value;

/// A map that a host's agent, or data path, has pinned.
pub(crate) fn pinned(host: &Host, name: &str) -> Map {
    let version = format!("v{}", segd_common::schema::VERSION);
    let pin = host.bpffs().join(version).join("maps").join(name);
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap()
}

/// How long a record or a counter may take to show.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A host in zone `orders`, one in zone `transport`.
pub(crate) struct Pair {
    pub(crate) lab: Lab,
    pub(crate) orders: Host,
    pub(crate) transport: Host,
}

impl Pair {
    pub(crate) fn new(name: &str) -> Option<Self> {
        let lab = Lab::or_skip(name)?;
        let orders = lab.host("orders").unwrap();
        let transport = lab.host("transport").unwrap();
        Some(Self { lab, orders, transport })
    }

    /// The two zones and `rest`.
    pub(crate) fn zones(&self, rest: &str) -> String {
        format!(
            "[zone.orders]\ncidrs = [\"{}\", \"{}\"]\n[zone.transport]\ncidrs = [\"{}\", \"{}\"]\n{rest}",
            self.orders.v4_prefix(),
            self.orders.v6_prefix(),
            self.transport.v4_prefix(),
            self.transport.v6_prefix(),
        )
    }

    /// The policy of zones and `rest` for the host in zone `transport`, for tests that drive the data path themselves.
    pub(crate) fn compiled(&self, rest: &str) -> Compiled {
        let now = jiff::Timestamp::now();
        let text = self.zones(rest);
        let policy = policy::load(Sources::from_texts([("zones.toml", text.as_str())]), now)
            .unwrap_or_else(|found| panic!("{}", found.render(false)));
        let addresses = [self.transport.v4(), self.transport.v6()];
        let at = policy::Host::in_zone("transport", &addresses);
        policy::compile(&policy, at, &[], &policy::default_failsafes(), &mut Registry::default()).unwrap()
    }

    /// Where the programs of the host in zone `transport` are to be.
    pub(crate) fn place(&self) -> Place {
        let host = &self.transport;
        Place { cgroup: host.cgroup().to_owned(), bpffs: host.bpffs(), log_level: 0 }
    }

    pub(crate) fn agent(&self, host: &Host, rest: &str) -> Agent {
        host.agent().zones(&self.zones(rest)).start().unwrap()
    }
}

/// A rule from transport to orders for these services.
pub(crate) fn rule(services: &str) -> String {
    format!(
        "[[allow]]\nid = \"transport-to-orders\"\nfrom = \"transport\"\nto = \"orders\"\nservices = [{services}]\n\
         owner = \"orders-team\"\n"
    )
}

/// Everything that no rule allows is denied.
pub(crate) const ENFORCE: &str = "[[rollout]]\nmode = \"enforce\"\n";

/// Whether a record has these fields; paths are separated by dots.
pub(crate) fn has(record: &Value, fields: &[(&str, &str)]) -> bool {
    fields.iter().all(|(path, wanted)| {
        let value = path.split('.').fold(record, |value, key| &value[key]);
        match value {
            Value::String(text) => text == wanted,
            other => serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| *other == wanted),
        }
    })
}

/// Waits for a flow record with these fields.
pub(crate) fn record(agent: &Agent, fields: &[(&str, &str)]) -> Value {
    agent.wait_flow(&format!("a record with {fields:?}"), SOON, |r| has(r, fields)).unwrap()
}

/// Waits until a metric has reached a value.
pub(crate) fn counted(agent: &Agent, name: &str, labels: &[(&str, &str)], wanted: f64) {
    agent
        .wait_metrics(&format!("{name}{labels:?} = {wanted}"), SOON, |m| m.sum(name, labels) == wanted)
        .unwrap();
}
