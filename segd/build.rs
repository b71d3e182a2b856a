//! Builds the BPF programs with a compiler that has the BPF target and puts the object where the library
//! embeds it.
//!
//! `SEGD_BPF_OBJECT` names a ready object instead; `SEGD_BPF_RUSTC` another compiler than `/usr/bin/rustc`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "bpfel-unknown-none";

fn main() {
    if let Err(message) = build() {
        eprintln!("error: the BPF programs were not built: {message}");
        eprintln!("help: `cargo xtask setup` installs what is missing");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let var = |name| env::var_os(name).ok_or_else(|| format!("{name} is not set; run this by cargo"));
    let out = PathBuf::from(var("OUT_DIR")?);
    let root = Path::new(&var("CARGO_MANIFEST_DIR")?).join("..");
    for dir in ["segd-ebpf", "segd-common", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(dir).display());
    }
    for name in ["SEGD_BPF_OBJECT", "SEGD_BPF_RUSTC", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let object = match env::var_os("SEGD_BPF_OBJECT") {
        Some(ready) => PathBuf::from(ready),
        None => compile(&root, &out.join("bpf"), var("CARGO")?.as_ref())?,
    };
    let to = out.join("segd-ebpf.o");
    fs::copy(&object, &to)
        .map_err(|e| format!("cannot copy {} to {}: {e}", object.display(), to.display()))?;
    Ok(())
}

fn compile(root: &Path, target_dir: &Path, cargo: &Path) -> Result<PathBuf, String> {
    let rustc = env::var("SEGD_BPF_RUSTC").unwrap_or_else(|_| "/usr/bin/rustc".to_owned());
    let sysroot = Command::new(&rustc).args(["--print", "sysroot"]).output().map_err(|e| {
        format!("{rustc} does not run: {e} (Debian: apt-get install rustc-web; or set SEGD_BPF_RUSTC)")
    })?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    let has_core = Path::new(&sysroot).join("lib/rustlib").join(TARGET).join("lib").is_dir();
    let linker = Command::new("bpf-linker").arg("--version").output();
    linker.map_err(|e| format!("bpf-linker does not run: {e} (cargo install bpf-linker)"))?;

    let mut build = Command::new(cargo);
    build.current_dir(root.join("segd-ebpf"));
    build.args(["build", "--locked", "--profile", "bpf", "--bin", "segd-ebpf", "--target", TARGET]);
    // A target directory of its own: cargo holds the lock of the outer one.
    build.arg("--target-dir").arg(target_dir);
    for name in [
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ] {
        build.env_remove(name);
    }
    build.env("RUSTC", &rustc);
    build.env("AYA_BPF_TARGET_ARCH", env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default());
    if has_core {
        build.env("RUSTC_BOOTSTRAP", "aya_ebpf,segd_ebpf");
    } else {
        build.env("RUSTC_BOOTSTRAP", "1").args(["-Z", "build-std=core"]);
    }
    let status = build.status().map_err(|e| format!("cargo does not run: {e}"))?;
    if !status.success() {
        return Err(format!("`{build:?}` failed; its messages are above"));
    }
    Ok(target_dir.join(TARGET).join("bpf/segd-ebpf"))
}
