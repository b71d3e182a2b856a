//! What people, guards and deadlines change, each by [`Core::change`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::InstallError;
use super::core::{Change, Core, Done};
use super::intent::{Intent, Pending, Stance};
use super::maker::InForce;
use super::naming;
use crate::config::Config;
use crate::control::api::{Caller, ModeOverride};
use crate::control::changes::{ExceptionRequest, HistoryEntry, ModeRequest};
use crate::datapath::host;
use crate::policy::guard::BadProbe;
use crate::policy::model::Exception;
use crate::policy::workload::{Selector, User};
use crate::policy::{self, Lists, Policy, Resolved, Sources};
use crate::rollout::exceptions::{self, ExceptionError};
use crate::rollout::history::{HistoryError, Record};
use crate::rollout::journal::Action;
use crate::rollout::modes::{self, ModeError};

/// Why something is not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Mode(#[from] ModeError),
    #[error(transparent)]
    Exception(#[from] ExceptionError),
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A change without a deadline on top of one that has one.
    #[error("a change by {by} waits to be confirmed until {deadline}")]
    Pending { by: String, deadline: Timestamp },
    #[error(transparent)]
    Probe(#[from] BadProbe),
    #[error("the time to confirm is over: the former policy is back")]
    TooLate,
    #[error(
        "only root may have a guard run a command: use a tcp:// or http:// probe, or put it into the zone files"
    )]
    ProbeForbidden,
    #[error("nothing waits to be confirmed")]
    NothingPending,
    #[error("another exception has this id")]
    Taken,
    #[error("there is no former policy to go back to")]
    NoFormer,
    #[error("policy {0} is in force already")]
    InForce(u32),
    #[error("a change may wait for 1 second to 7 days to be confirmed, not for {}", shown(*.0))]
    Window(Duration),
}

/// The longest time for which a change may wait to be confirmed.
pub(super) const MAX_CONFIRM: Duration = Duration::from_secs(7 * 24 * 3600);

fn shown(duration: Duration) -> String {
    SignedDuration::try_from(duration).map_or_else(|_| "for ever".to_owned(), |d| format!("{d:#}"))
}

/// Reads and checks the zone files. `names` gives what the names in a policy's zones stand for. An address that two
/// zones claim by them is no error, as a name's owner could keep the agent from starting. `lists`: of policies that are
/// known.
///
/// # Errors
/// Every error of the files at once.
pub(super) fn read(
    config: &Config,
    lists: &Lists,
    names: impl FnOnce(&Policy) -> Resolved,
) -> Result<Stance, InstallError> {
    let now = Timestamp::now();
    let sources = Sources::read_dir(&config.policy_dir)?;
    let policy = lists.load(sources, now).map_err(InstallError::Policy)?;
    let names = names(&policy);
    let found = policy::check(&policy, &config.failsafes, &names, now);
    if found.errors() > 0 {
        return Err(InstallError::Policy(found));
    }
    let warnings = found.items().iter().map(|w| format!("{}:{}: {}", w.file, w.line, w.message)).collect();
    Ok(stance(policy, Vec::new(), now, warnings))
}

/// The stance that a record keeps. Rules that have expired since are no error, as the kernel knows of their end.
pub(super) fn recall(record: &Record, lists: &Lists) -> Result<Stance, InstallError> {
    let policy = lists.load_stored(record.sources()).map_err(InstallError::Policy)?;
    let stance = stance(policy, record.overrides.clone(), record.made_at, Vec::new());
    Ok(Stance { record: record.generation, previous: record.previous, ..stance })
}

pub(super) fn stance(
    policy: Policy,
    overrides: Vec<ModeOverride>,
    loaded_at: Timestamp,
    mut warnings: Vec<String>,
) -> Stance {
    let users = Arc::new(uids(&policy));
    warnings.extend(policy::workload::without_user(&policy, &users));
    Stance { record: 0, previous: None, policy: Arc::new(policy), overrides, users, loaded_at, warnings }
}

