//! What a run in the virtual machine says: its lines are all that comes out of it.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use anyhow::{Context, Result, bail};

use crate::test::passed_in;

/// What `init.sh` begins a line with that tells an exit code.
const PREFIX: &str = "segd-vm: ";

/// What was read so far.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    exit_codes: BTreeMap<String, i32>,
    passed: usize,
    skipped: usize,
    /// What `segd doctor` said of the programs.
    programs: String,
}

impl Verdict {
    /// Reads one line of the console.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some((step, code)) = line.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once(' ')) {
            self.exit_codes.extend(code.parse().ok().map(|code| (step.to_owned(), code)));
        } else if let Some(detail) = line.strip_prefix("ok    programs") {
            detail.trim().clone_into(&mut self.programs);
        } else if let Some(passed) = passed_in(line) {
            self.passed += passed;
        } else if line.contains("SKIPPED ") {
            // libtest's line of the running test may stand before it.
            self.skipped += 1;
        }
    }

    /// # Errors
    /// When `segd doctor` or a file of `tests` failed or did not end; when no test ran; when one was skipped, for the machine was made for them.
    pub(crate) fn judge(self, tests: &[&str]) -> Result<Self> {
        for step in ["doctor"].iter().chain(tests) {
            let code = self.exit_codes.get(*step);
            let code = code.with_context(|| {
                format!(
                    "the machine ended before the step \"{step}\" did: the kernel's last lines may say why"
                )
            })?;
            if *code != 0 {
                bail!("the step \"{step}\" ended with exit code {code}");
            }
        }
        if self.skipped > 0 {
            bail!("{} tests were skipped", self.skipped);
        }
        if !tests.is_empty() && self.passed == 0 {
            bail!("no test ran");
        }
        Ok(self)
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.programs)?;
        if self.passed > 0 {
            write!(f, "; {} tests passed", self.passed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &[&str], tests: &[&str]) -> Result<String, String> {
        let mut verdict = Verdict::default();
        lines.iter().for_each(|line| verdict.read(line));
        verdict.judge(tests).map(|v| v.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn every_step_must_tell_its_success() {
        const PROGRAMS: &str = "ok    programs      9 programs load";
        const PASSED: &str = "test result: ok. 31 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out";
        const DOCTOR: &str = "segd-vm: doctor 0";
        const KERNEL: &str = "segd-vm: kernel 0";
        type Case<'a> = (&'a [&'a str], &'a [&'a str], Result<&'a str, &'a str>);
        let cases: &[Case] = &[
            (&[PROGRAMS, DOCTOR, PASSED, KERNEL], &["kernel"], Ok("9 programs load; 31 tests passed")),
            (&[PROGRAMS, DOCTOR], &[], Ok("9 programs load")),
            (&[PROGRAMS, "segd-vm: doctor 1"], &[], Err("\"doctor\" ended with exit code 1")),
            (&[PROGRAMS], &[], Err("before the step \"doctor\" did")),
            (&[DOCTOR, "Kernel panic - not syncing"], &["kernel"], Err("before the step \"kernel\" did")),
            (
                &[DOCTOR, PASSED, "segd-vm: kernel 101"],
                &["kernel"],
                Err("\"kernel\" ended with exit code 101"),
            ),
            (
                &[DOCTOR, "test a ... SKIPPED a: no ip", PASSED, KERNEL],
                &["kernel"],
                Err("1 tests were skipped"),
            ),
            (&[DOCTOR, KERNEL], &["kernel"], Err("no test ran")),
        ];
        for (lines, tests, wanted) in cases {
            match (judged(lines, tests), wanted) {
                (Ok(said), Ok(wanted)) => assert_eq!(said, *wanted),
                (Err(said), Err(wanted)) => assert!(said.contains(wanted), "{said}"),
                (said, wanted) => panic!("{lines:?}: {said:?}, not {wanted:?}"),
            }
        }
    }
}
