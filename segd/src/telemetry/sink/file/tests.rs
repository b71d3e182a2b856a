use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::time::Instant;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use super::*;
use crate::telemetry::record::FlowRecord;
use crate::telemetry::record::tests::{denied, record};

fn options(path: PathBuf) -> FileOptions {
    FileOptions { path, size: 1 << 20, age: None, keep: 3 }
}

fn rotated(options: FileOptions) -> RotatedFile {
    RotatedFile { options, open: None, rotation_failed: false }
}

fn put(file: &mut RotatedFile, lines: &str) {
    let (written, result) = file.write_lines(lines.as_bytes());
    result.unwrap();
    assert_eq!(written, lines.len());
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn by_size_keeping_some() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a/flows.jsonl");
    let mut file = rotated(FileOptions { size: 10, keep: 2, ..options(path.clone()) });
    for n in 0..5 {
        put(&mut file, &format!("line {n}\n"));
    }
    let parent = path.parent().unwrap();
    assert_eq!(names(parent), ["flows.jsonl", "flows.jsonl.1", "flows.jsonl.2"]);
    for (name, text) in
        [("flows.jsonl", "line 4\n"), ("flows.jsonl.1", "line 3\n"), ("flows.jsonl.2", "line 2\n")]
    {
        assert_eq!(fs::read_to_string(parent.join(name)).unwrap(), text);
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::metadata(parent).unwrap().permissions().mode() & 0o777, 0o750);

    // With fewer to keep, the others go.
    let mut file = rotated(FileOptions { size: 10, keep: 0, ..options(path.clone()) });
    put(&mut file, "line 5\n");
    assert_eq!(names(parent), ["flows.jsonl"]);
    assert_eq!(fs::read_to_string(path).unwrap(), "line 5\n");
}

#[test]
fn by_age_across_restarts() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("flows.jsonl");
    let aged = FileOptions { age: Some(Duration::from_millis(300)), ..options(path) };
    put(&mut rotated(aged.clone()), "old\n");
    put(&mut rotated(aged.clone()), "young\n");
    assert_eq!(names(dir.path()), ["flows.jsonl"]);
    std::thread::sleep(Duration::from_millis(310));
    put(&mut rotated(aged), "new\n");
    assert_eq!(names(dir.path()), ["flows.jsonl", "flows.jsonl.1"]);
    assert_eq!(fs::read_to_string(dir.path().join("flows.jsonl.1")).unwrap(), "old\nyoung\n");
}

#[test]
fn a_file_taken_away_is_made_anew_and_a_torn_line_ended() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("flows.jsonl");
    fs::write(&path, "torn").unwrap();
    let mut file = rotated(options(path.clone()));
    put(&mut file, "one\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "torn\none\n");
    fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    put(&mut file, "two\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    fs::remove_file(&path).unwrap();
    put(&mut file, "three\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
}

#[test]
fn bad_paths_are_refused() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("real"), "").unwrap();
    symlink(at("real"), at("link")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, want) in [
        (PathBuf::from("flows.jsonl"), "absolute path"),
        (at("x/../flows.jsonl"), "without `..`"),
        (at("x/"), "absolute path to a file"),
        ("/".into(), "absolute path to a file"),
        (at("link"), "symbolic link"),
        (at("pipe"), "not a regular file"),
        (dir.path().to_owned(), "directory"),
        (at("real/flows.jsonl"), "File exists"),
        ("/proc/flows.jsonl".into(), "No such file"),
    ] {
        let error = start(Options::named("file"), options(path.clone())).unwrap_err();
        assert!(error.to_string().contains(want), "{}: {error}", path.display());
    }
}

/// A file system of 64 KiB.
struct Tiny(TempDir);

impl Tiny {
    fn new() -> Option<Self> {
        let dir = TempDir::new().unwrap();
        match mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64k")) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("SKIPPED: cannot mount a tmpfs: {error}");
                None
            }
        }
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_loses_countably_leaves_whole_lines_and_recovers() {
    let Some(tiny) = Tiny::new() else { return };
    let path = tiny.0.path().join("flows.jsonl");
    let ballast = tiny.0.path().join("ballast");
    let room = Options { queue: 100, ..Options::named("file") };
    let sink = start(room, options(path.clone())).unwrap();
    let denied = Arc::new(record(&denied()));
    let until = |what: &str, done: &mut dyn FnMut() -> bool| {
        let end = Instant::now() + Duration::from_secs(15);
        while !done() {
            assert!(Instant::now() < end, "{what}: {:?}", sink.status());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    fs::write(&ballast, vec![0; 40 << 10]).unwrap();
    let mut sent = 0;
    let began = Instant::now();
    until("the disk fills", &mut || {
        for _ in 0..50 {
            sink.offer(std::slice::from_ref(&denied));
            sent += 1;
        }
        sink.status().lost_queue > 0
    });
    assert!(began.elapsed() < Duration::from_secs(10));
    let status = sink.status();
    assert!(!status.up, "{status:?}");
    assert!(status.error.unwrap().contains("No space left"));
    let full = fs::read_to_string(&path).unwrap();
    assert!(full.ends_with('\n'), "no torn line");

    // Room again: 256 KiB wait to be written.
    mount(None::<&str>, tiny.0.path(), None::<&str>, MsFlags::MS_REMOUNT, Some("size=1m")).unwrap();
    until("recovers", &mut || sink.status().up);
    assert!(sink.close(Duration::from_secs(5)));
    let text = fs::read_to_string(&path).unwrap();
    for line in text.lines() {
        assert_eq!(serde_json::from_str::<FlowRecord>(line).unwrap(), *denied);
    }
    let status = sink.status();
    assert_eq!(text.lines().count() as u64 + status.lost_write + status.lost_queue, sent);
}

#[test]
fn a_disk_that_is_full_at_the_start_is_no_error() {
    let Some(tiny) = Tiny::new() else { return };
    fs::write(tiny.0.path().join("ballast"), vec![0; 128 << 10]).unwrap_err();
    let path = tiny.0.path().join("flows.jsonl");
    let sink = start(Options::named("file"), options(path.clone())).unwrap();
    sink.offer(&[Arc::new(record(&denied()))]);
    let end = Instant::now() + Duration::from_secs(5);
    while sink.status().up {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::remove_file(tiny.0.path().join("ballast")).unwrap();
    while !sink.status().up {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(sink.close(Duration::from_secs(5)));
    assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 1);
}