/// Numbers of the users that workloads name; those that this host does not know are left out.
fn uids(policy: &Policy) -> BTreeMap<String, u32> {
    let known = |name: &str| match nix::unistd::User::from_name(name) {
        Ok(user) => user.map(|u| u.uid.as_raw()),
        Err(error) => {
            tracing::warn!(user = name, "cannot look up a user that a workload names: {error}");
            None
        }
    };
    let users = policy.workloads.values().filter_map(|w| match &w.selector {
        Selector::User(User::Name(name)) => Some(name.as_str()),
        _ => None,
    });
    users.filter_map(|name| Some((name.to_owned(), known(name)?))).collect()
}

/// What gives way to what: a deadline for the new stance, or for the one that already waits.
fn pending(
    now: &InForce,
    confirm: Option<Duration>,
    by: Option<Caller>,
) -> Result<Option<Pending>, ChangeError> {
    let waiting = now.intent.pending.as_ref();
    match (confirm, waiting) {
        (None, None) => Ok(None),
        (_, Some(p)) if p.has_passed() => Err(ChangeError::TooLate),
        (None, Some(p)) => Err(ChangeError::Pending {
            by: p.by.map_or_else(|| "segd".to_owned(), |uid| format!("uid {uid}")),
            deadline: p.deadline,
        }),
        (Some(within), waiting) => Ok(Some(Pending {
            former: waiting.map_or_else(|| now.intent.stance.clone(), |p| p.former.clone()),
            deadline_ns: boottime_after(within),
            deadline: after(within),
            since: Timestamp::now(),
            by: by.map(|c| c.uid),
        })),
    }
}

/// So far from now, in nanoseconds of CLOCK_BOOTTIME.
pub(super) fn boottime_after(within: Duration) -> u64 {
    host::boottime_ns().saturating_add(u64::try_from(within.as_nanos()).unwrap_or(u64::MAX))
}

/// So far from now; a time that does not exist is the last one that does.
pub(super) fn after(within: Duration) -> Timestamp {
    let within = SignedDuration::try_from(within).unwrap_or(SignedDuration::MAX);
    Timestamp::now().checked_add(within).unwrap_or(Timestamp::MAX)
}

impl Core {
    /// Long lists of prefixes of the policies that are in force or may be.
    fn lists(&self) -> Lists {
        let Intent { stance, pending, .. } = &self.in_force().intent;
        Lists::of(
            [Some(stance), pending.as_ref().map(|p| &p.former)].into_iter().flatten().map(|s| &*s.policy),
        )
    }

    /// Reads and checks the zone files, and looks the names in them up. Blocks.
    pub(super) fn read(&self) -> Result<Stance, InstallError> {
        let _way = self.give_way();
        read(self.config(), &self.lists(), |policy| self.names.for_policy(policy, naming::PATIENCE))
    }

    /// Brings zone files into force that were read; nothing is held back any more. Blocks.
    pub(super) fn load(
        &self,
        change: &Change,
        read: Stance,
        confirm: Option<Duration>,
    ) -> Result<Done, ChangeError> {
        self.change(change, |now| {
            let pending = pending(now, confirm, change.by)?;
            let Stance { record, overrides, .. } = &now.intent.stance;
            let stance = Stance { overrides: overrides.clone(), previous: Some(*record), ..read };
            Ok(Intent { stance, pending, held: None, ..now.intent.clone() })
        })
    }

    /// Sets a mode. Blocks.
    ///
    /// To let everything pass is always possible: while a change waits to be confirmed, it holds for the former
    /// policy too, so that it lasts when that returns.
    pub(super) fn set_mode(
        &self,
        change: &Change,
        request: &ModeRequest,
        confirm: Option<Duration>,
    ) -> Result<Done, ChangeError> {
        let (by, at) = (change.by, Timestamp::now());
        let loosens = request.mode == Some(segd_common::traffic::Mode::Monitor);
        self.change(change, |now| {
            let set = |stance: &Stance| -> Result<Stance, ModeError> {
                let by = by.map_or(0, |c| c.uid);
                Ok(stance.with_overrides(modes::set(&stance.policy, &stance.overrides, request, by, at)?))
            };
            let stance = set(&now.intent.stance)?;
            let pending = match (&now.intent.pending, confirm) {
                (Some(waiting), None) if loosens => {
                    // The former policy may not have what is named.
                    let former = set(&waiting.former).unwrap_or_else(|_| waiting.former.clone());
                    Some(Pending { former, ..waiting.clone() })
                }
                _ => pending(now, confirm, by)?,
            };
            Ok(Intent { stance, pending, ..now.intent.clone() })
        })
    }

