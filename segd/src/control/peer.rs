//! Who may use the control socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::unistd::Gid;
use tokio::net::UnixStream;

use super::api::Caller;

/// Root, and the members of this group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) group: Option<Gid>,
}

/// The peer may not use the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forbidden {
    pub(super) uid: u32,
}

impl Access {
    /// Asks the kernel who connected. Not the user database: that may be slow, and would also let in a user
    /// whose running sessions are not in the group yet or any more.
    pub(super) fn check(self, stream: &UnixStream) -> Result<Caller, Forbidden> {
        let nobody = Forbidden { uid: u32::MAX };
        let credentials = stream.peer_cred().map_err(|_| nobody)?;
        let uid = credentials.uid();
        let is_member = || {
            let group = self.group?.as_raw();
            let groups = peer_groups(stream.as_fd()).ok()?;
            Some(credentials.gid() == group || groups.contains(&group))
        };
        if uid == 0 || is_member() == Some(true) {
            Ok(Caller { uid, pid: credentials.pid() })
        } else {
            Err(Forbidden { uid })
        }
    }
}

/// `SO_PEERGROUPS` (Linux 4.13): the supplementary groups that the peer had when it connected.
fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
    const WIDTH: usize = size_of::<libc::gid_t>();
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let mut bytes = libc::socklen_t::try_from(groups.len() * WIDTH).map_err(io::Error::other)?;
        // SAFETY: the buffer is valid for writes of `bytes` bytes and any bytes are valid group ids; the
        // kernel writes no more than `bytes` and sets it to what it wrote or, with ERANGE, to what it needs.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let length = bytes as usize / WIDTH;
        if result == 0 {
            groups.truncate(length);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || length <= groups.len() {
            return Err(error);
        }
        groups.resize(length, 0);
    }
}
