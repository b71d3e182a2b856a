//! The demonstration runs to its end and shows what it promises; each of its steps checks itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;
use segd_tests::skip;

/// What the demonstration needs of Debian's packages, besides PostgreSQL's server.
const PROGRAMS: [&str; 5] =
    ["/usr/bin/pgbench", "/usr/bin/redis-server", "/usr/bin/redis-cli", "/usr/sbin/nginx", "/usr/bin/curl"];

fn missing() -> Option<&'static str> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    if !versions.map(|version| version.path().join("bin/initdb")).any(|initdb| initdb.exists()) {
        return Some("PostgreSQL");
    }
    PROGRAMS.into_iter().find(|program| !Path::new(program).exists())
}

#[test]
fn tells_its_story_to_the_end() {
    if !geteuid().is_root() {
        return skip("the demo needs root");
    }
    if let Some(missing) = missing() {
        return skip(&format!("{missing} is not installed: cargo xtask setup"));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_segd-demo")).args(["--pace", "0"]).output().unwrap();
    let (told, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{told}\n{complaint}", output.status);
    let mut rest = &*told;
    for wanted in [
        "1. A flat network",
        "partner       ok                      ok                      ok",
        "audited  in   partner -> orders",
        "1|pallet|",
        "failed: timeout expired",
        "denied   in   partner -> orders",
        "failed: Operation not permitted",
        "partner       EPERM                   EPERM                   ok",
        "denied   out  partner -> orders",
        "8. The way back",
        "1|pallet|",
        "nothing is left of them.",
    ] {
        let Some(at) = rest.find(wanted) else { panic!("{wanted:?} is not where it should be in:\n{told}") };
        rest = &rest[at + wanted.len()..];
    }
}
