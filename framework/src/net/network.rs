//! A block of addresses, as `10.0.0.0/8` names it.
//!
//! It owns how such a block is written and which addresses are in it. It knows nothing of what is public: that is
//! the matter of `guard.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::{Error, Result};

/// A block of IPv4 or IPv6 addresses. Read from text: `"10.0.0.0/8".parse()`, or one address, `"fd00::7".parse()`.
///
/// `Invalid` where the text is no address, the prefix is longer than the address, or bits beyond it are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u32,
}

impl Network {
    pub(super) const fn v4(base: [u8; 4], prefix: u32) -> Self {
        let [a, b, c, d] = base;
        Network { base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    /// From the first four of the eight groups, which is as far as any block goes that is written in code.
    pub(super) const fn v6(base: [u16; 4], prefix: u32) -> Self {
        let [a, b, c, d] = base;
        Network { base: IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), prefix }
    }

    /// Whether `address` is in the block. An IPv6 block holds no IPv4 address, however that is written.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differ = match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                (base.to_bits() ^ address.to_bits()).checked_shr(32 - self.prefix).unwrap_or(0) != 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                (base.to_bits() ^ address.to_bits()).checked_shr(128 - self.prefix).unwrap_or(0) != 0
            }
            _ => true,
        };
        !differ
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| {
            Error::invalid(format_args!("network {text:?}: want the first address and a length, such as 10.0.0.0/8"))
        })
    }
}

fn parse(text: &str) -> Option<Network> {
    let (base, prefix) = match text.split_once('/') {
        Some((base, prefix)) => (base, Some(prefix.parse().ok()?)),
        None => (text, None),
    };
    let (base, width, bits) = match base.parse().ok()? {
        IpAddr::V4(base) => (IpAddr::V4(base), 32, u128::from(base.to_bits()) << 96),
        IpAddr::V6(base) => (IpAddr::V6(base), 128, base.to_bits()),
    };
    let prefix = prefix.unwrap_or(width);
    let beyond = bits.checked_shl(prefix).unwrap_or(0);
    (prefix <= width && beyond == 0).then_some(Network { base, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_ends_where_its_prefix_says() {
        let cases = [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("172.16.0.0/12", "172.31.255.255", "172.32.0.0"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.8"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("fc00::/7", "fdff::1", "fe00::"),
            ("::/0", "ffff::", "::ffff:1.2.3.4"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("127.0.0.0/8", "::ffff:127.9.9.9", "::127.0.0.1"),
        ];
        for (block, inside, outside) in cases {
            let block: Network = block.parse().unwrap();
            assert!(block.contains(inside.parse().unwrap()), "{block:?} has {inside}");
            assert!(!block.contains(outside.parse().unwrap()), "{block:?} has not {outside}");
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in ["", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.1/8", "::1/64", "::/129", "10/8", "010.0.0.0/8"] {
            let refused = text.parse::<Network>().unwrap_err();
            assert!(refused.to_string().contains(&format!("{text:?}")), "{refused}");
        }
    }
}
