//! What can still be learnt of the process that made a socket: its program and its systemd unit.
//!
//! Best effort: the process may be gone or be another one by now. Reads a few small files of /proc, which
//! need no lock that a hostile process could hold, and remembers a bounded number of answers.

use std::fs;
use std::hash::Hash;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use segd_common::socket::Owner;

use super::text::printable;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Path of the program.
    pub exe: Option<Arc<str>>,
    /// The systemd unit.
    pub unit: Option<Arc<str>>,
}

/// Finds the program and unit of a socket's maker. Must answer at once.
pub trait ProcessLookup: Send + Sync {
    /// What is known of `owner` now.
    fn look_up(&self, owner: &Owner) -> ProcessInfo;
}

/// Knows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProcesses;

impl ProcessLookup for NoProcesses {
    fn look_up(&self, _: &Owner) -> ProcessInfo {
        ProcessInfo::default()
    }
}

/// Answers to remember, of programs and of units each.
const REMEMBERED: usize = 4096;

/// A process id is not given again so soon; until then an answer needs no look at its start time.
const SURE_FOR: Duration = Duration::from_secs(1);

/// Looks in /proc.
#[derive(Debug)]
pub struct ProcFs {
    proc: PathBuf,
    cgroups: PathBuf,
    programs: Mutex<Recent<u32, Program>>,
    units: Mutex<Recent<u64, Option<Arc<str>>>>,
}

#[derive(Clone, Debug)]
struct Program {
    start: u64,
    seen: Instant,
    exe: Option<Arc<str>>,
}

impl ProcFs {
    /// `cgroups` is where the root of the cgroup2 tree is mounted.
    #[must_use]
    pub fn new(cgroups: PathBuf) -> Self {
        Self::at("/proc".into(), cgroups)
    }

    fn at(proc: PathBuf, cgroups: PathBuf) -> Self {
        Self {
            proc,
            cgroups,
            programs: Mutex::new(Recent::new(REMEMBERED)),
            units: Mutex::new(Recent::new(REMEMBERED)),
        }
    }

    fn exe(&self, pid: u32) -> Option<Arc<str>> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = programs.get(&pid);
        if let Some(program) = &known
            && program.seen.elapsed() < SURE_FOR
        {
            return program.exe.clone();
        }
        let Some(start) = self.start_time(pid) else {
            // It has ended; a connection often outlives its process by a moment.
            return known?.exe;
        };
        let exe = match known {
            Some(program) if program.start == start && program.exe.is_some() => program.exe,
            _ => fs::read_link(self.proc.join(format!("{pid}/exe")))
                .ok()
                .map(|path| printable(&path.to_string_lossy()).into()),
        };
        programs.insert(pid, Program { start, seen: Instant::now(), exe: exe.clone() });
        exe
    }

    fn start_time(&self, pid: u32) -> Option<u64> {
        start_time(&fs::read_to_string(self.proc.join(format!("{pid}/stat"))).ok()?)
    }

    fn unit(&self, owner: &Owner) -> Option<Arc<str>> {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unit) = units.get(&owner.cgroup) {
            return unit;
        }
        let text = fs::read_to_string(self.proc.join(format!("{}/cgroup", owner.pid))).ok()?;
        let path = cgroup2_path(&text)?;
        // The process may have moved since it made the socket.
        let here = fs::metadata(self.cgroups.join(path.trim_start_matches('/'))).ok()?;
        if here.ino() != owner.cgroup {
            return None;
        }
        let unit = unit_of(path).map(|unit| Arc::from(printable(unit)));
        units.insert(owner.cgroup, unit.clone());
        unit
    }
}

impl ProcessLookup for ProcFs {
    fn look_up(&self, owner: &Owner) -> ProcessInfo {
        if owner.pid == 0 {
            return ProcessInfo::default();
        }
        ProcessInfo { exe: self.exe(owner.pid), unit: self.unit(owner) }
    }
}

/// Field 22 of /proc/PID/stat, counted from the last `)` because the name before it may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn cgroup2_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The deepest part of a cgroup path that is a unit with processes of its own, else the deepest slice.
fn unit_of(path: &str) -> Option<&str> {
    const UNITS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
    let deepest = |ends: &[&str]| path.rsplit('/').find(|part| ends.iter().any(|end| part.ends_with(end)));
    deepest(&UNITS).or_else(|| deepest(&[".slice"]))
}

