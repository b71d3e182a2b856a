//! An IP address of either family in one 16-byte form.

/// An IPv6 address, its bytes in network order in memory; an IPv4 address `a.b.c.d` is held as
/// `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2), so that a v4-mapped destination and the IPv4 one it stands for are the
/// same value. Two words instead of bytes, as BPF compares and copies what is aligned in one instruction.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Addr([u64; 2]);

/// Bits in front of the IPv4 part of a v4-mapped address: the prefix length of `10.0.0.0/8` in [`Addr`] form
/// is `V4_BITS + 8`.
pub const V4_BITS: u32 = 96;

/// The four bytes in front of the IPv4 part.
const V4_MARK: u32 = 0xffff_u32.to_be();

impl Addr {
    /// `::`, which also stands for an address that is not known.
    pub const UNSPECIFIED: Self = Self([0; 2]);

    /// From the four bytes of an IPv4 address, in network order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self::from_words([0, 0, V4_MARK, u32::from_ne_bytes(b)])
    }

    /// From the sixteen bytes of an IPv6 address, in network order. A v4-mapped one is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn v6(b: [u8; 16]) -> Self {
        let [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7] = b;
        Self([
            u64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
        ])
    }

    /// From the four words of an IPv6 address as the kernel keeps them, each in network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(w: [u32; 4]) -> Self {
        Self([join(w[0], w[1]), join(w[2], w[3])])
    }

    /// Its two halves, as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        self.0
    }

    /// The sixteen bytes, in network order.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(&self) -> [u8; 16] {
        let [a0, a1, a2, a3, a4, a5, a6, a7] = self.0[0].to_ne_bytes();
        let [b0, b1, b2, b3, b4, b5, b6, b7] = self.0[1].to_ne_bytes();
        [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7]
    }

    /// Whether it is in 127.0.0.0/8 or `::1`, which no packet on a wire has (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3).
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        match self.as_v4() {
            Some([first, ..]) => first == 127,
            None => self.0[0] == 0 && self.0[1] == 1_u64.to_be(),
        }
    }

    /// The four bytes of an IPv4 address, in network order; `None` for IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn as_v4(&self) -> Option<[u8; 4]> {
        let [b0, b1, b2, b3, c0, c1, c2, c3] = self.0[1].to_ne_bytes();
        if self.0[0] == 0 && u32::from_ne_bytes([b0, b1, b2, b3]) == V4_MARK {
            Some([c0, c1, c2, c3])
        } else {
            None
        }
    }
}

/// The word that has `first` in front of `second` in memory.
const fn join(first: u32, second: u32) -> u64 {
    let (first, second) = (first as u64, second as u64);
    if cfg!(target_endian = "little") { first | second << 32 } else { first << 32 | second }
}

#[cfg(any(test, feature = "user"))]
mod user {
    use super::Addr;
    use core::cmp::Ordering;
    use core::fmt;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            match ip {
                IpAddr::V4(v4) => Self::v4(v4.octets()),
                IpAddr::V6(v6) => Self::v6(v6.octets()),
            }
        }
    }

    impl From<Addr> for IpAddr {
        fn from(a: Addr) -> Self {
            match a.as_v4() {
                Some(v4) => Self::V4(Ipv4Addr::from(v4)),
                None => Self::V6(Ipv6Addr::from(a.bytes())),
            }
        }
    }

    impl Ord for Addr {
        fn cmp(&self, other: &Self) -> Ordering {
            self.bytes().cmp(&other.bytes())
        }
    }

    impl PartialOrd for Addr {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl fmt::Display for Addr {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            IpAddr::from(*self).fmt(f)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use std::string::ToString;

    #[test]
    fn v4_mapped_is_v4() {
        let mapped: IpAddr = "::ffff:10.1.2.3".parse().unwrap();
        let plain: IpAddr = "10.1.2.3".parse().unwrap();
        assert_eq!(Addr::from(mapped), Addr::from(plain));
        assert_eq!(Addr::from(mapped).as_v4(), Some([10, 1, 2, 3]));
        assert_eq!(Addr::from(mapped).to_string(), "10.1.2.3");
    }

    #[test]
    fn v6_is_not_v4() {
        for text in ["::", "::1", "2001:db8::1", "::fffe:10.1.2.3", "::1:0:ffff:10.1.2.3"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::from(ip).as_v4(), None, "{text}");
            assert_eq!(IpAddr::from(Addr::from(ip)), ip);
            assert_eq!(Addr::v6(Addr::from(ip).bytes()), Addr::from(ip));
        }
    }
}
