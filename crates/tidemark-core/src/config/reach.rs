//! Which addresses the databases of a pipeline may have.
//!
//! Connecting to databases is the purpose, and most of them are on private networks or on this
//! machine. What a pipeline file names was put there by somebody who can connect to it anyway. A
//! definition that comes through a server's API is another matter: it has the server connect, from
//! where the server stands. So the server's file says which networks are meant; where it says
//! nothing, the network of the link is not, where clouds keep the credentials of their machines.

use std::net::IpAddr;

use super::server::Network;

/// See the module's text. By default, everything.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Nothing else, if it is said.
    pub only: Option<Vec<Network>>,
    /// Nothing of these.
    pub deny: Vec<Network>,
}

impl Reach {
    /// Whether an address may be connected to.
    pub fn allows(&self, address: IpAddr) -> bool {
        // ::ffff:10.0.0.1 is spoken to as 10.0.0.1.
        let address = address.to_canonical();
        let is_in = |networks: &[Network]| networks.iter().any(|network| network.contains(address));
        self.only.as_deref().is_none_or(is_in) && !is_in(&self.deny)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Nothing;
    use crate::config::{Document, ServerConfig, read_server};

    fn reach(databases: &str) -> Reach {
        let text = format!("version = 1\n{databases}");
        let file = Document::new("server.toml", text.as_str());
        read_server(file, &Nothing).unwrap().databases
    }

    #[track_caller]
    fn assert_reach(reach: &Reach, allowed: &[&str], denied: &[&str]) {
        for address in allowed {
            assert!(reach.allows(address.parse().unwrap()), "{address}");
        }
        for address in denied {
            assert!(!reach.allows(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn s16_by_default_all_but_the_network_of_the_link_may_have_databases() {
        let usual = [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "192.168.1.1",
            "8.8.8.8",
            "fd00::1",
            "2606:4700::1111",
        ];
        let metadata = [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "169.254.170.2",
            "fe80::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
        ];
        assert_reach(&reach(""), &usual, &metadata);
        assert_reach(&Reach::default(), &usual, &[]);
        assert_reach(&Reach::default(), &metadata, &[]);
        let without_a_file = ServerConfig::default().databases;
        assert_reach(&without_a_file, &usual, &metadata);
    }

    #[test]
    fn s16_the_servers_file_says_which_networks_are_meant() {
        let lifted = reach("[databases]\ndeny = []");
        assert_reach(&lifted, &["169.254.1.1"], &[]);
        let narrow = reach("[databases]\nonly = [\"10.1.0.0/16\", \"fd00::/8\"]");
        assert_reach(
            &narrow,
            &["10.1.2.3", "::ffff:10.1.2.3", "fd12::1"],
            &["10.2.0.1", "127.0.0.1", "::1", "fd00:ec2::254"],
        );
        let nothing = reach("[databases]\nonly = []");
        assert_reach(&nothing, &[], &["10.1.2.3", "127.0.0.1"]);
        let file = Document::new("server.toml", "version = 1\n[databases]\nonly = [\"db\"]");
        let problems = read_server(file, &Nothing).unwrap_err().to_string();
        assert!(problems.contains("this is no network"), "{problems}");
    }
}
