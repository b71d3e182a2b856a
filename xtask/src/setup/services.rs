//! Keeps Debian's server packages from starting their services: only the lab is to run them.
//!
//! Debian asks `/usr/sbin/policy-rc.d` before a package starts a service (invoke-rc.d(8)); 101 forbids it.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::{as_root, line_of};
use crate::say::say;

const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Where the machine's own policy waits meanwhile.
const ASIDE: &str = "/usr/sbin/policy-rc.d.before-segd";
const FORBID: &str =
    "#!/bin/sh\n# Made by cargo xtask setup for the time of one installation; to be removed.\nexit 101\n";

/// While it lives no package starts a service.
pub(crate) struct NoServiceStarts {
    made: bool,
}

impl NoServiceStarts {
    pub(crate) fn new() -> Result<Self> {
        // What an installation that was killed left behind.
        if Path::new(ASIDE).exists() {
            root("mv", &[ASIDE, POLICY])?;
        }
        if forbids_already() {
            return Ok(Self { made: false });
        }
        let mut file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
        file.write_all(FORBID.as_bytes())?;
        file.as_file().set_permissions(Permissions::from_mode(0o755))?;
        let path = file.path().to_str().context("the temporary directory is not UTF-8")?;
        if Path::new(POLICY).exists() {
            root("mv", &[POLICY, ASIDE])?;
        }
        let guard = Self { made: true };
        root("install", &["-m", "755", path, POLICY])?;
        Ok(guard)
    }
}

impl Drop for NoServiceStarts {
    fn drop(&mut self) {
        if !self.made {
            return;
        }
        let restored = if Path::new(ASIDE).exists() {
            root("mv", &[ASIDE, POLICY])
        } else {
            root("rm", &["-f", POLICY])
        };
        if let Err(fault) = restored {
            say!("warning: {POLICY} forbids services to start and could not be taken away: {fault:#}");
        }
    }
}

/// Whether the machine's own policy, as of a container image, forbids it anyway.
fn forbids_already() -> bool {
    let mut ask = Command::new(POLICY);
    ask.args(["nginx", "start"]).stdout(Stdio::null()).stderr(Stdio::null());
    ask.status().is_ok_and(|status| status.code() == Some(101))
}

/// Keeps `services`, whose packages were installed just now, from starting when the machine does.
pub(crate) fn disable(services: &[&str]) {
    for service in services {
        let unit = format!("{service}.service");
        let disabled = if Path::new("/etc/init.d").join(service).exists() {
            root("update-rc.d", &[service, "disable"])
        } else if Path::new("/lib/systemd/system").join(&unit).exists() {
            // It has a unit only. Works also where systemd does not run.
            root("systemctl", &["disable", &unit])
        } else {
            continue;
        };
        match disabled {
            Ok(()) => say!("  {service}: installed for the lab, neither started nor enabled"),
            Err(fault) => say!("warning: {service} will start when this machine does: {fault:#}"),
        }
    }
}

fn root(program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = as_root(program);
    command.args(arguments);
    let output = command.output().with_context(|| format!("cannot run {}", line_of(&command)))?;
    if !output.status.success() {
        bail!("{}: {}", line_of(&command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