    /// Lets what waits stay for good. Blocks.
    pub(super) fn confirm(&self, change: &Change) -> Result<Done, ChangeError> {
        self.change(change, |now| match &now.intent.pending {
            None => Err(ChangeError::NothingPending),
            Some(waiting) if waiting.has_passed() => Err(ChangeError::TooLate),
            Some(_) => Ok(Intent { pending: None, ..now.intent.clone() }),
        })
    }

    /// Gives what waits more time. Blocks.
    pub(super) fn extend(&self, change: &Change, within: Duration) -> Result<Done, ChangeError> {
        self.change(change, |now| match &now.intent.pending {
            None => Err(ChangeError::NothingPending),
            Some(waiting) if waiting.has_passed() => Err(ChangeError::TooLate),
            Some(waiting) => {
                let (deadline_ns, deadline) = (boottime_after(within), after(within));
                let pending = Some(Pending { deadline_ns, deadline, ..waiting.clone() });
                Ok(Intent { pending, ..now.intent.clone() })
            }
        })
    }

    /// Brings a former policy back: the one asked for, else the one that a waiting change would give way to, else
    /// the one before. Blocks.
    pub(super) fn roll_back(&self, change: &Change, to: Option<u32>) -> Result<Done, ChangeError> {
        self.change(change, |now| {
            let record = now.intent.stance.record;
            let former = match (to, &now.intent.pending) {
                (None, Some(waiting)) => waiting.former.clone(),
                (Some(to), Some(waiting)) if to == waiting.former.record => waiting.former.clone(),
                (Some(to), _) if to == record => return Err(ChangeError::InForce(to)),
                (Some(to), _) => self.former(to)?,
                (None, None) => self.former(now.intent.stance.previous.ok_or(ChangeError::NoFormer)?)?,
            };
            let why = format!("rolled back from policy {record} to policy {}", former.record);
            Ok(now.intent.back_to(former, self.files_hash(now), why))
        })
    }

    /// A policy of the history, with the names in its zones looked up unless they are known. Blocks.
    pub(super) fn former(&self, record: u32) -> Result<Stance, ChangeError> {
        let stance = recall(&self.maker.history.load(record)?, &self.lists())?;
        self.names.for_policy(&stance.policy, naming::LITTLE_PATIENCE);
        Ok(stance)
    }

    /// Hash of the zone files on disk; of those in force if they cannot be read.
    pub(super) fn files_hash(&self, now: &InForce) -> String {
        match Sources::read_dir(&self.config().policy_dir) {
            Ok(files) => files.hash(),
            Err(_) => now.intent.stance.policy.hash(),
        }
    }

    /// Whether a deadline has passed, or the time of an exception.
    pub(super) fn is_something_over(&self) -> bool {
        let now = self.in_force();
        now.intent.pending.as_ref().is_some_and(Pending::has_passed)
            || now.intent.around.exceptions.iter().any(|e| e.expires <= Timestamp::now())
    }

    /// The former policy returns as nobody confirmed the new one in time; in the kernel it has already. `None`: no
    /// deadline has passed. Blocks.
    pub(super) fn lapse(&self) -> Option<Result<Done, ChangeError>> {
        let due = |now: &InForce| now.intent.pending.as_ref().is_some_and(Pending::has_passed);
        if !due(&self.in_force()) {
            return None;
        }
        let change = Change::own(Action::Expire).because("nobody confirmed the change in time");
        let done = self.change(&change, |now| match &now.intent.pending {
            Some(waiting) if due(now) => {
                let why = format!("policy {} was not confirmed in time", now.intent.stance.record);
                Ok(now.intent.back_to(waiting.former.clone(), self.files_hash(now), why))
            }
            _ => Err(ChangeError::NothingPending),
        });
        match done {
            // Somebody confirmed or extended at the last moment.
            Err(ChangeError::NothingPending) => None,
            done => Some(done),
        }
    }

