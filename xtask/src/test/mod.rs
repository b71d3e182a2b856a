//! `cargo xtask test`: every check of segd, from the formatting to the programs in the running kernel.

mod end_to_end;
mod object;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cargo::{self, Made, Toolchain};
use crate::command::{line_of, status};
use crate::interrupt;
use crate::say::say;
use crate::setup::{Purpose, ensure};

pub(crate) use end_to_end::passed_in;

/// Run every test: lints, unit and property tests, the BPF object, and end-to-end tests on the running kernel.
///
/// The end-to-end tests run as root (with sudo if need be), in network namespaces and cgroups of their own.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Run only the tests whose name contains this.
    filter: Option<String>,
    /// Leave rustfmt and clippy out.
    #[arg(long)]
    no_lint: bool,
}

/// One step: its heading and what it does.
type Step<'a> = (&'static str, Box<dyn FnOnce() -> Result<()> + 'a>);

/// What clippy is asked for on both sides.
const DENY: [&str; 3] = ["--", "-D", "warnings"];

impl Test {
    /// # Errors
    /// At the first step that fails.
    pub(crate) fn execute(self) -> Result<()> {
        let begun = Instant::now();
        let toolchain = ensure(Purpose::Test)?;
        let filter = self.filter.as_deref();
        let steps = self.steps(&toolchain, filter);
        let count = steps.len();
        for (number, (heading, work)) in steps.into_iter().enumerate() {
            say!("\n== {}/{count} {heading}", number + 1);
            if let Err(fault) = work() {
                interrupt::check()?;
                say!("\n{fault:#}");
                bail!("FAILED at \"{heading}\" ({number} of {count} steps passed)");
            }
        }
        say!("\nAll {count} steps passed in {} s.", begun.elapsed().as_secs());
        Ok(())
    }

    fn steps<'a>(&self, toolchain: &'a Toolchain, filter: Option<&'a str>) -> Vec<Step<'a>> {
        let mut steps: Vec<Step> = Vec::new();
        if !self.no_lint {
            steps.push(("rustfmt", Box::new(|| succeed(toolchain, &["fmt", "--all", "--check"], &[]))));
            steps.push((
                "clippy, user space",
                Box::new(|| {
                    succeed(toolchain, &[&["clippy", "--locked", "--all-targets"], &DENY[..]].concat(), &[])
                }),
            ));
            // For the host: rustup's clippy cannot read the core that Debian's compiler has for the BPF target.
            let ebpf = ["clippy", "--locked", "--package", "segd-ebpf", "--bins"];
            steps.push((
                "clippy, BPF programs",
                Box::new(move || {
                    let unstable = [("RUSTC_BOOTSTRAP", "aya_ebpf,segd_ebpf")];
                    succeed(toolchain, &[&ebpf, &DENY[..]].concat(), &unstable)
                }),
            ));
        }
        let mut units = vec!["test", "--locked", "-p", "segd-common", "-p", "segd", "-p", "xtask"];
        units.extend(filter);
        steps.push(("unit and property tests", Box::new(move || succeed(toolchain, &units, &[]))));
        steps.push(("BPF object", Box::new(|| object::check(&build_segd(toolchain)?.object))));
        steps.push((
            "end-to-end tests on this kernel",
            Box::new(move || end_to_end::run(toolchain, &build_segd(toolchain)?.segd, filter)),
        ));
        steps
    }
}

fn succeed(toolchain: &Toolchain, arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let mut cargo = toolchain.cargo(arguments);
    cargo.envs(variables.iter().copied());
    let status = status(&mut cargo)?;
    if !status.success() {
        bail!("{} failed ({status})", line_of(&cargo));
    }
    Ok(())
}

/// What building segd gives.
pub(crate) struct Built {
    pub(crate) segd: PathBuf,
    object: PathBuf,
}

/// Builds segd; a second time is quick.
pub(crate) fn build_segd(toolchain: &Toolchain) -> Result<Built> {
    let made = cargo::build(toolchain.cargo(&["build", "--locked", "--package", "segd"]))?;
    let (mut segd, mut object) = (None, None);
    for made in made {
        match made {
            Made::Executable { target, path } if target == "segd" => segd = Some(path),
            Made::OutDir { package, path } if package == "segd" => object = Some(path.join("segd-ebpf.o")),
            _ => {}
        }
    }
    Ok(Built {
        segd: segd.context("cargo built no segd")?,
        object: object
            .filter(|o: &PathBuf| Path::new(o).is_file())
            .context("segd's build made no segd-ebpf.o")?,
    })
}
