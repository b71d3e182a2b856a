//! Decides from what a machine has what is to be installed on it, and how. Touches nothing.

use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;

use anyhow::{Result, bail};

use super::Purpose;
use super::piece::{BPF_LINKER_VERSION, Piece};
use super::probe::Machine;

/// The LLVM versions that bpf-linker 0.13 can be built against.
const LINKER_LLVM: RangeInclusive<u32> = 21..=23;
/// The oldest compiler that segd's BPF programs compile with: the workspace's rust-version.
pub(crate) const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Install Debian packages.
    Packages(Vec<String>),
    /// Install a nightly compiler with the sources of core.
    Nightly,
    /// Add components to the toolchain in use.
    Components(Vec<&'static str>),
    /// Compile bpf-linker against this LLVM.
    BpfLinker { llvm: u32 },
}

impl Step {
    /// The command line without its variables.
    pub(crate) fn words(&self) -> Vec<String> {
        let fixed = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        match self {
            Self::Packages(names) => {
                // The lock may be held by the automatic upgrade of a machine that was just started.
                let mut words =
                    fixed("apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=300");
                words.extend(names.iter().cloned());
                words
            }
            Self::Nightly => fixed("rustup toolchain install nightly --profile minimal --component rust-src"),
            Self::Components(names) => {
                let mut words = fixed("rustup component add");
                words.extend(names.iter().map(|name| (*name).to_owned()));
                words
            }
            Self::BpfLinker { llvm } => fixed(&format!(
                "cargo install bpf-linker --version {BPF_LINKER_VERSION} --locked --force --no-default-features \
                 --features llvm-{llvm}"
            )),
        }
    }

    /// The variables that its command needs.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Packages(_) => vec![("DEBIAN_FRONTEND", "noninteractive".into())],
            Self::BpfLinker { llvm } => vec![("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"))],
            Self::Nightly | Self::Components(_) => Vec::new(),
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (name, value) in self.variables() {
            write!(f, "{name}={value} ")?;
        }
        f.write_str(&self.words().join(" "))
    }
}

/// What to do, and what cannot be done here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) impossible: Vec<Piece>,
}

impl Plan {
    /// # Errors
    /// When a piece cannot be installed by this program; names each with what a person can do.
    pub(crate) fn require_possible(&self) -> Result<()> {
        if self.impossible.is_empty() {
            return Ok(());
        }
        let lines = self.impossible.iter().map(|piece| format!("\n  {piece}: {}", piece.advice()));
        bail!("cannot install here:{}", lines.collect::<String>())
    }
}

/// What `machine` lacks for `purpose`.
pub(crate) fn missing(machine: &Machine, purpose: Purpose) -> Vec<Piece> {
    let mut pieces = Vec::new();
    if !machine.prebuilt_object {
        match &machine.compiler {
            None => pieces.extend([Piece::BpfCompiler]),
            // The rule of LLVM's bitcode: a newer LLVM reads what an older one wrote, not the other way round.
            Some(compiler) => match &machine.linker {
                Some(linker) if linker.llvm.is_none_or(|llvm| llvm >= compiler.llvm) => {}
                _ => pieces.push(Piece::BpfLinker),
            },
        }
        if machine.compiler.is_none() && machine.linker.is_none() {
            pieces.push(Piece::BpfLinker);
        }
    }
    pieces.extend(purpose.tools().iter().filter(|tool| !machine.tools.contains(tool)));
    pieces.sort();
    pieces
}

