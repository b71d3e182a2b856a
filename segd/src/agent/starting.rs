//! What an agent begins with: what stood when the former one ended, or what the zone files say now.

use std::time::Duration;

use jiff::Timestamp;

use super::InstallError;
use super::changes::{boottime_after, recall};
use super::intent::{Around, Held, Intent, Pending, Stance};
use super::standing::{Found, Standing, Standings};
use crate::datapath;
use crate::policy::Lists;
use crate::policy::model::Exception;
use crate::rollout::exceptions;
use crate::rollout::history::History;

/// The beginning, and how it came about.
pub(super) struct Beginning {
    pub(super) intent: Intent,
    /// As in the history.
    pub(super) why: &'static str,
    /// What a person should know of it.
    pub(super) notes: Vec<String>,
    /// Whether a change lapsed while no agent ran.
    pub(super) lapsed: bool,
    /// Exceptions whose time was over while no agent ran.
    pub(super) ended: Vec<Exception>,
}

/// Of what stood, with what the kernel and the clock say, and the zone files.
///
/// The zone files win if they were changed since, but not after somebody turned away from them and not while a change
/// waits to be confirmed. If they are wrong, what stood goes on.
///
/// # Errors
/// Nothing stood, and the zone files are wrong; or a change waits to be confirmed, and it or the policy that it would
/// give way to cannot be restored.
pub(super) fn begin(
    standings: &Standings,
    history: &History,
    kernel: datapath::InForce,
    files: Result<Stance, InstallError>,
    mut around: Around,
) -> Result<Beginning, InstallError> {
    let (mut notes, mut ended) = (Vec::new(), Vec::new());
    let why = "start";
    let lists = Lists::of(files.as_ref().ok().map(|files| &*files.policy));
    let now = Timestamp::now();
    let found = standings.found(kernel.generation, now);
    let lapsed = matches!(found, Found::Lapsed(_));
    let stood = match found {
        Found::Nothing => None,
        Found::Standing(standing) | Found::Lapsed(standing) => {
            around.exceptions = exceptions::live(&standing.exceptions, now).collect();
            ended.extend(standing.exceptions.iter().filter(|e| e.expires <= now).cloned());
            match restore(&standing, history, &lists, lapsed, kernel.pending.map(|p| p.deadline)) {
                Ok(stood) => Some(stood),
                // The kernel keeps its deadline as long as nothing is installed over it.
                Err(error) if standing.pending.is_some() => return Err(error),
                Err(error) => {
                    let what = "the policy that was in force cannot be restored, the zone files are loaded";
                    notes.push(format!("{what}: {error}"));
                    None
                }
            }
        }
    };
    let Some((stance, pending, held)) = stood else {
        let intent = Intent { stance: files?, around, pending: None, held: None };
        return Ok(Beginning { intent, why, notes, lapsed: false, ended });
    };
    let record = stance.record;
    let (stance, held) = match files {
        Err(error) => {
            notes.push(format!("policy {record} stays in force, as the zone files are wrong: {error}"));
            (stance, held)
        }
        Ok(files) if files.policy.hash() == stance.policy.hash() => {
            // Warnings and users as they are now.
            let Stance { previous, loaded_at, overrides, .. } = stance;
            (Stance { record, previous, overrides, loaded_at, ..files }, None)
        }
        // Only a person says that what was turned away, or what was made of it, is right now.
        Ok(files) if held.is_some() => (stance, held.map(|held| Held { hash: files.policy.hash(), ..held })),
        Ok(_) if pending.is_some() => {
            notes.push(format!(
                "the zone files were changed while policy {record} waits to be confirmed; they are not loaded"
            ));
            (stance, held)
        }
        Ok(files) => (Stance { previous: Some(record), overrides: stance.overrides, ..files }, None),
    };
    Ok(Beginning { intent: Intent { stance, around, pending, held }, why, notes, lapsed, ended })
}

type Restored = (Stance, Option<Pending>, Option<Held>);

/// `deadline_ns`: the kernel's own, if it has one.
fn restore(
    standing: &Standing,
    history: &History,
    lists: &Lists,
    lapsed: bool,
    deadline_ns: Option<u64>,
) -> Result<Restored, InstallError> {
    let policy = |record: u32| recall(&history.load(record)?, lists);
    match &standing.pending {
        Some(p) if lapsed => {
            let former = policy(p.record)?;
            // What was not confirmed may be unreadable; then there is nothing to hold back.
            let left = history.load(standing.record).ok().map(|record| record.hash);
            let held = left.filter(|hash| *hash != former.policy.hash()).map(|hash| {
                let why = format!("policy {} was not confirmed in time", standing.record);
                Held { hash, why }
            });
            Ok((former, None, held.or_else(|| standing.held.clone())))
        }
        Some(p) => {
            let former = policy(p.record)?;
            // After a reboot the kernel has forgotten it.
            let deadline_ns = deadline_ns.unwrap_or_else(|| {
                let left = p.deadline.duration_since(Timestamp::now());
                boottime_after(Duration::try_from(left).unwrap_or_default())
            });
            let pending = Pending { former, deadline_ns, deadline: p.deadline, since: p.since, by: p.by };
            Ok((policy(standing.record)?, Some(pending), standing.held.clone()))
        }
        None => Ok((policy(standing.record)?, None, standing.held.clone())),
    }
}