/// A map that forgets what was not asked for lately: when the younger half is full, the older half goes.
#[derive(Debug)]
struct Recent<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Copy + Eq + Hash, V: Clone> Recent<K, V> {
    fn new(limit: usize) -> Self {
        Self { half: limit / 2, young: HashMap::default(), old: HashMap::default() }
    }

    fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.insert(*key, value.clone());
        Some(value)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_by_cgroup_path() {
        for (path, unit) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service/x", Some("foo.service")),
            ("/system.slice/docker-abc.scope/inner", Some("docker-abc.scope")),
            ("/init.scope", Some("init.scope")),
            ("/wms.slice/agents", Some("wms.slice")),
            ("/agents/inventory", None),
            ("/", None),
        ] {
            assert_eq!(unit_of(path), unit, "{path}");
        }
        assert_eq!(cgroup2_path("12:cpu:/a\n0::/b.service\n"), Some("/b.service"));
    }

    #[test]
    fn a_name_cannot_forge_the_start_time() {
        let fields = (3..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_time(&format!("12 (a) 1 2 3 (b) {fields}")), Some(22));
        assert_eq!(start_time("garbage"), None);
    }

    #[test]
    fn memory_is_bounded_and_keeps_what_is_used() {
        let mut recent = Recent::new(8);
        for n in 0..1000 {
            recent.insert(n, n);
            recent.get(&0);
            assert!(recent.young.len() + recent.old.len() <= 8);
        }
        assert_eq!(recent.get(&0), Some(0));
        assert_eq!(recent.get(&10), None);
    }

    #[test]
    fn this_process() {
        let lookup = ProcFs::new("/sys/fs/cgroup".into());
        let owner = Owner { pid: std::process::id(), cgroup: 1, ..Owner::default() };
        let me = std::env::current_exe().unwrap();
        for _ in 0..2 {
            assert_eq!(lookup.look_up(&owner).exe.as_deref(), me.to_str());
        }
        assert_eq!(lookup.look_up(&Owner { pid: u32::MAX, ..owner }), ProcessInfo::default());
    }

    #[test]
    fn a_reused_pid_is_another_program_and_a_moved_process_has_no_unit() {
        let dir = tempfile::tempdir().unwrap();
        let (proc, cgroups) = (dir.path().join("proc"), dir.path().join("cg"));
        fs::create_dir_all(proc.join("7")).unwrap();
        fs::create_dir_all(cgroups.join("a.service")).unwrap();
        let write = |start: u64, exe: &str| {
            let zeros = "0 ".repeat(19);
            fs::write(proc.join("7/stat"), format!("7 (x) {zeros}{start} 0")).unwrap();
            let _ = fs::remove_file(proc.join("7/exe"));
            std::os::unix::fs::symlink(exe, proc.join("7/exe")).unwrap();
        };
        fs::write(proc.join("7/cgroup"), "0::/a.service\n").unwrap();
        let lookup = ProcFs::at(proc.clone(), cgroups.clone());
        let owner = Owner { pid: 7, cgroup: 999, ..Owner::default() };
        write(1, "/bin/one");
        assert_eq!(lookup.look_up(&owner), ProcessInfo { exe: Some("/bin/one".into()), unit: None });
        write(2, "/bin/two");
        assert_eq!(lookup.exe(7).as_deref(), Some("/bin/one"), "remembered for a second");
        std::thread::sleep(SURE_FOR);
        assert_eq!(lookup.exe(7).as_deref(), Some("/bin/two"));
        fs::remove_file(proc.join("7/stat")).unwrap();
        std::thread::sleep(SURE_FOR);
        assert_eq!(lookup.exe(7).as_deref(), Some("/bin/two"), "after its end");
        let ino = fs::metadata(cgroups.join("a.service")).unwrap().ino();
        let unit = lookup.look_up(&Owner { cgroup: ino, ..owner }).unit;
        assert_eq!(unit.as_deref(), Some("a.service"));
    }
}
