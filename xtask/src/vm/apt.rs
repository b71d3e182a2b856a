//! Debian's kernel packages by apt, with sources and lists of its own under target/vm: this machine's apt sources
//! stay as they are, and need not be Debian 12's.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{line_of, output};
use crate::progress;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where Debian's kernels are: 6.1 in bookworm, 6.12 in trixie and for bookworm in its backports.
const SUITES: [(&str, &str); 5] = [
    ("debian", "bookworm"),
    ("debian-security", "bookworm-security"),
    ("debian", "bookworm-backports"),
    ("debian", "trixie"),
    ("debian-security", "trixie-security"),
];

/// apt with its files in one directory.
pub(crate) struct Apt {
    directory: PathBuf,
    options: Vec<String>,
}

impl Apt {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part)).context("cannot make a directory for apt")?;
        }
        let sources = directory.join("sources.list");
        fs::write(&sources, source_list()).with_context(|| format!("cannot write {}", sources.display()))?;
        let options = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=-".into(),
            format!("Dir::State::lists={}", directory.join("lists").display()),
            format!("Dir::Cache={}", directory.join("cache").display()),
            "APT::Architecture=amd64".into(),
            "Acquire::Languages=none".into(),
            // apt's own user could not write here.
            "APT::Sandbox::User=root".into(),
        ];
        let options = options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect();
        Ok(Self { directory: directory.to_owned(), options })
    }

    /// Brings the lists up to date.
    pub(crate) fn update(&self) -> Result<()> {
        let mut update = self.command("apt-get");
        update.arg("update");
        progress::run("Reading Debian's package lists", update)
    }

    /// Downloads the newest kernel package of `version` into `directory`.
    ///
    /// # Errors
    /// When there is none, or Debian cannot be reached.
    pub(crate) fn download(&self, version: &str, directory: &Path) -> Result<()> {
        let mut names = self.command("apt-cache");
        names.args(["pkgnames", "linux-image-"]);
        let names = output(&mut names).with_context(|| format!("{} failed", line_of(&names)))?;
        let Some(name) = newest(version, names.lines()) else {
            let suites: Vec<_> = SUITES.iter().map(|(_, suite)| *suite).collect();
            bail!("no package linux-image-{version}.*-amd64 in Debian's {}", suites.join(", "));
        };
        let mut download = self.command("apt-get");
        download.args(["download", name]).current_dir(directory);
        progress::run(&format!("Downloading {name}"), download)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).current_dir(&self.directory);
        command
    }
}

fn source_list() -> String {
    let line = |(archive, suite)| {
        format!("deb [signed-by={KEYRING}] http://deb.debian.org/{archive} {suite} main\n")
    };
    SUITES.into_iter().map(line).collect()
}

/// The newest of `names` that is a general kernel image of this version.
fn newest<'a>(version: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let of_version = names.filter(|name| is_image(version, name));
    of_version.max_by(|a, b| compare(a, b))
}

/// Whether a package is the general kernel image of this version, and not one for a cloud or for real time, debugging
/// symbols, or unsigned. Also for the name of its file.
pub(crate) fn is_image(version: &str, name: &str) -> bool {
    let release = name.strip_prefix("linux-image-").and_then(|rest| rest.split_once("-amd64"));
    let Some((release, rest)) = release else { return false };
    let below = release
        .strip_prefix(version)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '+']));
    below
        // 6.12-amd64 names no kernel but the newest one.
        && release.matches('.').count() >= 2
        && (rest.is_empty() || rest.starts_with('_'))
        && !["cloud", "rt"].iter().any(|flavour| release.ends_with(flavour))
}

/// Compares names by the numbers in them, from the left.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    };
    numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_newest_general_image_of_a_version() {
        let names = [
            "linux-image-6.1.0-9-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.1.0-57-amd64-unsigned",
            "linux-image-6.1.0-57-amd64-dbg",
            "linux-image-6.1.0-57-cloud-amd64",
            "linux-image-6.1.0-57-rt-amd64",
            "linux-image-6.12-amd64",
            "linux-image-6.12.95+deb12-amd64",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.12.117+deb13-amd64",
            "linux-image-6.12.90+deb13.1-amd64",
            "linux-image-amd64",
            "linux-image-amd64-signed-template",
        ];
        let cases = [
            ("6.1", Some("linux-image-6.1.0-56-amd64")),
            ("6.1.0-9", Some("linux-image-6.1.0-9-amd64")),
            ("6.12", Some("linux-image-6.12.117+deb13-amd64")),
            ("6.12.95", Some("linux-image-6.12.95+deb12-amd64")),
            ("6.2", None),
        ];
        for (version, wanted) in cases {
            assert_eq!(newest(version, names.into_iter()), wanted, "{version}");
        }
    }

    #[test]
    fn knows_a_downloaded_package_by_its_file() {
        assert!(is_image("6.1", "linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb"));
        assert!(!is_image("6.1", "linux-image-6.12.95+deb12-amd64_6.12.95-1~bpo12+1_amd64.deb"));
        assert!(!is_image("6.1", "linux-image-6.1.0-56-amd64-dbg_6.1.192-2_amd64.deb"));
    }
}
