//! Where a request may go: the URLs and addresses that [`Guard`] lets through.
//!
//! Whoever hands in a job may name any URL, and the worker stands inside a network that they do not. So everything is
//! refused that is not on the public internet, unless it was opened. This file judges, and looks nothing up; that the
//! address judged is the address dialled is the promise of `connect.rs`. It cannot know which *public* addresses lead
//! back to this node or into its network; a firewall has to.

use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

use super::network::Network;
use crate::error::{Error, Fault, Result};

/// Decides which URLs and addresses a request may reach.
///
/// By default: `https`, ports 80 and 443, public unicast addresses. What is public follows the IANA registries of
/// special-purpose addresses (RFC 6890), read strictly: loopback, private, shared (CGNAT), link-local with the metadata
/// services of clouds, multicast, reserved, documentation and benchmarking blocks are refused, and in IPv6 all that is
/// outside 2000::/3 as well as the tunnels Teredo and 6to4. An IPv4 address inside an IPv6 one (mapped, or NAT64's
/// `64:ff9b::/96`) is judged as the IPv4 address.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    open: Vec<Network>,
    ports: Vec<u16>,
    plain_http: bool,
}

impl Guard {
    /// The strict default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also lets through the addresses in `networks`, for hosts in a private network. Adds to what is open already.
    ///
    /// Open as little as possible: whoever names a URL can then reach all of it, on the allowed ports.
    pub fn open_to(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.open.extend(networks);
        self
    }

    /// Also lets through these ports, besides 80 and 443.
    pub fn ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.ports.extend(ports);
        self
    }

    /// Also lets through `http://`: anyone on the way can read it then, and change what is not signed.
    pub fn plain_http(mut self) -> Self {
        self.plain_http = true;
        self
    }

    /// Whether a request may go to this address.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.open.iter().any(|network| network.contains(address))
            || match address {
                IpAddr::V4(address) => is_public_v4(address),
                IpAddr::V6(address) => is_public_v6(address),
            }
    }

    /// Checks all of a URL that can be checked without looking its name up, so that a job can be refused early.
    ///
    /// `Invalid`, naming scheme, host and port only (a path or query can hold a secret), if the scheme or port is not
    /// allowed; if there is a user name; if the host is an address that [`allows`](Self::allows) refuses, is an address
    /// in an unusual form (`127.1`, `0x7f000001`), or can be no name in the DNS. International names are written in
    /// Punycode (`xn--...`). A URL that passes may still be refused when its name has been looked up.
    pub fn check_url(&self, url: &Uri) -> Result<()> {
        self.target(url).map(drop).map_err(|refused| Error::new(Fault::Invalid, refused))
    }

    /// What to dial for a URL: an address that is allowed, or a name whose addresses must still be judged.
    pub(super) fn target<'a>(&self, url: &'a Uri) -> Result<Target<'a>, Refused> {
        let refuse = |why| Err(Refused::new(url, why));
        let usual_port = match url.scheme_str() {
            Some("https") => 443,
            Some("http") if self.plain_http => 80,
            _ if self.plain_http => return refuse("want a url that begins with https:// or http://"),
            _ => return refuse("want a url that begins with https://"),
        };
        let Some(authority) = url.authority() else { return refuse("has no host") };
        if authority.as_str().contains('@') {
            return refuse("must not hold a user name or password");
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => Some(usual_port),
            rest => rest.and_then(|rest| rest.strip_prefix(':')).and_then(|port| port.parse().ok()),
        };
        let Some(port) = port.filter(|port| [80, 443].contains(port) || self.ports.contains(port)) else {
            return refuse("its port is not among those allowed (80, 443, and those of Guard::ports)");
        };
        let Some(host) = Host::parse(authority.host()) else {
            return refuse("its host is neither a DNS name nor an address in the usual form");
        };
        if matches!(host, Host::Address(address) if !self.allows(address)) {
            return refuse("not a public address, nor in a network of Guard::open_to");
        }
        Ok(Target { host, port })
    }
}

/// What is behind a URL.
pub(super) struct Target<'a> {
    pub(super) host: Host<'a>,
    pub(super) port: u16,
}

/// A host as it is written in a URL.
#[derive(Clone, Copy)]
pub(super) enum Host<'a> {
    Address(IpAddr),
    Name(&'a str),
}

impl<'a> Host<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            return rest.strip_suffix(']')?.parse().ok().map(|address| Host::Address(IpAddr::V6(address)));
        }
        match text.parse() {
            Ok(address) => Some(Host::Address(IpAddr::V4(address))),
            Err(_) => is_name(text).then_some(Host::Name(text)),
        }
    }
}

/// Letters, digits, hyphens and underscores, in labels of a length that the DNS takes. The last label does not begin
/// with a digit: no such top-level domain exists, and resolvers read `127.1`, `0177.0.0.1` or `0x7f000001` as addresses.
fn is_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    let digit_last = name.rsplit('.').next().is_some_and(|top| top.starts_with(|first: char| first.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(is_label) && !digit_last
}

/// The IANA registry of IPv4 special-purpose addresses, and multicast.
const SPECIAL_V4: [Network; 16] = [
    Network::v4([0, 0, 0, 0], 8),        // this host: on Linux 0.0.0.0 leads to loopback
    Network::v4([10, 0, 0, 0], 8),       // private
    Network::v4([100, 64, 0, 0], 10),    // shared behind a provider's NAT; one cloud's metadata service
    Network::v4([127, 0, 0, 0], 8),      // loopback
    Network::v4([168, 63, 129, 16], 32), // a cloud's host agent, though the block around it is public
    Network::v4([169, 254, 0, 0], 16),   // link-local; the metadata services of most clouds
    Network::v4([172, 16, 0, 0], 12),    // private
    Network::v4([192, 0, 0, 0], 24),     // protocol assignments
    Network::v4([192, 0, 2, 0], 24),     // documentation
    Network::v4([192, 88, 99, 0], 24),   // 6to4 relays, deprecated
    Network::v4([192, 168, 0, 0], 16),   // private
    Network::v4([198, 18, 0, 0], 15),    // benchmarking
    Network::v4([198, 51, 100, 0], 24),  // documentation
    Network::v4([203, 0, 113, 0], 24),   // documentation
    Network::v4([224, 0, 0, 0], 4),      // multicast
    Network::v4([240, 0, 0, 0], 4),      // reserved, and broadcast
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|special| special.contains(address.into()))
}

