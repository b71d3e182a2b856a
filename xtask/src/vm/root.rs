//! The root file system of the virtual machine: a cpio archive with busybox, segd, the tests, and what those call.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::kernel::Kernel;
use crate::cargo::{self, Made, Toolchain};
use crate::command::{line_of, output, status};
use crate::setup::find;
use crate::test::build_segd;

const INIT: &str = include_str!("init.sh");
/// What `init.sh` and the tests call and busybox does.
const APPLETS: [&str; 6] = ["sh", "mount", "umount", "insmod", "poweroff", "cat"];
/// What the tests call and busybox does otherwise or not at all.
const PROGRAMS: [&str; 3] = ["ip", "setpriv", "unshare"];
/// Users that the tests become.
const USERS: &str = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";

/// What was built for the virtual machine.
pub(crate) struct Binaries {
    segd: PathBuf,
    /// The small program that the tests run on their hosts.
    actor: PathBuf,
    /// Names and executables of the tests.
    tests: Vec<(&'static str, PathBuf)>,
}

/// Builds segd and these files of its end-to-end tests.
pub(crate) fn build(toolchain: &Toolchain, tests: &[&'static str]) -> Result<Binaries> {
    let segd = build_segd(toolchain)?.segd;
    let mut arguments = vec!["test", "--no-run", "--locked", "--package", "segd-tests"];
    // With any of them cargo builds lab-actor.
    arguments.extend(tests.iter().flat_map(|name| ["--test", name]));
    let made = cargo::build(toolchain.cargo(&arguments))?;
    let find = |name: &str| {
        let path = made.iter().find_map(|made| match made {
            Made::Executable { target, path } if target == name => Some(path.clone()),
            _ => None,
        });
        path.with_context(|| format!("cargo built no {name}"))
    };
    let tests = tests.iter().map(|name| Ok((*name, find(name)?))).collect::<Result<_>>()?;
    Ok(Binaries { segd, actor: find("lab-actor")?, tests })
}

/// The archive, removed with the value.
pub(crate) struct Root(TempDir);

impl Root {
    /// `arguments` are libtest's.
    pub(crate) fn make(
        home: &Path,
        kernel: &Kernel,
        binaries: &Binaries,
        arguments: &[String],
    ) -> Result<Self> {
        let root = Self(tempfile::tempdir_in(home).context("cannot make a temporary directory")?);
        let tree = root.0.path().join("tree");
        for directory in
            ["bin", "sbin", "proc", "sys", "dev", "tmp", "run", "etc", "var/lib", "modules", "segd/deps"]
        {
            fs::create_dir_all(tree.join(directory)).context("cannot make a directory")?;
        }
        put(INIT, &tree.join("init"))?;
        fs::set_permissions(tree.join("init"), Permissions::from_mode(0o755))?;
        put(USERS, &tree.join("etc/passwd"))?;
        put(lines(arguments), &tree.join("segd/arguments"))?;
        let names: Vec<_> = binaries.tests.iter().map(|(name, _)| *name).collect();
        put(lines(&names), &tree.join("segd/tests"))?;
        copy(&here("busybox")?, &tree.join("bin/busybox"))?;
        for applet in APPLETS {
            symlink("busybox", tree.join("bin").join(applet)).context("cannot make a link")?;
        }
        add_modules(kernel, &tree.join("modules"))?;
        add_stripped(&binaries.segd, &tree, "segd/segd")?;
        add_stripped(&binaries.actor, &tree, "segd/lab-actor")?;
        for (name, path) in &binaries.tests {
            add_stripped(path, &tree, &format!("segd/deps/{name}"))?;
        }
        for name in PROGRAMS {
            let program = here(name)?;
            copy(&program, &tree.join("sbin").join(name))?;
            add_libraries(&program, &tree)?;
        }
        archive(&tree, &root.archive())?;
        Ok(root)
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.0.path().join("root.cpio")
    }
}

fn here(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("this machine has no {program}"))
}

fn lines(items: &[impl AsRef<str>]) -> String {
    items.iter().flat_map(|item| [item.as_ref(), "\n"]).collect()
}

fn put(text: impl AsRef<[u8]>, path: &Path) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
}

/// Copies the modules under names that sort in their order, decompressed.
fn add_modules(kernel: &Kernel, directory: &Path) -> Result<()> {
    for (number, module) in kernel.modules.iter().enumerate() {
        let name = module.file_name().context("a module without a name")?.to_string_lossy();
        let target = directory.join(format!("{number:02}-{}", name.trim_end_matches(".xz")));
        if !name.ends_with(".xz") {
            copy(module, &target)?;
            continue;
        }
        let mut unpack = Command::new("busybox");
        unpack.args(["unxz", "-c"]).arg(module).stdout(File::create(&target)?);
        succeed(unpack)?;
    }
    Ok(())
}

/// Adds an executable without debug information, which is most of it, and the libraries it needs.
fn add_stripped(program: &Path, tree: &Path, to: &str) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(tree.join(to)).arg(program);
    succeed(strip)?;
    add_libraries(program, tree)
}

fn add_libraries(program: &Path, tree: &Path) -> Result<()> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program);
    let listed = output(&mut ldd).with_context(|| format!("{} failed", line_of(&ldd)))?;
    for library in libraries(&listed) {
        let target = tree.join(library.trim_start_matches('/'));
        if target.exists() {
            continue;
        }
        fs::create_dir_all(target.parent().context("a library without a directory")?)?;
        copy(Path::new(library), &target)?;
    }
    Ok(())
}

/// The files in what `ldd` prints.
fn libraries(ldd: &str) -> Vec<&str> {
    ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))).collect()
}

fn archive(tree: &Path, archive: &Path) -> Result<()> {
    // Paths are given to cpio one a line; none has a line break in it.
    let mut names = String::new();
    list(tree, tree, &mut names)?;
    let list = archive.with_extension("list");
    put(names, &list)?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--create", "--format=newc", "--owner=0:0", "--quiet"]).current_dir(tree);
    cpio.stdin(File::open(&list)?).stdout(File::create(archive)?);
    succeed(cpio)
}

/// Adds the paths below `directory`, relative to `tree`, each directory before what is in it.
fn list(directory: &Path, tree: &Path, names: &mut String) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let relative = path.strip_prefix(tree)?.to_str().context("a path that is not UTF-8")?;
        names.extend([relative, "\n"]);
        if kind.is_dir() {
            list(&path, tree, names)?;
        }
    }
    Ok(())
}

fn succeed(mut command: Command) -> Result<()> {
    command.stderr(Stdio::inherit());
    let status = status(&mut command)?;
    if !status.success() {
        bail!("{} failed ({status})", line_of(&command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007fcb)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007fcb)\n\tlibx.so => not found\n";
        assert_eq!(libraries(text), ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert_eq!(libraries("\tstatically linked\n"), [""; 0]);
    }
}
