//! What only this host knows: its agent answers for live sockets and for what people set at run time.

use std::collections::BTreeMap;

use super::files::Files;
use crate::commands::Failure;
use crate::config::Config;
use crate::control::api::Status;
use crate::control::changes::{PreviewRequest, Previewed, ZoneFile};
use crate::control::{Client, ClientError};
use crate::insight::replay::OwnHost;
use crate::policy::model::{Exception, Override};
use crate::policy::{Resolved, host_zone};
use crate::rollout::modes;

/// This host.
pub(super) struct Own {
    name: String,
    zone: Option<String>,
    users: BTreeMap<String, u32>,
    overrides: Vec<Override>,
    exceptions: Vec<Exception>,
    /// As the agent knows them, else as they were looked up.
    pub(super) names: Resolved,
    pub(super) preview: Previewed,
}

impl Own {
    /// Asks the agent; none: there is none, or this user may not ask it.
    pub(super) async fn ask(
        client: &Client,
        config: &Config,
        files: &Files,
    ) -> Result<Option<Self>, Failure> {
        let status = match client.status().await {
            Ok(status) => status,
            Err(ClientError::NoAgent { .. }) => {
                eprintln!("segd: no agent runs here, so live sockets are not looked at");
                return Ok(None);
            }
            Err(error @ ClientError::NotPermitted { .. }) => {
                eprintln!("segd: live sockets are not looked at: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let Status { host, names, overrides, exceptions, .. } = status;
        let mut resolved = files.names.clone();
        for known in names.into_iter().filter(|known| !known.addresses.is_empty()) {
            if let Some(since) = known.addresses.values().min() {
                resolved.set(&known.name, known.addresses.keys().copied(), *since);
            }
        }
        // The agent, which knows more of its host, says whether it would refuse them.
        let zone = host_zone(&files.policy, config.host.zone.as_deref(), &host.addresses, &resolved).ok();
        let texts = files.policy.sources.files().iter();
        let files_sent = texts.map(|f| ZoneFile { name: f.name.clone(), text: f.text.clone() }).collect();
        let preview = client.preview(&PreviewRequest { files: files_sent, names: resolved.clone() }).await?;
        let mut users = BTreeMap::new();
        for name in files.policy.users() {
            if let Ok(Some(user)) = nix::unistd::User::from_name(name) {
                users.insert(name.to_owned(), user.uid.as_raw());
            }
        }
        let overrides = modes::for_compiler(&overrides);
        Ok(Some(Self { name: host.name, zone, users, overrides, exceptions, names: resolved, preview }))
    }

    /// Its zone under the new zone files, by its name.
    pub(super) fn placed(&self) -> Option<(String, String)> {
        Some((self.name.clone(), self.zone.clone()?))
    }

    pub(super) fn host(&self) -> OwnHost<'_> {
        let Self { name, users, overrides, exceptions, .. } = self;
        OwnHost { name, users, overrides, exceptions }
    }
}
