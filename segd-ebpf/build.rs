//! Asks the linker for type information when the target is BPF.

fn main() {
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        println!("cargo::rustc-link-arg-bins=--btf");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