    /// Adds an exception. Blocks.
    pub(super) fn add_exception(
        &self,
        change: &mut Change,
        request: &ExceptionRequest,
    ) -> Result<(Exception, Done), ChangeError> {
        let by = change.by.map_or(0, |c| c.uid);
        loop {
            let exception = {
                let now = self.in_force();
                let (policy, taken) = (&now.intent.stance.policy, &now.intent.around.exceptions);
                let limit = self.config().max_exception_ttl;
                exceptions::make(policy, taken, request, limit, by, Timestamp::now())?
            };
            change.details = serde_json::to_value(&exception).unwrap_or_default();
            let done = self.change(change, |now| {
                let taken = &now.intent.around.exceptions;
                if taken.iter().any(|e| e.id == exception.id) {
                    return Err(ChangeError::Taken);
                }
                let mut intent = now.intent.clone();
                let live = exceptions::live(taken, Timestamp::now());
                intent.around.exceptions = live.chain([exception.clone()]).collect();
                Ok(intent)
            });
            match done {
                // Another one was added at the same moment.
                Err(ChangeError::Taken) => {}
                done => return Ok((exception, done?)),
            }
        }
    }

    /// Ends an exception. Blocks.
    pub(super) fn revoke_exception(
        &self,
        change: &mut Change,
        id: &str,
    ) -> Result<(Exception, Done), ChangeError> {
        let exception = exceptions::find(&self.in_force().intent.around.exceptions, id)?.clone();
        change.details = serde_json::to_value(&exception).unwrap_or_default();
        let done = self.change(change, |now| {
            exceptions::find(&now.intent.around.exceptions, id)?;
            let mut intent = now.intent.clone();
            intent.around.exceptions.retain(|e| e.id != id);
            Ok::<_, ChangeError>(intent)
        })?;
        Ok((exception, done))
    }

    /// Forgets exceptions that have expired: the kernel no longer matches them. Blocks.
    pub(super) fn end_exceptions(&self) {
        let is_over = |e: &Exception| e.expires <= Timestamp::now();
        let over: Vec<Exception> = {
            let now = self.in_force();
            now.intent.around.exceptions.iter().filter(|e| is_over(e)).cloned().collect()
        };
        if over.is_empty() {
            return;
        }
        let done = self.surround(|_, around| {
            let mut around = around.clone();
            around.exceptions.retain(|e| !over.contains(e));
            around
        });
        if let Err(error) = done {
            return tracing::error!("cannot forget expired exceptions: {error}");
        }
        self.tell_ended(&over, "its time is over");
    }

    /// Journals exceptions that have ended by themselves.
    pub(super) fn tell_ended(&self, over: &[Exception], why: &str) {
        for exception in over {
            let details = serde_json::to_value(exception).unwrap_or_default();
            self.note(&Change { details, ..Change::own(Action::ExceptionEnd).because(why) });
            tracing::info!(exception = exception.id, "the exception has ended");
        }
    }

    /// The policies that `segd rollback` can bring back, newest first, and what is wrong with others.
    pub(super) fn past(&self) -> Result<(Vec<HistoryEntry>, Vec<String>), HistoryError> {
        let record = self.in_force().intent.stance.record;
        let found = self.maker.history.list()?;
        let entries = found.records.iter().map(|r| HistoryEntry {
            generation: r.generation,
            made_at: r.made_at,
            by: r.by,
            why: r.why.clone(),
            hash: r.hash.clone(),
            overrides: r.overrides.len() as u64,
            in_force: r.generation == record,
        });
        Ok((entries.collect(), found.damaged.iter().map(|(_, error)| error.to_string()).collect()))
    }
}
