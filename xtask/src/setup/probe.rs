//! Looks at what this machine has. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::Endianness;
use object::read::elf::{ElfFile64, FileHeader as _};

use super::Purpose;
use super::piece::Piece;
use super::plan::OLDEST_RUSTC;
use crate::cargo::Toolchain;
use crate::command::output;

/// The compiler that segd's build script takes by itself.
const DEFAULT_RUSTC: &str = "/usr/bin/rustc";

/// A major and a minor version.
type Version = (u32, u32);

/// A compiler that can compile for bpfel-unknown-none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    pub(crate) version: Version,
    /// The major version of its LLVM.
    pub(crate) llvm: u32,
    /// Whether the build script finds it without being told.
    pub(crate) is_default: bool,
}

/// A bpf-linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    /// The major version of the LLVM it is linked to, if that can be seen.
    pub(crate) llvm: Option<u32>,
    /// Whether PATH leads to it.
    pub(crate) in_path: bool,
}

/// What there is on a machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    pub(crate) apt: bool,
    pub(crate) rustup: bool,
    /// The build script is given an object (`SEGD_BPF_OBJECT`) and compiles none.
    pub(crate) prebuilt_object: bool,
    pub(crate) compiler: Option<Compiler>,
    pub(crate) linker: Option<Linker>,
    /// The major versions of LLVM whose development files are installed.
    pub(crate) llvm_dev: Vec<u32>,
    /// Of the other pieces, those that are there.
    pub(crate) tools: BTreeSet<Piece>,
    /// What apt would install, of the packages that may be wanted.
    pub(crate) offered: BTreeMap<String, Version>,
}

impl Machine {
    pub(crate) fn probe(purpose: Purpose) -> Self {
        let apt = find("apt-get").is_some();
        Self {
            apt,
            rustup: find("rustup").is_some(),
            prebuilt_object: env::var_os("SEGD_BPF_OBJECT").is_some(),
            compiler: compiler(),
            linker: linker(),
            llvm_dev: llvm_dev(),
            tools: purpose.tools().iter().copied().filter(|piece| has(*piece)).collect(),
            offered: if apt { offered() } else { BTreeMap::new() },
        }
    }

    /// What to build with.
    pub(crate) fn toolchain(&self) -> Toolchain {
        let compiler = self.compiler.as_ref().filter(|compiler| !compiler.is_default);
        let linker = self.linker.as_ref().filter(|linker| !linker.in_path);
        Toolchain {
            bpf_rustc: compiler.map(|compiler| compiler.rustc.clone()),
            linker_dir: linker.and_then(|linker| Some(linker.path.parent()?.to_owned())),
        }
    }

    /// One line on what the BPF programs are built with.
    pub(crate) fn summary(&self) -> String {
        if self.prebuilt_object {
            return "BPF object from SEGD_BPF_OBJECT".into();
        }
        let compiler = self.compiler.as_ref().map_or("no BPF compiler".into(), |c| {
            format!("{} {}.{} with LLVM {}", c.rustc.display(), c.version.0, c.version.1, c.llvm)
        });
        let linker = self.linker.as_ref().map_or("no bpf-linker".into(), |l| {
            let llvm = l.llvm.map_or("an LLVM of its own".into(), |llvm| format!("LLVM {llvm}"));
            format!("{} with {llvm}", l.path.display())
        });
        format!("{compiler}; {linker}")
    }
}

/// The compiler that the environment names, else Debian's, else rustup's nightly.
fn compiler() -> Option<Compiler> {
    if let Some(named) = env::var_os("SEGD_BPF_RUSTC") {
        return usable(Path::new(&named), true);
    }
    usable(Path::new(DEFAULT_RUSTC), true).or_else(|| {
        let sysroot = output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
        usable(&Path::new(sysroot.trim()).join("bin/rustc"), false)
    })
}

fn usable(rustc: &Path, is_default: bool) -> Option<Compiler> {
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
    let core = [libraries.join("bpfel-unknown-none/lib"), libraries.join("src/rust/library/core")];
    if !core.iter().any(|directory| directory.is_dir()) {
        return None;
    }
    let (version, llvm) = rustc_versions(&output(Command::new(rustc).arg("-vV"))?)?;
    (version >= OLDEST_RUSTC).then(|| Compiler { rustc: rustc.to_owned(), version, llvm, is_default })
}

/// The version of rustc and the major one of its LLVM, from `rustc -vV`.
fn rustc_versions(text: &str) -> Option<(Version, u32)> {
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).and_then(version);
    Some((field("release: ")?, field("LLVM version: ")?.0))
}

/// The two leading numbers of a version, Debian's epoch left out: `1:22.1.8-1~deb12u1` is (22, 1).
fn version(text: &str) -> Option<Version> {
    let text = text.split_once(':').map_or(text, |(_, text)| text);
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

/// bpf-linker where PATH leads, else where cargo installs.
fn linker() -> Option<Linker> {
    let in_path = find("bpf-linker").map(|path| (path, true));
    let installed = cargo_bin().map(|bin| (bin.join("bpf-linker"), false)).filter(|(path, _)| path.is_file());
    let mut linkers = in_path.into_iter().chain(installed).map(|(path, in_path)| {
        let llvm = fs::read(&path).ok().and_then(|bytes| linked_llvm(&bytes));
        Linker { path, llvm, in_path }
    });
    let first = linkers.next()?;
    // An older one may stand in the way of the one that was installed last.
    Some(linkers.fold(first, |best, other| if other.llvm > best.llvm { other } else { best }))
}

fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    Some(home.or_else(|| Some(env::home_dir()?.join(".cargo")))?.join("bin"))
}

