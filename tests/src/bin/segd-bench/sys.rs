//! The bpf(2) calls that are needed and aya does not offer. Layouts are those of `union bpf_attr` and
//! `struct bpf_prog_info` in include/uapi/linux/bpf.h.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const LINK_CREATE: libc::c_long = 28;
const LINK_DETACH: libc::c_long = 34;

/// Calls bpf(2) with a zero-padded attribute.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a live, initialised prefix of `union bpf_attr` of the size given; the kernel takes the
    // rest as zero. The pointers inside are to buffers that the callers keep alive.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn bpf_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just given this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: &impl AsRawFd) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

/// Opens a pinned object.
pub(crate) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = [path.as_ptr() as u64, 0];
    bpf_fd(OBJ_GET, &mut attr)
}

/// Opens a program by its id.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    bpf_fd(PROG_GET_FD_BY_ID, &mut [id, 0, 0])
}

/// Opens a map by its id.
pub(crate) fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    bpf_fd(MAP_GET_FD_BY_ID, &mut [id, 0, 0])
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// The id of the program in a link.
pub(crate) fn program_of(link: &OwnedFd) -> io::Result<u32> {
    // Type, id, program id, and what the kind of link adds.
    let mut info = [0_u32; 16];
    let mut attr = InfoAttr { fd: number(link), length: 64, info: info.as_mut_ptr() as u64 };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info[2])
}

/// What the kernel says of a program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProgramFacts {
    /// Bytes of machine code.
    pub(crate) jitted: u32,
    /// Bytes of BPF instructions after the verifier's changes.
    pub(crate) translated: u32,
    /// Instructions that the verifier walked.
    pub(crate) verified: u32,
    /// Nanoseconds of all runs while statistics were on.
    pub(crate) run_ns: u64,
    /// Number of those runs.
    pub(crate) runs: u64,
}

/// Reads what the kernel says of a program.
pub(crate) fn program_facts(program: &OwnedFd) -> io::Result<ProgramFacts> {
    let mut info = [0_u64; 29];
    let mut attr = InfoAttr { fd: number(program), length: 232, info: info.as_mut_ptr() as u64 };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    let [low, high] = halves(info[2]);
    let [verified, _] = halves(info[27]);
    Ok(ProgramFacts { jitted: low, translated: high, verified, run_ns: info[24], runs: info[25] })
}

/// The two 32-bit fields that lie at the place of a 64-bit one.
fn halves(word: u64) -> [u32; 2] {
    let bytes = word.to_ne_bytes();
    [0, 4].map(|at| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
}

/// Attaches a program to a cgroup until the descriptor is closed.
pub(crate) fn link_create(program: &OwnedFd, cgroup: &impl AsRawFd, attach_type: u32) -> io::Result<OwnedFd> {
    bpf_fd(LINK_CREATE, &mut [number(program), number(cgroup), attach_type, 0])
}

/// Takes a link off its cgroup, though it is still held or pinned.
pub(crate) fn link_detach(link: &OwnedFd) -> io::Result<()> {
    bpf(LINK_DETACH, &mut [number(link)]).map(drop)
}

/// The value of a map with 32-bit keys and values; `None` where there is none.
pub(crate) fn lookup(map: &OwnedFd, key: u32) -> io::Result<Option<u32>> {
    let mut value = 0_u32;
    let mut attr = [u64::from(number(map)), &raw const key as u64, &raw mut value as u64, 0];
    match bpf(MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The largest value that [`lookup_bytes`] can take.
pub(crate) const LARGEST: usize = 128;

/// The value of a map with 32-bit keys, with zeroes behind it; `None` where there is none.
pub(crate) fn lookup_bytes(map: &OwnedFd, key: u32) -> io::Result<Option<[u8; LARGEST]>> {
    let mut value = [0; LARGEST];
    let mut attr = [u64::from(number(map)), &raw const key as u64, value.as_mut_ptr() as u64, 0];
    match bpf(MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Inserts all entries with one call.
pub(crate) fn update_batch<K, V>(map: &impl AsRawFd, keys: &[K], values: &[V]) -> io::Result<()> {
    let count = u32::try_from(keys.len().min(values.len())).map_err(io::Error::other)?;
    let place = u64::from(count) | u64::from(number(map)) << 32;
    let mut attr = [0, 0, keys.as_ptr() as u64, values.as_ptr() as u64, place, 0, 0];
    bpf(MAP_UPDATE_BATCH, &mut attr).map(drop)
}

/// Runs a cgroup_skb program over a packet with its Ethernet header `repeat` times, as if it came by or left by the
/// device `ifindex` of the caller's network namespace. Gives the verdict and the mean time in nanoseconds.
pub(crate) fn test_run(
    program: &OwnedFd,
    packet: &[u8],
    ifindex: u32,
    repeat: u32,
) -> io::Result<(u32, u32)> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        program: u32,
        verdict: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
        flags: u32,
        cpu: u32,
        batch: u32,
        pad: u32,
    }
    // struct __sk_buff; its field `ifindex` is the eleventh.
    let mut context = [0_u32; 48];
    context[10] = ifindex;
    let mut attr = Attr {
        program: number(program),
        data_size_in: u32::try_from(packet.len()).map_err(io::Error::other)?,
        data_in: packet.as_ptr() as u64,
        repeat,
        ctx_size_in: 192,
        ctx_in: context.as_ptr() as u64,
        ..Attr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok((attr.verdict, attr.duration))
}
