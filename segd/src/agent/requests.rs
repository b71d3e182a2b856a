//! What people ask of the agent over the control socket.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use segd_common::traffic::Mode;

use super::InstallError;
use super::changes::{ChangeError, MAX_CONFIRM};
use super::core::{Care, Change, Core, Done};
use super::intent::Pending;
use super::view::Handle;
use crate::control::Agent;
use crate::control::api::{Caller, ControlError, ErrorBody, Status};
use crate::control::changes::{
    Applied, ChangeOutcome, ConfirmRequest, ExceptionOutcome, ExceptionRequest, ExceptionRevoke, History,
    ModeOutcome, ModeRequest, PendingStatus, PreviewRequest, Previewed, RollbackRequest, Safety,
};
use crate::policy::Sources;
use crate::rollout::journal::Action;
use crate::rollout::modes;
use crate::telemetry::Collector;

fn body(error: &impl ToString, help: Option<&str>) -> ErrorBody {
    ErrorBody { error: error.to_string(), help: help.map(str::to_owned), breaks: Vec::new() }
}

impl From<ChangeError> for ControlError {
    fn from(error: ChangeError) -> Self {
        let stays = Some("the former policy stays in force");
        match &error {
            ChangeError::Install(
                InstallError::Read(_) | InstallError::Policy(_) | InstallError::HostZone(_),
            ) => Self::Invalid(body(&error, stays)),
            ChangeError::Install(_) | ChangeError::History(_) => Self::Failed(body(&error, stays)),
            ChangeError::Mode(_)
            | ChangeError::Exception(_)
            | ChangeError::Window(_)
            | ChangeError::Probe(_)
            | ChangeError::ProbeForbidden => Self::Invalid(body(&error, None)),
            ChangeError::Pending { .. } => Self::Refused(body(
                &error,
                Some("`segd confirm` keeps it, `segd rollback` takes it back, another --confirm extends it"),
            )),
            ChangeError::NothingPending
            | ChangeError::TooLate
            | ChangeError::Taken
            | ChangeError::NoFormer
            | ChangeError::InForce(_) => Self::Refused(body(&error, None)),
        }
    }
}

/// The time within which a change must be confirmed.
fn window(seconds: Option<u64>) -> Result<Option<Duration>, ChangeError> {
    let window = seconds.map(Duration::from_secs);
    match window.filter(|w| w.is_zero() || *w > MAX_CONFIRM) {
        Some(wrong) => Err(ChangeError::Window(wrong)),
        None => Ok(window),
    }
}

fn asked(action: Action, by: Caller, safety: &Safety) -> Change {
    let care = match (safety.dry_run, safety.force) {
        (true, _) => Care::DryRun,
        (false, true) => Care::Force,
        (false, false) => Care::Refuse,
    };
    Change { by: Some(by), reason: safety.reason.clone(), care, ..Change::own(action) }
}

/// A change that takes back, or adds: it cannot break what passes.
fn harmless(action: Action, by: Caller, reason: Option<String>) -> Change {
    Change { by: Some(by), reason, ..Change::own(action) }
}

/// Loads the zone files as SIGHUP asks for it, whatever breaks; their guard watches.
pub(super) async fn reload(core: &Core) -> Result<Done, ChangeError> {
    let read = tokio::task::block_in_place(|| core.read())?;
    let root = Caller { uid: 0, pid: None };
    let guard = core.plan_guard(&read.policy, (&Safety::default(), root)).await?;
    let change = Change { guard, ..Change::own(Action::Load).because("SIGHUP") };
    tokio::task::block_in_place(|| core.load(&change, read, None))
}

pub(super) fn pending_status(pending: &Pending) -> PendingStatus {
    let Pending { former, deadline, since, by, .. } = pending;
    PendingStatus { deadline: *deadline, since: *since, by: *by, former: former.record }
}

impl Handle {
    /// Runs something to its end, in which it may block.
    fn blocking<T>(&self, change: impl FnOnce() -> Result<T, ChangeError>) -> Result<T, ControlError> {
        tokio::task::block_in_place(change).map_err(ControlError::from)
    }

    /// What came of a change. May block.
    fn outcome(&self, change: &Change, done: Done) -> Result<ChangeOutcome, ControlError> {
        tokio::task::block_in_place(|| self.told(change, done))
    }

    fn told(&self, change: &Change, done: Done) -> Result<ChangeOutcome, ControlError> {
        if !done.changed && change.care == Care::Refuse {
            return Err(ControlError::Refused(ErrorBody {
                error: format!(
                    "nothing is changed: it would cut traffic that passes now ({} kinds)",
                    done.breaks.len()
                ),
                help: Some("allow it by a rule or an exception, or give --force".to_owned()),
                breaks: done.breaks,
            }));
        }
        let now = self.core.in_force();
        if done.changed {
            let by = change.by.map(|c| c.uid);
            tracing::info!(
                generation = done.generation.0,
                by,
                reason = change.reason,
                "{}",
                change.action.name()
            );
        }
        let mut warnings = now.warnings.clone();
        warnings.extend(self.missing_hooks());
        warnings.extend(done.warnings);
        if change.care != Care::None {
            warnings.extend(self.forgotten());
        }
        Ok(ChangeOutcome {
            changed: done.changed,
            generation: done.generation.0,
            pending: now.intent.pending.as_ref().map(pending_status),
            guard: self.core.guarding.status(),
            breaks: done.breaks,
            warnings,
        })
    }

