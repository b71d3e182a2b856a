//! Numbers for names, given once and kept, so that counters and events outlive policy generations and
//! restarts. The agent stores the registry in its state directory.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use segd_common::id::{RuleId, ServiceId, SubjectId, ZoneId};
use serde::{Deserialize, Serialize};

/// Names of the built-in zones, by number.
pub const BUILT_IN_ZONES: [(&str, ZoneId); 4] = [
    ("unknown", ZoneId::UNKNOWN),
    ("loopback", ZoneId::LOOPBACK),
    ("multicast", ZoneId::MULTICAST),
    ("link-local", ZoneId::LINK_LOCAL),
];

/// The label of a port that no service names.
pub const OTHER_SERVICE: &str = "other";

/// As [`BUILT_IN_ZONES`], to be shared by records.
static BUILT_IN_NAMES: LazyLock<[Arc<str>; 4]> =
    LazyLock::new(|| BUILT_IN_ZONES.map(|(name, _)| name.into()));
/// As [`OTHER_SERVICE`].
static OTHER_NAME: LazyLock<Arc<str>> = LazyLock::new(|| OTHER_SERVICE.into());

/// Every name that ever had a number, with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    subjects: Numbers,
    services: Numbers,
    rules: Numbers,
}

/// More names than numbers.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "more than {limit} different {what} names over time; remove {file} while segd is detached to start anew"
)]
pub struct Full {
    what: &'static str,
    limit: u32,
    file: &'static str,
}

/// Where the agent keeps the registry, under its state directory.
pub const REGISTRY_FILE: &str = "ids.json";

impl Registry {
    /// The number of a zone; a new name gets the next one.
    pub fn zone(&mut self, name: &str) -> Result<ZoneId, Full> {
        if let Some((_, id)) = BUILT_IN_ZONES.iter().find(|(n, _)| *n == name) {
            return Ok(*id);
        }
        let n = self.subjects.number(name, u32::from(ZoneId::FIRST), u32::from(u16::MAX) - 1, "zone")?;
        Ok(ZoneId(u16::try_from(n).unwrap_or(ZoneId::UNKNOWN.0)))
    }

    /// The names of all zones and workloads that ever had a number, and of the built-in zones.
    pub fn subjects(&self) -> impl Iterator<Item = &str> {
        let built_in = BUILT_IN_ZONES.iter().map(|(name, _)| *name);
        self.subjects.by_name.keys().map(|name| &**name).chain(built_in)
    }

    /// The highest number that a zone or workload has; less than [`ZoneId::FIRST`] if none has one.
    pub(crate) fn last_subject(&self) -> u16 {
        let last = self.subjects.by_number.last_key_value().map(|(n, _)| *n);
        last.and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
    }

    /// The number of a service; a new name gets the next one.
    pub fn service(&mut self, name: &str) -> Result<ServiceId, Full> {
        let n = self.services.number(name, 1, u32::from(u16::MAX), "service")?;
        Ok(ServiceId(u16::try_from(n).unwrap_or(ServiceId::OTHER.0)))
    }

    /// The number of a rule; a new one gets the next one.
    pub fn rule(&mut self, id: &str) -> Result<RuleId, Full> {
        Ok(RuleId(self.rules.number(id, 1, u32::MAX, "rule")?))
    }

    /// The name of a zone, or `?N` for a number that was never given.
    pub fn zone_name(&self, id: ZoneId) -> Arc<str> {
        let built_in = BUILT_IN_ZONES.iter().position(|(_, i)| *i == id);
        match built_in.and_then(|n| BUILT_IN_NAMES.get(n)) {
            Some(name) => Arc::clone(name),
            None => self.subjects.name(u32::from(id.0)),
        }
    }

    /// The name of a zone or workload.
    pub fn subject_name(&self, id: SubjectId) -> Arc<str> {
        self.zone_name(ZoneId(id.0))
    }

    /// The name of a service.
    pub fn service_name(&self, id: ServiceId) -> Arc<str> {
        if id == ServiceId::OTHER {
            return Arc::clone(&OTHER_NAME);
        }
        self.services.name(u32::from(id.0))
    }

    /// The id of a rule; `None` for [`RuleId::NONE`].
    pub fn rule_name(&self, id: RuleId) -> Option<Arc<str>> {
        (id != RuleId::NONE).then(|| self.rules.name(id.0))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<Arc<str>, u32>", into = "BTreeMap<Arc<str>, u32>")]
struct Numbers {
    by_name: BTreeMap<Arc<str>, u32>,
    by_number: BTreeMap<u32, Arc<str>>,
}

impl Numbers {
    fn number(&mut self, name: &str, first: u32, last: u32, what: &'static str) -> Result<u32, Full> {
        if let Some(n) = self.by_name.get(name) {
            return Ok(*n);
        }
        let next = self.by_number.last_key_value().map_or(Some(first), |(n, _)| n.checked_add(1));
        let n =
            next.filter(|n| *n <= last).ok_or(Full { what, limit: last - first + 1, file: REGISTRY_FILE })?;
        let name: Arc<str> = name.into();
        self.by_name.insert(Arc::clone(&name), n);
        self.by_number.insert(n, name);
        Ok(n)
    }

    fn name(&self, number: u32) -> Arc<str> {
        self.by_number.get(&number).cloned().unwrap_or_else(|| format!("?{number}").into())
    }
}

impl From<BTreeMap<Arc<str>, u32>> for Numbers {
    fn from(by_name: BTreeMap<Arc<str>, u32>) -> Self {
        let by_number = by_name.iter().map(|(name, n)| (*n, Arc::clone(name))).collect();
        Self { by_name, by_number }
    }
}

impl From<Numbers> for BTreeMap<Arc<str>, u32> {
    fn from(n: Numbers) -> Self {
        n.by_name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay() {
        let mut r = Registry::default();
        let orders = r.zone("orders").unwrap();
        let transport = r.zone("transport").unwrap();
        assert_eq!(r.zone("unknown").unwrap(), ZoneId::UNKNOWN);
        let text = serde_json::to_string(&r).unwrap();
        let mut again: Registry = serde_json::from_str(&text).unwrap();
        assert_eq!(again.zone("orders").unwrap(), orders);
        assert_eq!(&*again.zone_name(transport), "transport");
        assert_eq!(again.zone("new").unwrap().0, transport.0 + 1);
        assert_eq!(&*again.zone_name(ZoneId(999)), "?999");
    }

    #[test]
    fn numbers_run_out_with_an_error() {
        let mut n = Numbers::default();
        assert_eq!(n.number("a", 1, 1, "rule"), Ok(1));
        assert!(n.number("b", 1, 1, "rule").unwrap_err().to_string().contains("rule names"));
    }
}
