//! A packet's bytes: the few of a plain header straight from the packet, any others by the kernel's helper.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use segd_common::addr::Addr;
use segd_common::packet::{Bytes, Packet};
use segd_common::traffic::protocol;

/// A packet's bytes.
pub(crate) struct Skb(pub(crate) *const __sk_buff);

impl Bytes for Skb {
    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut to = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the buffer has the length that is passed.
        let failed = unsafe { bpf_skb_load_bytes(self.0.cast(), at, to.as_mut_ptr().cast(), N as u32) };
        // SAFETY: the helper fills it, with zeros if it fails.
        (failed == 0).then_some(unsafe { to.assume_init() })
    }
}

/// Whether the TCP header follows the IP header at once: then the packet goes where the socket says. With IP
/// options or extension headers the address on the wire may be another (source routing).
#[inline(always)]
pub(crate) fn is_plain_tcp(skb: *const __sk_buff) -> bool {
    // SAFETY: the two ends of the packet's linear part, and reads below its end.
    unsafe {
        let data = (*skb).data as usize;
        let end = (*skb).data_end as usize;
        if data + 20 > end {
            return false;
        }
        match *(data as *const u8) {
            0x45 => *((data + 9) as *const u8) == protocol::TCP,
            version if version >> 4 == 6 => *((data + 6) as *const u8) == protocol::TCP,
            _ => false,
        }
    }
}

/// Length of an IPv4 header without options (RFC 791, 3.1).
const V4: usize = 20;
/// Length of an IPv6 header (RFC 8200, 3).
const V6: usize = 40;

/// TCP or UDP behind a plain IP header, no fragment, as [`Packet::parse`] would read it; `None` of anything else and where
/// the headers are not in the packet's linear part.
#[inline(always)]
pub(crate) fn plain(skb: *const __sk_buff) -> Option<Packet> {
    // SAFETY: the two ends of the packet's linear part, and reads below its end. The kernel aligns IP headers to words
    // where reads must be aligned (NET_IP_ALIGN).
    unsafe {
        let data = (*skb).data as usize;
        let end = (*skb).data_end as usize;
        if data + V4 + 4 > end {
            return None;
        }
        let word = |at: usize| *((data + at) as *const u32);
        let half = |at: usize| u16::from_be(*((data + at) as *const u16));
        let byte = |at: usize| *((data + at) as *const u8);
        let first = byte(0);
        if first == 0x45 {
            let number = byte(9);
            // More fragments, or an offset.
            if half(6) & 0x3fff != 0 {
                return None;
            }
            let tcp_flags = match number {
                protocol::UDP => 0,
                protocol::TCP if data + V4 + 14 <= end => byte(V4 + 13),
                _ => return None,
            };
            return Some(Packet {
                src: Addr::v4(word(12).to_ne_bytes()),
                dst: Addr::v4(word(16).to_ne_bytes()),
                protocol: number,
                src_port: half(V4),
                dst_port: half(V4 + 2),
                tcp_flags,
            });
        }
        if first >> 4 != 6 || data + V6 + 4 > end {
            return None;
        }
        let number = byte(6);
        let tcp_flags = match number {
            protocol::UDP => 0,
            protocol::TCP if data + V6 + 14 <= end => byte(V6 + 13),
            _ => return None,
        };
        Some(Packet {
            src: Addr::from_words([word(8), word(12), word(16), word(20)]),
            dst: Addr::from_words([word(24), word(28), word(32), word(36)]),
            protocol: number,
            src_port: half(V6),
            dst_port: half(V6 + 2),
            tcp_flags,
        })
    }
}
