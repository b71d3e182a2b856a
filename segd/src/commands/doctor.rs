//! `segd doctor`: what this host offers segd, tried one by one, and what segd does not see.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::output::{self, Output};
use super::{NO, Outcome};
use crate::datapath::probe;

/// Tell what this host can do for segd, and what is in the way
///
/// Changes nothing. Exit code 1 if the agent could not run here.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// The cgroup whose tree is judged; default: the root of the cgroup2 mount
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Where programs and tables are pinned
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_BPFFS)]
    bpffs: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Finding {
    Ok,
    Note,
    Fail,
}

#[derive(Debug, Serialize)]
struct Row {
    check: &'static str,
    finding: Finding,
    detail: String,
}

impl Doctor {
    pub(super) fn run(self) -> Outcome {
        let rows = examine(self.cgroup.as_deref(), &self.bpffs);
        let broken = rows.iter().any(|r| r.finding == Finding::Fail);
        if self.output.is_json() {
            output::json(&rows)?;
        } else {
            for row in &rows {
                let mark = match row.finding {
                    Finding::Ok => "ok  ",
                    Finding::Note => "note",
                    Finding::Fail => "FAIL",
                };
                output::print(&format!("{mark}  {:<14}{}", row.check, row.detail))?;
            }
        }
        Ok(if broken { NO } else { 0 })
    }
}

fn examine(cgroup: Option<&Path>, bpffs: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |check, finding, detail: String| rows.push(Row { check, finding, detail });
    let mut tried = |check, result: Result<String, crate::datapath::Error>| match result {
        Ok(detail) => row(check, Finding::Ok, detail),
        Err(error) => row(check, Finding::Fail, error.to_string()),
    };
    tried("kernel", probe::kernel());
    tried("capabilities", probe::capabilities());
    tried("cgroup2", probe::cgroup(cgroup));
    tried("bpffs", probe::bpffs(bpffs));
    tried("programs", probe::programs());
    match probe::tracepoints() {
        Ok(detail) => row("workloads", Finding::Ok, detail),
        Err(error) => row("workloads", Finding::Note, error.to_string()),
    }
    for (check, detail) in probe::neighbours(cgroup, bpffs) {
        row(check, Finding::Note, detail);
    }
    for socket in packet_sockets() {
        row("packet socket", Finding::Note, socket);
    }
    row(
        "not judged",
        Finding::Note,
        "packet sockets (AF_PACKET), AF_XDP, forwarded traffic, and the kernel's own resets and echo replies of \
         other cgroups: they pass by cgroup hooks"
            .to_owned(),
    );
    rows
}

/// Open packet sockets of this network namespace (packet(7)), with who has them.
fn packet_sockets() -> Vec<String> {
    let text = fs::read_to_string("/proc/net/packet").unwrap_or_default();
    let inodes: Vec<&str> = text.lines().skip(1).filter_map(|l| l.split_whitespace().last()).collect();
    inodes
        .iter()
        .map(|inode| match holder(inode) {
            Some(who) => format!("{who} reads and writes packets past every cgroup hook"),
            None => format!("socket inode {inode}: its process was not found"),
        })
        .collect()
}

fn holder(inode: &str) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        if files.flatten().any(|f| fs::read_link(f.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))
        {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let comm: String = comm.trim().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            return Some(format!("pid {} ({comm})", process.file_name().to_string_lossy()));
        }
    }
    None
}
