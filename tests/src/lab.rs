//! A lab: hosts side by side on one switch.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::host::Host;
use crate::netns::Netns;
use crate::skip::skip;
use crate::{cgroup, interrupt, lab_id, leftovers};

/// Hosts on one switch, apart from the machine's own network and from other labs. Dropping it removes all of it.
#[derive(Debug)]
pub struct Lab {
    id: String,
    cgroup: PathBuf,
    directory: PathBuf,
    switch: Netns,
    hosts: AtomicU8,
}

impl Lab {
    /// Makes an empty lab, after removing what labs of dead processes left behind. `name` helps to tell labs apart.
    ///
    /// # Errors
    /// Without root, iproute2 or a cgroup2 mount.
    pub fn new(name: &str) -> Result<Self> {
        if !geteuid().is_root() {
            bail!("a lab makes network namespaces and cgroups: run as root (cargo xtask test does)");
        }
        leftovers::reap()?;
        let id = lab_id::new(name);
        interrupt::register(&id)?;
        let _building = interrupt::building();
        let built = Self::build(&id);
        if built.is_err() {
            // The error that matters is the first one.
            let _ = leftovers::remove(&id);
            interrupt::forget(&id);
        }
        built.with_context(|| format!("cannot build the lab {id}"))
    }

    /// As [`Lab::new`], for tests: without root the test is skipped, loudly.
    ///
    /// # Panics
    /// When the lab cannot be built for another reason.
    #[expect(clippy::panic, reason = "for tests, which fail by panicking")]
    pub fn or_skip(name: &str) -> Option<Self> {
        if !geteuid().is_root() {
            skip("a lab needs root");
            return None;
        }
        Some(Self::new(name).unwrap_or_else(|fault| panic!("{fault:#}")))
    }

    fn build(id: &str) -> Result<Self> {
        let cgroup = cgroup::root()?.join(lab_id::cgroup(id));
        let directory = PathBuf::from(leftovers::RUN).join(id);
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        fs::create_dir(&cgroup).with_context(|| format!("cannot make the cgroup {}", cgroup.display()))?;
        let switch = Netns::create(&format!("{id}.switch"))?;
        // Frames are forwarded from the first moment on: no spanning tree, no multicast snooping.
        switch
            .ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br0 up\n")?;
        Ok(Self { id: id.to_owned(), cgroup, directory, switch, hosts: AtomicU8::new(0) })
    }

    /// The name under which everything of this lab is made.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Adds a host. The n-th one has the addresses `10.77.n.10` and `2001:db8:77:n::10`; everything is on-link.
    ///
    /// # Errors
    /// When the name is taken or is not of 1 to 20 letters, digits and hyphens.
    pub fn host(&self, name: &str) -> Result<Host> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || name.len() > 20 || !name.chars().all(good) || name == "switch" {
            bail!("{name:?} is no name for a host: 1 to 20 letters, digits and hyphens, not \"switch\"");
        }
        let _building = interrupt::building();
        let number = self.hosts.fetch_add(1, Ordering::Relaxed).checked_add(1).context("too many hosts")?;
        Host::build(&self.id, &self.cgroup, &self.directory, &self.switch, name, number)
            .with_context(|| format!("cannot add the host {name}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _building = interrupt::building();
        if let Err(fault) = leftovers::remove(&self.id) {
            eprintln!("{fault:#}");
        }
        interrupt::forget(&self.id);
    }
}
