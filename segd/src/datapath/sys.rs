//! The bpf(2) calls that aya does not offer: link takeover, link and program queries, batched map updates, an
//! iterator over a map.
//! Layouts are those of `union bpf_attr` in include/uapi/linux/bpf.h.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const MAP_DELETE_ELEM: libc::c_long = 3;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const ITER_CREATE: libc::c_long = 33;

/// BPF_LINK_TYPE_CGROUP.
const LINK_TYPE_CGROUP: u32 = 3;
/// BPF_LINK_TYPE_PERF_EVENT.
const LINK_TYPE_PERF_EVENT: u32 = 7;

/// Calls bpf(2) with a zero-padded attribute.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a live, initialised prefix of `union bpf_attr` of the size given; the kernel takes the
    // rest as zero. The pointers inside are to buffers that the callers keep alive.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A descriptor that a call of bpf(2) has just given.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: by the caller, the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a pinned object.
pub(crate) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    owned(bpf(OBJ_GET, &mut attr)?)
}

/// What the kernel says of a cgroup link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CgroupLink {
    pub(crate) id: u32,
    pub(crate) program: u32,
    /// Inode of the cgroup directory; 0: the cgroup is gone or the link was detached.
    pub(crate) cgroup: u64,
    /// Number of `enum bpf_attach_type`.
    pub(crate) attach_type: u32,
}

/// Reads a cgroup link; `None` for a link of another kind.
pub(crate) fn cgroup_link(link: BorrowedFd<'_>) -> io::Result<Option<CgroupLink>> {
    let LinkInfo { kind, id, program, cgroup, attach_type, .. } = link_info(link)?;
    Ok((kind == LINK_TYPE_CGROUP).then_some(CgroupLink { id, program, cgroup, attach_type }))
}

/// Ids of a tracepoint's link and of its program; `None` for a link of another kind.
pub(crate) fn perf_link(link: BorrowedFd<'_>) -> io::Result<Option<(u32, u32)>> {
    let LinkInfo { kind, id, program, .. } = link_info(link)?;
    Ok((kind == LINK_TYPE_PERF_EVENT).then_some((id, program)))
}

/// `struct bpf_link_info`, with the fields of a cgroup link.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    cgroup: u64,
    attach_type: u32,
    rest: [u32; 9],
}

fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = LinkInfo::default();
    let mut attr = Attr {
        bpf_fd: link.as_raw_fd().unsigned_abs(),
        info_len: u32::try_from(size_of::<LinkInfo>()).unwrap_or(0),
        info: (&raw mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Puts another program into a link. No packet is judged by neither.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attr = Attr {
        link_fd: link.as_raw_fd().unsigned_abs(),
        new_prog_fd: program.as_raw_fd().unsigned_abs(),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Ids of the programs attached to a cgroup itself, for one `enum bpf_attach_type`.
pub(crate) fn programs_at(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Attr {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        pad: u32,
    }
    let mut ids = vec![0_u32; 64];
    let mut attr = Attr {
        target_fd: cgroup.as_raw_fd().unsigned_abs(),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        pad: 0,
    };
    bpf(PROG_QUERY, &mut attr)?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// Removes an entry. `K` must have the map's key size.
pub(crate) fn map_delete<K: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        map_fd: u32,
        pad: u32,
        key: u64,
    }
    let mut attr =
        Attr { map_fd: map.as_raw_fd().unsigned_abs(), pad: 0, key: std::ptr::from_ref(key) as u64 };
    bpf(MAP_DELETE_ELEM, &mut attr).map(drop)
}

/// Inserts many entries. `K` and `V` must have the map's key and value size.
pub(crate) fn map_update_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }
    let len = keys.len().min(values.len());
    let mut done = 0;
    while done < len {
        let count = u32::try_from(len - done).unwrap_or(u32::MAX);
        let mut attr = Attr {
            in_batch: 0,
            out_batch: 0,
            keys: keys[done..].as_ptr() as u64,
            values: values[done..].as_ptr() as u64,
            count,
            map_fd: map.as_raw_fd().unsigned_abs(),
            elem_flags: 0,
            flags: 0,
        };
        let result = bpf(MAP_UPDATE_BATCH, &mut attr);
        done += attr.count as usize;
        match result {
            Ok(_) if attr.count > 0 => {}
            Ok(_) => return Err(io::Error::other("the kernel took no entry of a batch")),
            // A signal came in between; the kernel says how many entries it took.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Runs an iterator's program over every element of a map and returns all that it wrote. A call of read(2), in which the
/// kernel lets nobody else run, ends when the program has written as much as `piece`, in bytes, or more.
pub(crate) fn iterate(program: BorrowedFd<'_>, map: BorrowedFd<'_>, piece: usize) -> io::Result<Vec<u8>> {
    #[repr(C)]
    struct CreateLink {
        prog_fd: u32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
        iter_info: u64,
        iter_info_len: u32,
        pad: u32,
    }
    #[repr(C)]
    struct CreateIter {
        link_fd: u32,
        flags: u32,
    }
    /// BPF_TRACE_ITER of `enum bpf_attach_type`.
    const TRACE_ITER: u32 = 28;
    // `union bpf_iter_link_info`, of which a map's descriptor comes first.
    let over: u32 = map.as_raw_fd().unsigned_abs();
    let mut attr = CreateLink {
        prog_fd: program.as_raw_fd().unsigned_abs(),
        target_fd: 0,
        attach_type: TRACE_ITER,
        flags: 0,
        iter_info: (&raw const over) as u64,
        iter_info_len: 4,
        pad: 0,
    };
    let link = owned(bpf(LINK_CREATE, &mut attr)?)?;
    let mut attr = CreateIter { link_fd: link.as_raw_fd().unsigned_abs(), flags: 0 };
    let mut iterator = File::from(owned(bpf(ITER_CREATE, &mut attr)?)?);
    let (mut written, mut buffer) = (Vec::new(), vec![0; piece]);
    loop {
        match iterator.read(&mut buffer) {
            Ok(0) => return Ok(written),
            Ok(length) => written.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
