//! What is known of rules beyond the policy and the kernel's counters, which a reboot takes.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::HashMap;
use jiff::Timestamp;
use rusqlite::{Connection, Transaction, params};
use serde::{Deserialize, Serialize};

use super::number;

/// What is known of a rule or an exception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleFacts {
    /// Its id.
    pub rule: String,
    /// When the agent first had it in force, or first saw a flow that it allowed. One that went and came back within the
    /// time that history is kept is no new one. Seconds.
    pub since: Timestamp,
    /// When a flow that it allowed last began or ended. Seconds.
    pub last_hit: Option<Timestamp>,
    /// Flows that it allowed since `since`.
    pub hits: u64,
    /// Since when it is no longer in force. Seconds.
    pub gone: Option<Timestamp>,
}

/// What is new of rules and not yet written.
#[derive(Clone, Debug, Default)]
pub(in crate::history) struct RuleNews {
    /// Ids of those in force, and since when.
    pub(in crate::history) in_force: Option<(HashSet<Arc<str>>, Timestamp)>,
    pub(in crate::history) hits: HashMap<Arc<str>, Hits>,
}

/// Flows that a rule allowed.
#[derive(Clone, Copy, Debug)]
pub(in crate::history) struct Hits {
    pub(in crate::history) flows: u64,
    pub(in crate::history) first: Timestamp,
    pub(in crate::history) last: Timestamp,
}

impl RuleNews {
    pub(in crate::history) fn is_empty(&self) -> bool {
        self.in_force.is_none() && self.hits.is_empty()
    }

    /// `first` and `last`: when the flows began or ended.
    pub(in crate::history) fn hit(&mut self, rule: &Arc<str>, flows: u64, first: Timestamp, last: Timestamp) {
        let hits = self.hits.entry(Arc::clone(rule)).or_insert(Hits { flows: 0, first, last });
        hits.flows = hits.flows.saturating_add(flows);
        hits.first = hits.first.min(first);
        hits.last = hits.last.max(last);
    }

    pub(super) fn write(&self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        for (rule, hits) in &self.hits {
            to.prepare_cached(
                "INSERT INTO rule VALUES (?1, ?2, ?3, ?4, NULL) ON CONFLICT DO UPDATE
                 SET last_hit = max(coalesce(last_hit, ?3), ?3), hits = hits + ?4",
            )?
            .execute(params![
                &**rule,
                hits.first.as_second(),
                hits.last.as_second(),
                number(hits.flows)
            ])?;
        }
        let Some((in_force, now)) = &self.in_force else { return Ok(()) };
        let mut known = to.prepare_cached("SELECT id FROM rule WHERE gone IS NULL")?;
        let known: Vec<String> = known.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for gone in known.iter().filter(|rule| !in_force.contains(rule.as_str())) {
            to.prepare_cached("UPDATE rule SET gone = ? WHERE id = ?")?
                .execute(params![now.as_second(), gone])?;
        }
        for rule in in_force {
            to.prepare_cached(
                "INSERT INTO rule VALUES (?, ?, NULL, 0, NULL) ON CONFLICT DO UPDATE SET gone = NULL",
            )?
            .execute(params![&**rule, now.as_second()])?;
        }
        Ok(())
    }
}

pub(super) fn read(db: &Connection) -> rusqlite::Result<Vec<RuleFacts>> {
    let time = |second: i64| Timestamp::from_second(second).unwrap_or_default();
    db.prepare_cached("SELECT id, since, last_hit, hits, gone FROM rule ORDER BY id")?
        .query_map([], |row| {
            Ok(RuleFacts {
                rule: row.get(0)?,
                since: time(row.get(1)?),
                last_hit: row.get::<_, Option<i64>>(2)?.map(time),
                hits: u64::try_from(row.get::<_, i64>(3)?).unwrap_or_default(),
                gone: row.get::<_, Option<i64>>(4)?.map(time),
            })
        })?
        .collect()
}