/// The major version in the name of the LLVM library that an executable needs: libLLVM.so.22.1, libLLVM-19.so.1.
fn linked_llvm(elf: &[u8]) -> Option<u32> {
    let file = ElfFile64::<Endianness>::parse(elf).ok()?;
    let endian = file.endian();
    let sections = file.elf_header().sections(endian, elf).ok()?;
    let (dynamic, link) = sections.dynamic(endian, elf).ok()??;
    let strings = sections.strings(endian, elf, link).ok()?;
    let needed = dynamic.iter().filter(|entry| entry.d_tag.get(endian) == object::elf::DT_NEEDED);
    let mut names = needed.filter_map(|entry| {
        let offset = u32::try_from(entry.d_val.get(endian)).ok()?;
        std::str::from_utf8(strings.get(offset).ok()?).ok()
    });
    names.find_map(llvm_in_name)
}

fn llvm_in_name(library: &str) -> Option<u32> {
    version(library.strip_prefix("libLLVM")?.trim_start_matches(['-', '.', 's', 'o'])).map(|(major, _)| major)
}

fn llvm_dev() -> Vec<u32> {
    let entries = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let versions = entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("llvm-")?.parse().ok());
    versions.filter(|v| Path::new(&format!("/usr/lib/llvm-{v}/include/llvm-c/Core.h")).exists()).collect()
}

fn has(piece: Piece) -> bool {
    match piece {
        Piece::Cc => find("cc").is_some(),
        Piece::Rustfmt => output(Command::new("cargo").args(["fmt", "--version"])).is_some(),
        Piece::Clippy => output(Command::new("cargo").args(["clippy", "--version"])).is_some(),
        Piece::Iproute2 => find("ip").is_some(),
        Piece::Postgres => fs::read_dir("/usr/lib/postgresql").is_ok_and(|versions| {
            versions.flatten().any(|version| version.path().join("bin/initdb").exists())
        }),
        Piece::Redis => find("redis-server").is_some() && find("redis-cli").is_some(),
        Piece::Nginx => find("nginx").is_some(),
        Piece::Curl => find("curl").is_some(),
        Piece::Dnsmasq => find("dnsmasq").is_some(),
        Piece::Prometheus => find("prometheus").is_some() && find("promtool").is_some(),
        Piece::Rsyslog => find("rsyslogd").is_some(),
        Piece::Chromium => find("chromium").is_some(),
        Piece::Nftables => find("nft").is_some(),
        Piece::Qemu => find("qemu-system-x86_64").is_some(),
        // ldd fails on a static one.
        Piece::Busybox => find("busybox").is_some_and(|path| output(Command::new("ldd").arg(path)).is_none()),
        Piece::Cpio => find("cpio").is_some(),
        Piece::BpfCompiler | Piece::BpfLinker => false,
    }
}

/// The program `name` in PATH, or where Debian puts what only root has in its PATH.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.map(|directory| directory.join(name)).find(|file| file.is_file())
}

fn offered() -> BTreeMap<String, Version> {
    let llvm = (21..=23).map(|version| format!("llvm-{version}-dev"));
    let names = Piece::BpfCompiler.packages().iter().map(|name| (*name).to_owned()).chain(llvm);
    let policy = output(Command::new("apt-cache").arg("policy").args(names)).unwrap_or_default();
    candidates(&policy)
}

/// The candidates in what `apt-cache policy` prints.
fn candidates(policy: &str) -> BTreeMap<String, Version> {
    let mut name = "";
    let mut found = BTreeMap::new();
    for line in policy.lines() {
        if !line.starts_with(' ') {
            name = line.trim_end_matches(':');
        } else if let Some(candidate) = line.trim_start().strip_prefix("Candidate: ")
            && let Some(version) = version(candidate)
        {
            found.insert(name.to_owned(), version);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let cases = [
            ("1.96.0+dfsg1-1~deb12u2", Some((1, 96))),
            ("1:22.1.8-1~deb12u1", Some((22, 1))),
            ("1.97.0-nightly", Some((1, 97))),
            ("15+248+deb12u1", Some((15, 248))),
            ("(none)", None),
        ];
        for (text, expected) in cases {
            assert_eq!(version(text), expected, "{text}");
        }
    }

    #[test]
    fn reads_what_rustc_says_of_itself() {
        let text =
            "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(rustc_versions(text), Some(((1, 96), 22)));
        assert_eq!(rustc_versions("rustc 1.96.0"), None);
    }

    #[test]
    fn reads_the_name_of_an_llvm_library() {
        let cases = [
            ("libLLVM.so.22.1", Some(22)),
            ("libLLVM-19.so.1", Some(19)),
            ("libLLVM-22.so", Some(22)),
            ("libLLVM.so", None),
            ("libc.so.6", None),
        ];
        for (name, expected) in cases {
            assert_eq!(llvm_in_name(name), expected, "{name}");
        }
    }

    #[test]
    fn an_executable_without_llvm_needs_none() {
        let this = fs::read(env::current_exe().unwrap()).unwrap();
        assert_eq!(linked_llvm(&this), None);
        assert_eq!(linked_llvm(b"not an executable"), None);
    }

    #[test]
    fn reads_candidates() {
        let policy = "\
rustc-web:
  Installed: (none)
  Candidate: 1.96.0+dfsg1-1~deb12u2
  Version table:
     1.96.0+dfsg1-1~deb12u2 500
llvm-23-dev:
  Installed: (none)
  Candidate: (none)
";
        assert_eq!(candidates(policy), [("rustc-web".to_owned(), (1, 96))].into());
    }
}
