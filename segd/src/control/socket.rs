//! Makes the control socket: one agent a directory, nobody else's file touched, and never open to more people
//! than meant.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Group;
use tokio::net::UnixListener;

use super::peer::Access;

/// Name of the socket in the run directory.
pub const SOCKET_FILE: &str = "segd.sock";

/// The group whose members may use the socket.
pub const DEFAULT_GROUP: &str = "segd";

/// Held as long as the agent lives; the kernel frees it when the agent dies.
const LOCK_FILE: &str = "segd.lock";

/// A listening control socket. Removes its file when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    pub(super) access: Access,
    pub(super) file: SocketFile,
}

#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    _lock: Flock<File>,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent uses this run directory.
    #[error(
        "segd runs already{} with the run directory {}; stop it first, or give this one another --run-dir",
        pid.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default(),
        run_dir.display()
    )]
    Running {
        /// The other agent's, if it says.
        pid: Option<String>,
        /// The directory.
        run_dir: PathBuf,
    },
    /// Other users could replace the socket.
    #[error(
        "the run directory {} can be written by other users (mode {mode:o}): `chmod go-w` it, or choose another --run-dir",
        run_dir.display()
    )]
    Writable {
        /// The directory.
        run_dir: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something else has the socket's name.
    #[error("{} exists and is no socket; segd does not remove it: move it away", .0.display())]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    move |source| BindError::Io { action, path: path.to_owned(), source }
}

impl ControlSocket {
    /// Listens in `run_dir`, which is made if missing. Root may connect, and the members of `group` if there
    /// is such a group. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(run_dir: &Path, group: &str) -> Result<Self, BindError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(run_dir)
            .map_err(failed("make the run directory", run_dir))?;
        let mode = fs::metadata(run_dir).map_err(failed("look at", run_dir))?.mode() & 0o777;
        if mode & 0o022 != 0 {
            return Err(BindError::Writable { run_dir: run_dir.to_owned(), mode });
        }
        let lock = lock(run_dir)?;
        let path = run_dir.join(SOCKET_FILE);
        check_old(&path, run_dir)?;
        let group = Group::from_name(group).ok().flatten().map(|group| group.gid);

        // Made under another name and given its mode before it gets its own, which also replaces a dead
        // agent's.
        let hidden = run_dir.join(format!(".{SOCKET_FILE}"));
        match fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &hidden)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&hidden).map_err(failed("listen on", &hidden))?;
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(&hidden, Permissions::from_mode(mode))
            .map_err(failed("set the mode of", &hidden))?;
        if let Some(group) = group {
            chown(&hidden, None, Some(group.as_raw())).map_err(failed("set the group of", &hidden))?;
        }
        let metadata = fs::symlink_metadata(&hidden).map_err(failed("look at", &hidden))?;
        fs::rename(&hidden, &path).map_err(failed("rename the socket to", &path))?;
        let file = SocketFile { path, identity: (metadata.dev(), metadata.ino()), _lock: lock };
        Ok(Self { listener, access: Access { group }, file })
    }

    /// Where clients connect.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Whether anybody but root may connect.
    #[must_use]
    pub fn has_group(&self) -> bool {
        self.access.group.is_some()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "cannot remove {}", self.path.display());
        }
    }
}

fn lock(run_dir: &Path) -> Result<Flock<File>, BindError> {
    let path = run_dir.join(LOCK_FILE);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(failed("open", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let pid = std::process::id();
            lock.set_len(0).and_then(|()| writeln!(lock, "{pid}")).map_err(failed("write", &path))?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim().parse::<u32>().ok().map(|pid| pid.to_string());
            Err(BindError::Running { pid, run_dir: run_dir.to_owned() })
        }
        Err((_, error)) => Err(failed("lock", &path)(error.into())),
    }
}

fn check_old(path: &Path, run_dir: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at", path)(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(BindError::NotASocket(path.to_owned())),
        // Somebody listens who does not hold the lock.
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            Err(BindError::Running { pid: None, run_dir: run_dir.to_owned() })
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_agent_a_directory_and_a_dead_ones_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run/segd");
        let first = ControlSocket::bind(&run_dir, "no-such-group").unwrap();
        assert!(!first.has_group());
        assert_eq!(fs::metadata(first.path()).unwrap().mode() & 0o777, 0o600);
        let error = ControlSocket::bind(&run_dir, DEFAULT_GROUP).unwrap_err().to_string();
        let want = format!(
            "segd runs already (pid {}) with the run directory {}; stop it first, or give this one another --run-dir",
            std::process::id(),
            run_dir.display()
        );
        assert_eq!(error, want);

        // As after SIGKILL: the socket stays, nobody listens, the lock is free.
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists(), "removed at the end");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = ControlSocket::bind(&run_dir, "daemon").unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let daemon = Group::from_name("daemon").unwrap().unwrap().gid.as_raw();
        assert_eq!((metadata.mode() & 0o777, metadata.uid(), metadata.gid()), (0o660, 0, daemon));
        assert!(second.has_group());
    }

    #[tokio::test]
    async fn what_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET_FILE);
        fs::write(&path, "precious").unwrap();
        let error = ControlSocket::bind(dir.path(), DEFAULT_GROUP).unwrap_err();
        assert!(matches!(error, BindError::NotASocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

        fs::remove_file(&path).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = ControlSocket::bind(dir.path(), DEFAULT_GROUP).unwrap_err();
        assert!(matches!(error, BindError::Running { pid: None, .. }), "{error}");
        drop(listener);

        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let error = ControlSocket::bind(dir.path(), DEFAULT_GROUP).unwrap_err().to_string();
        assert!(error.contains("(mode 777)") && error.contains("chmod go-w"), "{error}");

        let error = ControlSocket::bind(Path::new("/proc/segd"), DEFAULT_GROUP).unwrap_err().to_string();
        assert!(error.starts_with("cannot make the run directory /proc/segd: "), "{error}");
    }
}
