//! Running other programs: as root if need be, shown as a person would type them.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::interrupt::{self, Forward};

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// `program`, to be run as root: by itself, or by sudo.
pub(crate) fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Lets the process that `command` starts be killed when this one ends, however it does.
pub(crate) fn end_with_this_process(command: &mut Command) {
    // SAFETY: prctl(2) is a system call that takes numbers only.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
}

/// The command line, for messages.
pub(crate) fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let variables = variables.filter(|(name, _)| *name != "PATH");
    let variables = variables.map(|(name, value)| format!("{}={}", name.display(), value.display()));
    variables.chain(words.map(|word| quoted(&word.to_string_lossy()))).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

/// Runs `command` to its end with this process's own input and output.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    interrupt::check()?;
    let mut child = command.spawn().with_context(|| format!("cannot run {}", line_of(command)))?;
    let forward = Forward::to(&child);
    let status = child.wait();
    drop(forward);
    interrupt::check()?;
    status.with_context(|| format!("cannot wait for {}", line_of(command)))
}

/// What `command` prints, if it can be run and succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.env("LC_ALL", "C").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_typed() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo a"]).env("LLVM_PREFIX", "/usr/lib/llvm-22").env("PATH", "/bin");
        assert_eq!(line_of(&command), "LLVM_PREFIX=/usr/lib/llvm-22 sh -c 'echo a'");
    }
}
