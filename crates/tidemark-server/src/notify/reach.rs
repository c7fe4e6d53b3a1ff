//! Where a message may go: what a name resolves to is looked at, and just that is connected to.
//!
//! Whoever may define a notifier could otherwise have the server speak to what only the server reaches:
//! itself, its neighbours, the metadata of its cloud. Addresses are public, or in a network that the
//! server's file allows; one that is not, among those of a name, is enough to refuse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::config::Network;
use tidemark_core::{Error, Result};
use tokio::net::TcpStream;

/// How long one address may take to answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Reach {
    pub(super) allowed: Vec<Network>,
}

impl Reach {
    /// Connects to a host, if all of its addresses are allowed.
    pub(super) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream> {
        let addresses = self.resolve(host, port).await?;
        let mut last = None;
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(err)) => last = Some(unreachable(format!("connect to {host}: {err}"))),
                Err(_) => last = Some(unreachable(format!("connect to {host}: no answer"))),
            }
        }
        Err(last.unwrap_or_else(|| unreachable(format!("{host} has no address"))))
    }

    /// The addresses of a host, each of them allowed.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>> {
        let found = tokio::net::lookup_host((host, port)).await;
        let found = found.map_err(|err| unreachable(format!("resolve {host}: {err}")))?;
        let found: Vec<SocketAddr> = found.collect();
        let is_forbidden = |address: &&SocketAddr| !self.allows(address.ip());
        if let Some(address) = found.iter().find(is_forbidden) {
            let address = address.ip();
            let text = if host == address.to_string() {
                format!("{host} is not public")
            } else {
                format!("{host} is {address}, which is not public")
            };
            return Err(Error::definite(codes::NOTIFY_FORBIDDEN, text));
        }
        Ok(found)
    }

    fn allows(&self, address: IpAddr) -> bool {
        // ::ffff:10.0.0.1 is spoken to as 10.0.0.1.
        let address = address.to_canonical();
        is_public(address) || self.allowed.iter().any(|network| network.contains(address))
    }
}

pub(super) fn unreachable(text: String) -> Error {
    Error::transient(codes::NOTIFY_UNREACHABLE, text)
}

/// Whether an address is one of the internet (IANA's registries of special-purpose addresses).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    const SPECIAL: [([u8; 4], u32); 15] = [
        ([0, 0, 0, 0], 8),
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 0, 0, 0], 24),
        ([192, 0, 2, 0], 24),
        ([192, 88, 99, 0], 24),
        ([192, 168, 0, 0], 16),
        ([198, 18, 0, 0], 15),
        ([198, 51, 100, 0], 24),
        ([203, 0, 113, 0], 24),
        ([224, 0, 0, 0], 4),
        ([240, 0, 0, 0], 4),
    ];
    let address = u32::from(address);
    let is_in = |(network, bits): &([u8; 4], u32)| {
        (address ^ u32::from_be_bytes(*network)) >> (32 - bits) == 0
    };
    !SPECIAL.iter().any(is_in)
}

/// Only `2000::/3` is given out, and of it not what is for documents, protocols, or holds an address of IPv4
/// that somebody else translates.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let is_global = first & 0xe000 == 0x2000;
    let is_special = matches!(
        (first, second),
        (0x2001, 0..0x0200 | 0x0db8) | (0x2002, _) | (0x3fff, 0..0x1000)
    );
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn s16_a_message_goes_to_no_address_that_is_not_public() {
        let reach = Reach::default();
        for host in [
            "127.0.0.1",
            "127.1",
            "0",
            "2130706433",
            "0x7f.0.0.1",
            "localhost",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "10.0.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2001::7f00:1",
            "2001:db8::1",
            "2002:7f00:1::",
        ] {
            let refused = reach.connect(host, 9).await.map(|_| ()).unwrap_err();
            assert_eq!(refused.code(), codes::NOTIFY_FORBIDDEN, "{host}: {refused}");
        }
        for address in ["8.8.8.8", "172.32.0.1", "2606:4700::1111", "100.128.0.1"] {
            assert!(reach.allows(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn s16_what_the_servers_file_allows_is_spoken_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let allowed = vec![Network::parse("127.0.0.1").unwrap()];
        let reach = Reach { allowed };
        assert!(reach.connect("127.0.0.1", port).await.is_ok());
        assert!(reach.connect("::ffff:127.0.0.1", port).await.is_ok());
        let refused = reach.connect("127.0.0.2", port).await.map(|_| ());
        assert_eq!(refused.unwrap_err().code(), codes::NOTIFY_FORBIDDEN);
    }
}