/// How to get `missing`. Packages come first: the other steps may need them.
pub(crate) fn plan(machine: &Machine, missing: &[Piece]) -> Plan {
    let mut plan = Plan::default();
    let (mut packages, mut components, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for piece in missing {
        let added = match piece {
            Piece::BpfCompiler => compiler(machine, &mut packages, &mut after),
            Piece::BpfLinker => linker(machine, &mut packages, &mut after),
            Piece::Rustfmt | Piece::Clippy => {
                components.push(if *piece == Piece::Clippy { "clippy" } else { "rustfmt" });
                machine.rustup
            }
            other => {
                packages.extend(other.packages().iter().map(|name| (*name).to_owned()));
                machine.apt
            }
        };
        if !added {
            plan.impossible.push(*piece);
        }
    }
    if !packages.is_empty() {
        plan.steps.push(Step::Packages(packages));
    }
    if !components.is_empty() {
        plan.steps.push(Step::Components(components));
    }
    plan.steps.extend(after);
    plan
}

/// Debian's compiler with its prebuilt core, else a nightly one with core's sources.
fn compiler(machine: &Machine, packages: &mut Vec<String>, after: &mut Vec<Step>) -> bool {
    let wanted = Piece::BpfCompiler.packages();
    if wanted.iter().all(|name| machine.offered.get(*name).is_some_and(|version| *version >= OLDEST_RUSTC)) {
        packages.extend(wanted.iter().map(|name| (*name).to_owned()));
    } else if machine.rustup {
        after.push(Step::Nightly);
    }
    machine.rustup || !packages.is_empty()
}

/// bpf-linker against an LLVM that is here, else the newest that apt offers.
fn linker(machine: &Machine, packages: &mut Vec<String>, after: &mut Vec<Step>) -> bool {
    let oldest = machine.compiler.as_ref().map_or(*LINKER_LLVM.start(), |compiler| compiler.llvm);
    let fits = |llvm: &u32| LINKER_LLVM.contains(llvm) && *llvm >= oldest;
    let offered = |llvm: &u32| machine.offered.contains_key(&format!("llvm-{llvm}-dev"));
    let here = machine.llvm_dev.iter().copied().filter(fits).max();
    let Some(llvm) = here.or_else(|| LINKER_LLVM.rev().filter(fits).find(offered)) else { return false };
    if here.is_none() {
        packages.push(format!("llvm-{llvm}-dev"));
    }
    after.push(Step::BpfLinker { llvm });
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::probe::{Compiler, Linker};
    use super::*;

    /// A fresh Debian 12 after `apt-get update`, with rustup's stable toolchain.
    fn fresh() -> Machine {
        let offers = [
            ("rustc-web", (1, 96)),
            ("libstd-rust-web-dev", (1, 96)),
            ("libstd-rust-web-dev-bpf", (1, 96)),
            ("llvm-22-dev", (22, 1)),
        ];
        Machine {
            apt: true,
            rustup: true,
            offered: offers.into_iter().map(|(name, version)| (name.to_owned(), version)).collect(),
            tools: [Piece::Cc, Piece::Rustfmt, Piece::Clippy, Piece::Iproute2].into(),
            ..Machine::default()
        }
    }

    fn compiler(llvm: u32) -> Option<Compiler> {
        Some(Compiler { rustc: "/usr/bin/rustc".into(), version: (1, 96), llvm, is_default: true })
    }

    fn linker(llvm: Option<u32>) -> Option<Linker> {
        Some(Linker { path: "/root/.cargo/bin/bpf-linker".into(), llvm, in_path: true })
    }

    fn steps(machine: &Machine, purpose: Purpose) -> Vec<String> {
        let plan = plan(machine, &missing(machine, purpose));
        plan.require_possible().unwrap();
        plan.steps.iter().map(ToString::to_string).collect()
    }

    const APT: &str = "DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
                       -o DPkg::Lock::Timeout=300";
    const LINKER: &str = "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked --force \
                          --no-default-features --features llvm-22";

    #[test]
    fn a_fresh_debian_gets_its_prebuilt_core() {
        let compiler = "rustc-web libstd-rust-web-dev libstd-rust-web-dev-bpf llvm-22-dev";
        assert_eq!(steps(&fresh(), Purpose::Build), [format!("{APT} {compiler}"), LINKER.into()]);
        assert_eq!(
            steps(&fresh(), Purpose::Test),
            [
                format!(
                    "{APT} {compiler} postgresql redis-server nginx curl dnsmasq-base prometheus rsyslog chromium \
                     fonts-dejavu-core"
                ),
                LINKER.into()
            ]
        );
    }

    #[test]
    fn a_machine_with_all_of_it_gets_nothing() {
        let machine = Machine {
            compiler: compiler(22),
            linker: linker(Some(22)),
            tools: Purpose::Test.tools().iter().copied().collect(),
            ..Machine::default()
        };
        assert_eq!(missing(&machine, Purpose::Test), []);
    }

    #[test]
    fn an_emulator_comes_without_servers() {
        let machine = Machine { prebuilt_object: true, ..fresh() };
        assert_eq!(steps(&machine, Purpose::Vm), [format!("{APT} qemu-system-x86 busybox-static cpio")]);
    }

    #[test]
    fn the_linker_must_not_be_older_than_the_compiler() {
        let cases = [
            (compiler(22), linker(Some(22)), true),
            (compiler(22), linker(Some(23)), true),
            (compiler(22), linker(Some(21)), false),
            // Statically linked: it does not tell, so it is believed.
            (compiler(22), linker(None), true),
            (compiler(22), None, false),
        ];
        for (compiler, linker, good) in cases {
            let machine = Machine { compiler, linker, ..fresh() };
            let lacks = missing(&machine, Purpose::Build);
            assert_eq!(lacks.is_empty(), good, "{:?} {:?}", machine.compiler, machine.linker);
        }
    }

    #[test]
    fn an_llvm_that_is_here_is_not_installed_again() {
        let machine = Machine { compiler: compiler(22), llvm_dev: vec![14, 22], ..fresh() };
        assert_eq!(steps(&machine, Purpose::Build), [LINKER]);
        let too_old = Machine { compiler: compiler(22), llvm_dev: vec![14, 21], ..fresh() };
        assert_eq!(steps(&too_old, Purpose::Build), [format!("{APT} llvm-22-dev"), LINKER.into()]);
    }

    #[test]
    fn without_debians_core_rustup_brings_a_nightly() {
        let mut machine = fresh();
        machine.offered.remove("libstd-rust-web-dev-bpf");
        machine.linker = linker(Some(22));
        assert_eq!(
            steps(&machine, Purpose::Build),
            ["rustup toolchain install nightly --profile minimal --component rust-src"]
        );
        // Debian 12 without its security updates: a compiler that is too old.
        let mut machine = fresh();
        machine.linker = linker(Some(22));
        machine.offered.insert("rustc-web".into(), (1, 85));
        assert!(steps(&machine, Purpose::Build)[0].starts_with("rustup"));
    }

    #[test]
    fn what_cannot_be_installed_is_named_with_the_command() {
        let machine = Machine { offered: BTreeMap::new(), rustup: false, ..fresh() };
        let plan = plan(&machine, &missing(&machine, Purpose::Build));
        assert_eq!(plan.impossible, [Piece::BpfCompiler, Piece::BpfLinker]);
        let error = plan.require_possible().unwrap_err().to_string();
        for part in
            ["libstd-rust-web-dev-bpf", "rustup toolchain install nightly", "cargo install bpf-linker"]
        {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_prebuilt_object_needs_neither_compiler_nor_linker() {
        let machine = Machine { prebuilt_object: true, ..fresh() };
        assert_eq!(missing(&machine, Purpose::Build), []);
    }

    #[test]
    fn a_minimal_toolchain_gets_its_linters_for_tests_only() {
        let machine = Machine {
            prebuilt_object: true,
            tools: Purpose::Demo
                .tools()
                .iter()
                .copied()
                .chain([Piece::Dnsmasq, Piece::Prometheus, Piece::Rsyslog, Piece::Chromium])
                .collect(),
            ..fresh()
        };
        assert_eq!(steps(&machine, Purpose::Build), [""; 0]);
        assert_eq!(steps(&machine, Purpose::Demo), [""; 0]);
        assert_eq!(steps(&machine, Purpose::Test), ["rustup component add rustfmt clippy"]);
    }
}
