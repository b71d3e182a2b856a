//! Builds what is measured, what measures, and the programs that do nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Made, Toolchain};
use crate::command::{line_of, status};

/// The target that BPF programs are compiled for, as in segd's build script.
const TARGET: &str = "bpfel-unknown-none";

/// What was built.
pub(super) struct Built {
    pub(super) segd: PathBuf,
    pub(super) bench: PathBuf,
    /// The object of programs that do nothing.
    pub(super) empty: PathBuf,
}

/// Builds in the release profile, or with `dev` in the dev profile, in which the agent is several times slower.
pub(super) fn build(toolchain: &Toolchain, dev: bool) -> Result<Built> {
    let mut arguments = vec!["build", "--locked", "--package", "segd", "--package", "segd-tests", "--bins"];
    arguments.extend((!dev).then_some("--release"));
    let made = cargo::build(toolchain.cargo(&arguments))?;
    let (mut segd, mut bench, mut out) = (None, None, None);
    for made in made {
        match made {
            Made::Executable { target, path } if target == "segd" => segd = Some(path),
            Made::Executable { target, path } if target == "segd-bench" => bench = Some(path),
            Made::OutDir { package, path } if package == "segd" => out = Some(path),
            _ => {}
        }
    }
    let out = out.context("cargo did not say where segd's build script has put its programs")?;
    Ok(Built {
        segd: segd.context("cargo built no segd")?,
        bench: bench.context("cargo built no segd-bench")?,
        empty: empty_programs(toolchain, &out.join("bpf"))?,
    })
}

/// As segd's build script builds segd's programs, in its target directory, where their dependencies are compiled.
fn empty_programs(toolchain: &Toolchain, target_dir: &Path) -> Result<PathBuf> {
    let rustc = toolchain.bpf_rustc.clone().or_else(|| std::env::var_os("SEGD_BPF_RUSTC").map(PathBuf::from));
    let rustc = rustc.unwrap_or_else(|| "/usr/bin/rustc".into());
    let sysroot = crate::command::output(Command::new(&rustc).args(["--print", "sysroot"]));
    let sysroot = sysroot.with_context(|| format!("{} does not run", rustc.display()))?;
    let has_core = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir();
    let mut build =
        toolchain.cargo(&["build", "--quiet", "--locked", "--profile", "bpf", "--bin", "segd-empty"]);
    build.current_dir(cargo::root().join("segd-ebpf"));
    build.args(["--target", TARGET, "--target-dir"]).arg(target_dir);
    for name in ["CARGO_BUILD_TARGET", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
        build.env_remove(name);
    }
    build.env("RUSTC", &rustc).env("AYA_BPF_TARGET_ARCH", std::env::consts::ARCH);
    if has_core {
        build.env("RUSTC_BOOTSTRAP", "aya_ebpf,segd_ebpf");
    } else {
        build.env("RUSTC_BOOTSTRAP", "1").args(["-Z", "build-std=core"]);
    }
    if !status(&mut build)?.success() {
        bail!("the empty programs were not built; the command was:\n  {}", line_of(&build));
    }
    Ok(target_dir.join(TARGET).join("bpf/segd-empty"))
}