/// All of IPv6 that is given out as global unicast: nothing outside needs a line of its own.
const GLOBAL_V6: Network = Network::v6([0x2000, 0, 0, 0], 3);

/// Gateways translate `64:ff9b::a.b.c.d` to `a.b.c.d` (RFC 6052); on a node with IPv6 only, all of IPv4 is there.
const NAT64: Network = Network::v6([0x64, 0xff9b, 0, 0], 96);

/// What is special inside of [`GLOBAL_V6`].
const SPECIAL_V6: [Network; 4] = [
    Network::v6([0x2001, 0, 0, 0], 23), // protocol assignments: Teredo, benchmarking, ORCHID
    Network::v6([0x2001, 0xdb8, 0, 0], 32), // documentation
    Network::v6([0x2002, 0, 0, 0], 16), // 6to4: an IPv4 address in disguise
    Network::v6([0x3fff, 0, 0, 0], 20), // documentation
];

fn is_public_v6(address: Ipv6Addr) -> bool {
    if NAT64.contains(address.into()) {
        let inside = Ipv4Addr::from_bits((address.to_bits() & u128::from(u32::MAX)) as u32);
        return is_public_v4(inside);
    }
    GLOBAL_V6.contains(address.into()) && !SPECIAL_V6.iter().any(|special| special.contains(address.into()))
}

/// The guard's no, which is found again behind the errors of the HTTP client.
#[derive(Debug)]
pub(crate) struct Refused {
    url: String,
    why: &'static str,
}

impl Refused {
    pub(super) fn new(url: &Uri, why: &'static str) -> Self {
        Refused { url: shown(url), why }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.url, self.why)
    }
}

impl StdError for Refused {}

/// What messages may say of a URL: no user, path or query, since each can be a secret; shortened, since a host that is
/// refused can be of any length.
pub(crate) fn shown(url: &Uri) -> String {
    let host: String = url.host().unwrap_or_default().chars().take(80).collect();
    let port = url.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}", url.scheme_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(address: &str) -> bool {
        Guard::new().allows(address.parse().unwrap())
    }

    #[test]
    fn blocks_are_refused_from_their_first_address_to_their_last() {
        let blocks = [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("168.63.129.16", "168.63.129.16"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "255.255.255.255"),
            ("::", "::fffe:ffff:ffff"),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"),
            ("100::", "100::ffff:ffff:ffff:ffff"),
            ("::1:0:0:0", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fe80::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ];
        for (first, last) in blocks {
            assert!(!allows(first), "{first}");
            assert!(!allows(last), "{last}");
        }
    }

    #[test]
    fn their_neighbours_are_public() {
        let public = [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2000::",
            "2001:200::",
            "2001:db7:ffff::",
            "2001:db9::",
            "2001:ffff::",
            "2003::",
            "3ffe:ffff::",
            "3fff:1000::",
            "64:ff9b::8.8.8.8",
            "::ffff:8.8.8.8",
        ];
        for address in public {
            assert!(allows(address), "{address}");
        }
    }

    #[test]
    fn what_is_opened_is_allowed_however_it_is_written_and_nothing_else() {
        let guard = Guard::new().open_to(["127.0.0.2/32", "fd00:1::/32"].map(|text| text.parse().unwrap()));
        for address in ["127.0.0.2", "::ffff:127.0.0.2", "fd00:1::5", "8.8.8.8"] {
            assert!(guard.allows(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "64:ff9b::127.0.0.2", "::127.0.0.2", "fd00:2::5", "10.0.0.1"] {
            assert!(!guard.allows(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn names_and_public_addresses_pass() {
        let urls = [
            "https://example.com",
            "HTTPS://Example.COM:443/hook?token=x#y",
            "https://example.com:80/",
            "https://example.com./",
            "https://xn--bcher-kva.example/",
            "https://my_app.cafe.de/",
            "https://3com.com/",
            "https://localhost/", // its address is judged once it is known
            "https://8.8.8.8/",
            "https://[2606:4700::1111]/",
        ];
        for url in urls {
            Guard::new().check_url(&url.parse().unwrap()).unwrap();
        }
        let opened = Guard::new().plain_http().ports([8080]);
        opened.check_url(&"http://example.com:8080/".parse().unwrap()).unwrap();
    }

    #[test]
    fn a_refusal_names_the_host_and_no_secret() {
        let url = "https://user:hunter2@example.com:8443/hunter2?token=hunter2";
        let refused = Guard::new().check_url(&url.parse().unwrap()).unwrap_err();
        assert_eq!(refused.fault(), Fault::Invalid);
        assert!(refused.to_string().contains("https://example.com:8443: must not hold a user name"), "{refused}");
        assert!(!format!("{refused} {refused:?}").contains("hunter2"), "{refused:?}");
    }
}
