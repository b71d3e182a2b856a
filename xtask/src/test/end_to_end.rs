//! The end-to-end tests: built as the user, run as root.

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Made, Toolchain};
use crate::command::{is_root, line_of};
use crate::interrupt::{self, Forward};
use crate::say::say;

/// Runs each file of tests with the built `segd`.
///
/// # Errors
/// When a test fails; when every test that ran in a file was skipped; when none ran though no filter was given.
pub(crate) fn run(toolchain: &Toolchain, segd: &Path, filter: Option<&str>) -> Result<()> {
    // With the tests cargo builds the package's binaries: lab-actor, which the tests need beside them.
    let build = ["test", "--no-run", "--locked", "--package", "segd-tests", "--lib", "--bins", "--test", "*"];
    let made = cargo::build(toolchain.cargo(&build))?;
    let mut files: Vec<_> = made
        .into_iter()
        .filter_map(|made| match made {
            Made::Executable { target, path } if is_test(&path) => Some((target, path)),
            _ => None,
        })
        .collect();
    files.sort();
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let mut ran = 0;
    for (name, path) in files {
        say!("-- {name}");
        let skips = scratch.path().join(&name);
        // libtest counts a skipped test as passed.
        let passed = passed_by(&path, segd, &skips, filter)?;
        let skipped = fs::read_to_string(&skips).unwrap_or_default();
        skipped.lines().for_each(|line| say!("   {line}"));
        if passed > 0 && skipped.lines().count() >= passed {
            bail!("every test of {name} was skipped: this run shows nothing");
        }
        ran += passed;
    }
    if ran == 0 && filter.is_none() {
        bail!("no end-to-end test ran");
    }
    Ok(())
}

/// Whether cargo made this executable to run tests: those are in `deps`.
fn is_test(path: &Path) -> bool {
    path.parent().is_some_and(|directory| directory.ends_with("deps"))
}

/// Runs one file of tests and gives how many passed.
fn passed_by(path: &Path, segd: &Path, skips: &Path, filter: Option<&str>) -> Result<usize> {
    let colour = if std::io::stdout().is_terminal() { "always" } else { "never" };
    let mut variables = vec![variable("SEGD_BIN", segd), variable("SEGD_SKIPS", skips)];
    if let Some(backtrace) = std::env::var_os("RUST_BACKTRACE") {
        variables.push(variable("RUST_BACKTRACE", Path::new(&backtrace)));
    }
    // By env and not by sudo -E, which not every sudoers file allows.
    let mut command = Command::new(if is_root() { "env" } else { "sudo" });
    if !is_root() {
        command.arg("env");
    }
    command.args(variables).arg(path).args(["--color", colour]).args(filter);
    command.current_dir(cargo::root().join("tests")).stdout(Stdio::piped());
    interrupt::check()?;
    let mut child = command.spawn().with_context(|| format!("cannot run {}", line_of(&command)))?;
    let forward = Forward::to(&child);
    let mut passed = 0;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            passed += passed_in(&line).unwrap_or(0);
            say!("{line}");
        }
    }
    drop(forward);
    let status = child.wait()?;
    interrupt::check()?;
    if !status.success() {
        bail!("{} ({status})", line_of(&command));
    }
    Ok(passed)
}

fn variable(name: &str, value: &Path) -> PathBuf {
    let mut variable = PathBuf::from(format!("{name}=")).into_os_string();
    variable.push(value);
    variable.into()
}

/// The number of passed tests in libtest's last line.
pub(crate) fn passed_in(line: &str) -> Option<usize> {
    let (before, _) = line.strip_prefix("test result: ")?.split_once(" passed;")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_how_many_passed() {
        let coloured =
            "test result: \u{1b}[32mok\u{1b}(B\u{1b}[m. 11 passed; 0 failed; 1 ignored; 0 measured";
        assert_eq!(passed_in(coloured), Some(11));
        assert_eq!(passed_in("test lab ... ok"), None);
    }

    #[test]
    fn a_variable_is_a_name_and_a_value() {
        assert_eq!(variable("SEGD_BIN", Path::new("/t/segd")), Path::new("SEGD_BIN=/t/segd"));
    }
}
