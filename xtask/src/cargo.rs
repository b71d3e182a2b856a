//! cargo, with the environment in which segd's build script finds its tools.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command::line_of;
use crate::interrupt::{self, Forward};

/// What setup found for building.
#[derive(Debug, Clone, Default)]
pub(crate) struct Toolchain {
    /// The compiler for the BPF programs, if it is not the default one of the build script.
    pub(crate) bpf_rustc: Option<PathBuf>,
    /// The directory of bpf-linker, if it is not the one that PATH leads to.
    pub(crate) linker_dir: Option<PathBuf>,
}

impl Toolchain {
    /// A cargo command in the workspace's root.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(root());
        if let Some(rustc) = &self.bpf_rustc {
            command.env("SEGD_BPF_RUSTC", rustc);
        }
        if let Some(path) = self.path() {
            command.env("PATH", path);
        }
        command
    }

    fn path(&self) -> Option<OsString> {
        let path = env::var_os("PATH").unwrap_or_default();
        let directories = self.linker_dir.iter().cloned().chain(env::split_paths(&path));
        self.linker_dir.as_ref().and_then(|_| env::join_paths(directories).ok())
    }
}

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Something that a cargo build made, of those that matter here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// A binary or a test.
    Executable { target: String, path: PathBuf },
    /// The output directory of a package's build script.
    OutDir { package: String, path: PathBuf },
}

/// Runs a cargo build with its diagnostics on standard error, and gives what it made.
pub(crate) fn build(mut command: Command) -> Result<Vec<Made>> {
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    interrupt::check()?;
    let child = command.spawn().with_context(|| format!("cannot run {}", line_of(&command)))?;
    let forward = Forward::to(&child);
    let output = child.wait_with_output();
    drop(forward);
    interrupt::check()?;
    let output = output?;
    if !output.status.success() {
        bail!("the build failed ({}); the command was:\n  {}", output.status, line_of(&command));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(made).collect())
}

fn made(line: &str) -> Option<Made> {
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    #[derive(Deserialize)]
    struct Message {
        package_id: String,
        target: Option<Target>,
        executable: Option<PathBuf>,
        out_dir: Option<PathBuf>,
    }
    let message: Message = serde_json::from_str(line).ok()?;
    match message {
        Message { executable: Some(path), target: Some(target), .. } => {
            Some(Made::Executable { target: target.name, path })
        }
        Message { out_dir: Some(path), package_id, .. } => {
            Some(Made::OutDir { package: name_in(&package_id), path })
        }
        _ => None,
    }
}

/// The package's name in its id: `path+file:///src/segd#0.1.0` or `registry+…#serde@1.0.0` (package id spec).
fn name_in(id: &str) -> String {
    let (url, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => url.rsplit('/').next().unwrap_or(url).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_cargo_made() {
        let executable = r#"{"reason":"compiler-artifact","package_id":"path+file:///w/tests#segd-tests@0.1.0","target":{"name":"lab"},"executable":"/w/target/debug/deps/lab-1","fresh":true}"#;
        let script = r#"{"reason":"build-script-executed","package_id":"path+file:///w/segd#0.1.0","out_dir":"/w/out"}"#;
        let library = r#"{"reason":"compiler-artifact","package_id":"registry+https://x#serde@1.0.0","target":{"name":"serde"},"executable":null}"#;
        let path = PathBuf::from("/w/target/debug/deps/lab-1");
        assert_eq!(made(executable), Some(Made::Executable { target: "lab".into(), path }));
        assert_eq!(made(script), Some(Made::OutDir { package: "segd".into(), path: "/w/out".into() }));
        assert_eq!(made(library), None);
        assert_eq!(made("warning: this is text"), None);
    }

    #[test]
    fn the_root_is_the_workspace() {
        assert!(root().join("Cargo.lock").is_file());
    }
}