    /// What a preview does not know of.
    fn forgotten(&self) -> Option<String> {
        let forgotten = self.core.seen.evicted();
        (forgotten > 0).then(|| {
            format!(
                "more kinds of traffic were seen than segd remembers: {forgotten} of them are not among what would break"
            )
        })
    }

    fn applied(&self, change: &Change, done: Done) -> Result<Applied, ControlError> {
        let change = self.outcome(change, done)?;
        Ok(Applied { change, policy: self.policy_status(&self.core.in_force()) })
    }
}

impl Agent for Handle {
    fn status(&self) -> Status {
        self.show()
    }

    fn rule_hits(&self) -> Vec<(Arc<str>, u64, Option<Timestamp>)> {
        self.hits()
    }

    async fn set_mode(&self, request: ModeRequest, caller: Caller) -> Result<ModeOutcome, ControlError> {
        let safety = &request.safety;
        let mut change = asked(Action::Mode, caller, safety);
        if request.mode == Some(Mode::Monitor) && change.care == Care::Refuse {
            change.care = Care::None;
            change.way_out = true;
        }
        change.details = serde_json::json!({
            "mode": request.mode.map_or("default", Mode::name),
            "subject": request.subject,
            "service": request.service,
            "direction": request.direction.map(segd_common::traffic::Direction::name),
            "confirm_s": safety.confirm_s,
        });
        // What lets everything pass breaks nothing.
        if request.mode != Some(Mode::Monitor) {
            let policy = Arc::clone(&self.core.in_force().intent.stance.policy);
            change.guard = self.core.plan_guard(&policy, (safety, caller)).await?;
        }
        let done = self.blocking(|| self.core.set_mode(&change, &request, window(safety.confirm_s)?))?;
        let change = self.outcome(&change, done)?;
        let now = self.core.in_force();
        let stance = &now.intent.stance;
        Ok(ModeOutcome {
            change,
            modes: modes::entries(&stance.policy, &now.zone, &self.core.maker.host, &stance.overrides),
            overrides: stance.overrides.clone(),
        })
    }

    async fn apply(&self, safety: Safety, caller: Caller) -> Result<Applied, ControlError> {
        let mut change = asked(Action::Load, caller, &safety);
        change.details = serde_json::json!({ "confirm_s": safety.confirm_s });
        let read = self.blocking(|| Ok(self.core.read()?))?;
        change.guard = self.core.plan_guard(&read.policy, (&safety, caller)).await?;
        let done = self.blocking(|| self.core.load(&change, read, window(safety.confirm_s)?))?;
        self.applied(&change, done)
    }

    async fn preview(&self, request: PreviewRequest, _: Caller) -> Result<Previewed, ControlError> {
        let PreviewRequest { files, names } = request;
        let files = Sources::from_texts(files.into_iter().map(|file| (file.name, file.text)));
        let (breaks, enforced) = self.blocking(|| Ok(self.core.preview(files, names)?))?;
        Ok(Previewed { breaks, enforced, warnings: self.forgotten().into_iter().collect() })
    }

    async fn confirm(&self, request: ConfirmRequest, caller: Caller) -> Result<ChangeOutcome, ControlError> {
        let mut change = harmless(Action::Confirm, caller, request.reason.clone());
        change.details = serde_json::json!({ "extend_s": request.extend_s });
        let done = self.blocking(|| match window(request.extend_s)? {
            Some(within) => self.core.extend(&change, within),
            None => self.core.confirm(&change),
        })?;
        self.outcome(&change, done)
    }

    async fn roll_back(&self, request: RollbackRequest, caller: Caller) -> Result<Applied, ControlError> {
        let change = harmless(Action::Rollback, caller, request.reason.clone());
        let done = self.blocking(|| self.core.roll_back(&change, request.generation))?;
        self.applied(&change, done)
    }

    async fn add_exception(
        &self,
        request: ExceptionRequest,
        caller: Caller,
    ) -> Result<ExceptionOutcome, ControlError> {
        let mut change = harmless(Action::ExceptionAdd, caller, Some(request.reason.clone()));
        let (exception, done) = self.blocking(|| self.core.add_exception(&mut change, &request))?;
        let ChangeOutcome { generation, warnings, .. } = self.outcome(&change, done)?;
        Ok(ExceptionOutcome { exception, generation, warnings })
    }

    async fn revoke_exception(
        &self,
        request: ExceptionRevoke,
        caller: Caller,
    ) -> Result<ExceptionOutcome, ControlError> {
        let mut change = harmless(Action::ExceptionRevoke, caller, request.reason.clone());
        let (exception, done) = self.blocking(|| self.core.revoke_exception(&mut change, &request.id))?;
        let ChangeOutcome { generation, warnings, .. } = self.outcome(&change, done)?;
        Ok(ExceptionOutcome { exception, generation, warnings })
    }

    fn policies(&self) -> Result<History, ControlError> {
        let (policies, problems) = self.core.past().map_err(|e| ControlError::from(ChangeError::from(e)))?;
        Ok(History { policies, problems })
    }

    fn hub(&self) -> &Collector {
        &self.core.collector
    }
}
