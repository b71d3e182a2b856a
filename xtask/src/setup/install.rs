//! Executes the steps of a plan.

use std::env;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::piece::Piece;
use super::plan::Step;
use super::services::{self, NoServiceStarts};
use crate::command::{as_root, is_root, status};
use crate::progress;

/// Brings apt's package lists up to date.
pub(crate) fn update_package_lists() -> Result<()> {
    may_become_root()?;
    let mut update = as_root("apt-get");
    update.args(["update", "-o", "DPkg::Lock::Timeout=300"]);
    progress::run("Updating the package lists", update)
}

/// Executes one step; `missing` is what was missing before.
pub(crate) fn execute(step: &Step, missing: &[Piece]) -> Result<()> {
    match step {
        Step::Packages(_) => packages(step, missing),
        Step::Nightly => progress::run("Installing a nightly compiler", command(step)?),
        Step::Components(_) => progress::run("Installing Rust components", command(step)?),
        Step::BpfLinker { .. } => {
            let mut install = command(step)?;
            // What cargo run sets for this program must not steer another build.
            for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"]
            {
                install.env_remove(variable);
            }
            progress::run("Compiling bpf-linker (some minutes)", install)
        }
    }
}

fn packages(step: &Step, missing: &[Piece]) -> Result<()> {
    may_become_root()?;
    let services: Vec<_> = missing.iter().filter_map(|piece| piece.service()).collect();
    let guard = (!services.is_empty()).then(NoServiceStarts::new).transpose()?;
    let mut install = as_root("env");
    install.args(step.variables().iter().map(|(name, value)| format!("{name}={value}"))).args(step.words());
    let installed = progress::run("Installing Debian packages", install);
    drop(guard);
    services::disable(&services);
    installed
}

fn command(step: &Step) -> Result<Command> {
    let words = step.words();
    let (program, arguments) = words.split_first().context("a step without a command")?;
    let program =
        if program == "cargo" { env::var_os("CARGO") } else { None }.unwrap_or_else(|| program.into());
    let mut command = Command::new(program);
    command.args(arguments).envs(step.variables());
    Ok(command)
}

/// Lets sudo ask for its password now, while nothing else writes to the terminal.
fn may_become_root() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    let asked = status(Command::new("sudo").arg("-v")).context("installing packages needs root or sudo")?;
    if !asked.success() {
        bail!("sudo refused: installing packages needs root");
    }
    Ok(())
}
