//! Debian's kernels: their packages, and of those what the virtual machine needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::apt::{Apt, compare, is_image};
use crate::command::line_of;
use crate::interrupt;
use crate::say::say;

/// What the lab and segd load on demand on an ordinary host, in an order in which they can be loaded.
const MODULES: [&str; 7] = ["llc", "stp", "bridge", "veth", "inet_diag", "tcp_diag", "udp_diag"];

/// A kernel, unpacked.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What `uname -r` says on it.
    pub(crate) release: String,
    /// The compressed image.
    pub(crate) image: PathBuf,
    /// Kernel modules (`.ko`, or compressed `.ko.xz`), in the order in which they are to be loaded.
    pub(crate) modules: Vec<PathBuf>,
}

/// The kernels of these versions, downloaded into `home` if they are not there, or if newer ones are wanted.
///
/// # Errors
/// When a kernel cannot be had; names it.
pub(crate) fn fetch(home: &Path, versions: &[String], update: bool) -> Result<Vec<Kernel>> {
    let debs = home.join("debs");
    fs::create_dir_all(&debs).with_context(|| format!("cannot make {}", debs.display()))?;
    let mut packages = Vec::new();
    let mut apt = None;
    for version in versions {
        let given = Path::new(version);
        if given.extension().is_some_and(|extension| extension == "deb") {
            packages.push(fs::canonicalize(given).with_context(|| format!("no kernel package {version}"))?);
            continue;
        }
        if update || downloaded(&debs, version).is_none() {
            if apt.is_none() {
                let fresh = Apt::new(&home.join("apt"))?;
                fresh.update()?;
                apt = Some(fresh);
            }
            if let Some(apt) = &apt {
                apt.download(version, &debs)?;
            }
        }
        let package = downloaded(&debs, version);
        packages.push(package.with_context(|| format!("apt-get downloaded no kernel {version}"))?);
    }
    packages.iter().map(|package| unpack(home, package)).collect()
}

/// The newest package of this version among the downloaded ones.
fn downloaded(debs: &Path, version: &str) -> Option<PathBuf> {
    let names = fs::read_dir(debs).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let newest =
        names.filter(|name| name.ends_with(".deb") && is_image(version, name)).max_by(|a, b| compare(a, b));
    newest.map(|name| debs.join(name))
}

/// Takes the image and the modules out of a package, once.
fn unpack(home: &Path, package: &Path) -> Result<Kernel> {
    let name = package.file_stem().context("a kernel package without a name")?;
    let kernels = home.join("kernels");
    let place = kernels.join(name);
    if !place.is_dir() {
        fs::create_dir_all(&kernels).with_context(|| format!("cannot make {}", kernels.display()))?;
        // It gets its name when it is complete.
        let incomplete = tempfile::tempdir_in(&kernels).context("cannot make a temporary directory")?;
        say!("Unpacking {}", package.display());
        extract(package, incomplete.path())?;
        fs::rename(incomplete.path(), &place).with_context(|| format!("cannot make {}", place.display()))?;
    }
    read(&place).with_context(|| format!("{} is no kernel package as expected", package.display()))
}

fn extract(package: &Path, place: &Path) -> Result<()> {
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--fsys-tarfile").arg(package).stdout(Stdio::piped());
    let mut select = Command::new("tar");
    select.args(["-x", "--wildcards", "--transform=s|.*/||", "-C"]).arg(place).arg("*/boot/vmlinuz-*");
    select.args(MODULES.map(|module| format!("*/{module}.ko*")));
    interrupt::check()?;
    let mut first = unpack.spawn().with_context(|| format!("cannot run {}", line_of(&unpack)))?;
    select.stdin(first.stdout.take().map_or_else(Stdio::null, Stdio::from));
    let selected = select.status().with_context(|| format!("cannot run {}", line_of(&select)))?;
    // It holds the reading end of the pipe, at which dpkg-deb would wait if tar ended early.
    drop(select);
    let unpacked = first.wait()?;
    interrupt::check()?;
    if !unpacked.success() || !selected.success() {
        bail!("{} | tar: {unpacked}, {selected}", line_of(&unpack));
    }
    Ok(())
}

/// The parts of an unpacked package.
fn read(place: &Path) -> Result<Kernel> {
    let entries = fs::read_dir(place).with_context(|| format!("cannot read {}", place.display()))?;
    let names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let release = names.iter().find_map(|name| name.strip_prefix("vmlinuz-")).context("it has no vmlinuz")?;
    let module = |module| {
        let files = [format!("{module}.ko"), format!("{module}.ko.xz")];
        let found = names.iter().find(|name| files.contains(name));
        found.map(|name| place.join(name)).with_context(|| format!("it has no module {module}"))
    };
    Ok(Kernel {
        release: release.to_owned(),
        image: place.join(format!("vmlinuz-{release}")),
        modules: MODULES.into_iter().map(module).collect::<Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_downloaded_package_is_taken() {
        let debs = tempfile::tempdir().unwrap();
        for name in [
            "linux-image-6.1.0-9-amd64_6.1.27-1_amd64.deb",
            "linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb",
            "linux-image-6.12.95+deb12-amd64_6.12.95-1_amd64.deb",
        ] {
            fs::write(debs.path().join(name), "").unwrap();
        }
        let name = |version| Some(downloaded(debs.path(), version)?.file_name()?.to_str()?.to_owned());
        assert_eq!(name("6.1").as_deref(), Some("linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb"));
        assert_eq!(name("6.6"), None);
    }

    #[test]
    fn an_unpacked_package_gives_its_modules_in_order() {
        let place = tempfile::tempdir().unwrap();
        for module in MODULES {
            fs::write(place.path().join(format!("{module}.ko.xz")), "").unwrap();
        }
        assert!(read(place.path()).unwrap_err().to_string().contains("no vmlinuz"));
        fs::write(place.path().join("vmlinuz-6.12.95+deb12-amd64"), "").unwrap();
        let kernel = read(place.path()).unwrap();
        assert_eq!(kernel.release, "6.12.95+deb12-amd64");
        assert_eq!(kernel.modules, MODULES.map(|module| place.path().join(format!("{module}.ko.xz"))));
        fs::remove_file(&kernel.modules[2]).unwrap();
        assert!(read(place.path()).unwrap_err().to_string().contains("no module bridge"));
    }
}
