//! `cargo xtask demo`: builds segd and its demonstration as the user, and runs it as root.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cargo::{self, Made, Toolchain};
use crate::command::{as_root, line_of, status};
use crate::say::say;
use crate::setup::{Purpose, ensure};

/// Show segd on four simulated hosts of this machine: from a flat network to enforcement and back.
///
/// Real PostgreSQL, Redis and nginx, each host with an agent of its own; the machine's own network is not touched.
/// Every step checks what it claims. Nothing is left afterwards, also after Ctrl-C.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The pause before each step; default: 4 on a terminal, else 0.
    #[arg(long, value_name = "SECONDS")]
    pace: Option<f32>,
}

impl Demo {
    pub(crate) fn execute(self) -> Result<()> {
        let toolchain = ensure(Purpose::Demo)?;
        say!("Building segd and its demonstration (the first time takes some minutes)");
        let (segd, demo) = build(&toolchain)?;
        let mut command: Command = as_root("env");
        command.arg(format!("SEGD_BIN={}", segd.display())).arg(demo);
        command.args(self.pace.map(|pace| format!("--pace={pace}"))).current_dir(cargo::root());
        let status = status(&mut command)?;
        if !status.success() {
            bail!("the demonstration failed ({status}); the command was:\n  {}", line_of(&command));
        }
        Ok(())
    }
}

/// `segd` and `segd-demo`. In the dev profile: `test` needs the same build, and no speed is shown.
fn build(toolchain: &Toolchain) -> Result<(PathBuf, PathBuf)> {
    let packages = ["build", "--locked", "--package", "segd", "--package", "segd-tests", "--bins"];
    let made = cargo::build(toolchain.cargo(&packages))?;
    let (mut segd, mut demo) = (None, None);
    for made in made {
        match made {
            Made::Executable { target, path } if target == "segd" => segd = Some(path),
            Made::Executable { target, path } if target == "segd-demo" => demo = Some(path),
            _ => {}
        }
    }
    segd.zip(demo).context("cargo built no segd or no segd-demo")
}
