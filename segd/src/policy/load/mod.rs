//! Zone files into a [`Policy`], or every error in them.

mod canary;
mod cidr;
mod dns;
mod guard;
mod items;
mod names;
mod workloads;

use std::sync::Arc;

use jiff::Timestamp;
use toml::de::DeTable;

use super::diagnostics::{Diagnostics, suggest};
use super::index::Index;
use super::lift::{Cuts, Known, LEAST, Lifted, lift};
use super::model::Policy;
use super::source::Sources;
use super::walk::{Walk, in_order};

pub(crate) use cidr::parse_cidr;
pub(crate) use items::parse_ports;

const TABLES: [&str; 6] = ["zone", "workload", "service", "allow", "rollout", "test"];

/// Merges the files into one policy. A rule that has expired at `now` is an error.
///
/// # Errors
/// All errors of all files at once; then there is no policy.
pub fn load(sources: Sources, now: Timestamp) -> Result<Policy, Diagnostics> {
    Lists::default().load(sources, now)
}

/// Merges files that were loaded before. Rules that have expired since are as good as any: they match no longer.
///
/// # Errors
/// As [`load`].
pub fn load_stored(sources: Sources) -> Result<Policy, Diagnostics> {
    Lists::default().load_stored(sources)
}

/// What a policy may take over from former ones, so that to load it takes little time where long lists of prefixes are
/// as they were. What is read anew comes to the same.
#[derive(Clone, Debug)]
pub struct Lists {
    known: Known,
    index: Option<Arc<Index>>,
    /// Shorter lists are not taken over, in bytes of their text.
    least: usize,
}

impl Default for Lists {
    fn default() -> Self {
        Self { known: Known::default(), index: None, least: LEAST }
    }
}

impl Lists {
    /// The long lists of prefixes in these, the one first that the next policy will be most like.
    pub fn of<'a>(policies: impl IntoIterator<Item = &'a Policy> + Clone) -> Self {
        let index = policies.clone().into_iter().next().map(|policy| Arc::clone(&policy.index));
        Self { known: Known::of(policies), index, ..Self::default() }
    }

    /// As [`load`].
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(&self, sources: Sources, now: Timestamp) -> Result<Policy, Diagnostics> {
        self.merge(sources, Some(now))
    }

    /// As [`load_stored`].
    ///
    /// # Errors
    /// As [`load`].
    pub fn load_stored(&self, sources: Sources) -> Result<Policy, Diagnostics> {
        self.merge(sources, None)
    }

    /// `now`: where what has expired by then is an error.
    fn merge(&self, sources: Sources, now: Option<Timestamp>) -> Result<Policy, Diagnostics> {
        let sources = Arc::new(sources);
        sources.hash_meanwhile();
        let files = sources.files().iter();
        let lifted: Vec<_> = files.map(|file| lift(&file.text, &self.known, self.least)).collect();
        let any = lifted.iter().any(Option::is_some);
        match merge(&sources, now, lifted, self.index.as_deref()) {
            // What is wrong is told of the whole text.
            Err(_) if any => merge(&sources, now, Vec::new(), None),
            policy => policy,
        }
    }

    #[cfg(test)]
    pub(super) fn with_least(self, least: usize) -> Self {
        Self { least, ..self }
    }
}

/// `lifted`: the texts of the files without their long lists, where they have any.
fn merge(
    sources: &Arc<Sources>,
    now: Option<Timestamp>,
    lifted: Vec<Option<Lifted>>,
    former: Option<&Index>,
) -> Result<Policy, Diagnostics> {
    let mut walk = Walk::new(sources);
    let mut policy = Policy { sources: Arc::clone(sources), ..Policy::default() };
    let lifted = lifted.into_iter().chain(std::iter::repeat_with(|| None));
    for ((file, source), lifted) in sources.files().iter().enumerate().zip(lifted) {
        let rest = lifted.map(|Lifted { text, cuts }| {
            walk.cuts = cuts;
            text
        });
        let text = rest.as_deref().unwrap_or(&source.text);
        walk.document(file, text, |walk, document| read(walk, document, &mut policy, now));
        walk.cuts = Cuts::default();
    }
    names::check(&mut walk, &policy);
    policy.index = Arc::new(Index::new(&policy.zones, former));
    cidr::check(&mut walk, &policy);
    dns::check(&mut walk, &policy);
    walk.found.sort();
    if walk.found.errors() == 0 { Ok(policy) } else { Err(walk.found) }
}

fn read(walk: &mut Walk, document: &DeTable<'_>, policy: &mut Policy, now: Option<Timestamp>) {
    for (key, span, value) in in_order(document) {
        let place = walk.place(span);
        match key {
            "zone" => items::zones(walk, value, policy),
            "service" => items::services(walk, value, policy),
            "allow" => items::rules(walk, value, policy, now),
            "rollout" => items::rollouts(walk, value, policy),
            "test" => items::tests(walk, value, policy),
            "workload" => workloads::read(walk, value, policy),
            _ => {
                let help = suggest(key, "valid tables", TABLES);
                walk.found.error(place, format!("unknown table or key `{key}`")).help = help;
            }
        }
    }
}
