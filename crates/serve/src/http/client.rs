//! The client of a request, for limits shared among clients: its account, and its address as trusted proxies report it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;

use crate::http::api_keys::Account;

/// The outer level at which limits are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// An account with a key.
    Account(u64),
    /// An address, where there are no keys.
    Address(IpAddr),
}

/// Limits are shared among parties first, then among the addresses of one party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Its account, or its address where there are no keys.
    pub party: Party,
    /// Its address: of IPv6 the /64, which one host may have whole.
    pub address: IpAddr,
}

impl Client {
    /// The client of a request with this account from this address.
    pub fn new(account: Option<&Account>, address: IpAddr) -> Client {
        let address = prefix(address);
        let party = match account {
            Some(account) if *account != Account::EVERYBODY => Party::Account(account.id),
            _ => Party::Address(address),
        };
        Client { party, address }
    }

    /// A client of which nothing is known.
    pub fn unknown() -> Client {
        Client::new(None, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

/// What one host has: an IPv4 address, or the /64 of an IPv6 address.
pub fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// A network of proxies whose word on the client's address is taken: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxy(IpNet);

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Proxy, String> {
        let whole = || text.parse().ok().map(|address: IpAddr| IpNet::from(address.to_canonical()));
        let net = text.parse().ok().or_else(whole).map(|net: IpNet| net.trunc());
        net.map(Proxy).ok_or_else(|| "give an address or a network, such as 10.0.0.0/8 or fd00::/8".to_string())
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of a request's client: the right-most hop that is no trusted proxy. A hop that is no address ends the search
/// at the proxy that named it.
///
/// Proxies write one of the two headers and hand on what a client sent as the other. So where both are there and differ,
/// neither is believed.
pub fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[Proxy]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|proxy| proxy.0.contains(address));
    if !is_trusted(&peer) {
        return peer;
    }
    let client = |name: HeaderName, hop: fn(&str) -> Option<IpAddr>| {
        if !headers.contains_key(&name) {
            return None;
        }
        let mut last = peer;
        for value in headers.get_all(&name).iter().rev() {
            for part in HeaderValue::to_str(value).unwrap_or_default().rsplit(',') {
                match hop(part) {
                    None => return Some(last),
                    Some(address) if is_trusted(&address) => last = address,
                    Some(address) => return Some(address),
                }
            }
        }
        Some(last)
    };
    match (client(header::FORWARDED, forwarded), client(X_FORWARDED_FOR, hop)) {
        (Some(one), Some(other)) if one != other => peer,
        (one, other) => one.or(other).unwrap_or(peer),
    }
}

/// The `for` of an element of `Forwarded` (RFC 7239).
fn forwarded(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    hop(node.trim().trim_matches('"'))
}

/// An address, with a port or without.
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    let address: Option<IpAddr> = text.parse().ok().or_else(with_port).or_else(bracketed);
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(peer: &str, headers: &[(&'static str, &str)], trusted: &[&str]) -> String {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| {
            map.append(*name, value.parse().unwrap());
        });
        let trusted: Vec<Proxy> = trusted.iter().map(|t| t.parse().unwrap()).collect();
        address(peer.parse().unwrap(), &map, &trusted).to_string()
    }

    #[test]
    fn the_right_most_hop_that_is_not_trusted_is_the_client() {
        let nets = ["10.0.0.0/8", "::1", "192.168.1.7"];
        let xff = "x-forwarded-for";
        for (peer, headers, expected) in [
            // Nobody's word is taken but that of a trusted proxy.
            ("1.2.3.4", &[(xff, "5.6.7.8")][..], "1.2.3.4"),
            ("::ffff:1.2.3.4", &[], "1.2.3.4"),
            ("10.1.2.3", &[], "10.1.2.3"),
            ("::ffff:10.1.2.3", &[(xff, "5.6.7.8")], "5.6.7.8"),
            ("10.1.2.3", &[(xff, "9.9.9.9, 5.6.7.8")], "5.6.7.8"),
            ("10.1.2.3", &[(xff, "9.9.9.9, 5.6.7.8:443 , 10.0.0.1,192.168.1.7")], "5.6.7.8"),
            ("10.1.2.3", &[(xff, "9.9.9.9"), (xff, "5.6.7.8"), (xff, "10.0.0.1")], "5.6.7.8"),
            ("10.1.2.3", &[(xff, "10.0.0.9, 10.0.0.1")], "10.0.0.9"),
            ("10.1.2.3", &[(xff, "9.9.9.9, unknown, 10.0.0.1")], "10.0.0.1"),
            ("10.1.2.3", &[(xff, "")], "10.1.2.3"),
            ("192.168.1.8", &[(xff, "5.6.7.8")], "192.168.1.8"),
            ("::1", &[("forwarded", "for=9.9.9.9;proto=http, by=x;For=\"[2001:db8::1]:4711\"")], "2001:db8::1"),
            ("::1", &[("forwarded", "for=\"[2001:db8::1]\"")], "2001:db8::1"),
            ("::1", &[("forwarded", "for=9.9.9.9, for=_hidden")], "::1"),
            ("::1", &[("forwarded", "proto=http")], "::1"),
            // A client may have sent the one that the proxy does not write.
            ("::1", &[("forwarded", "for=9.9.9.9"), (xff, "5.6.7.8")], "::1"),
            ("::1", &[("forwarded", "for=5.6.7.8"), (xff, "9.9.9.9, 5.6.7.8")], "5.6.7.8"),
        ] {
            assert_eq!(found(peer, headers, &nets), expected, "{peer} {headers:?}");
        }
        assert_eq!(found("10.1.2.3", &[(xff, "5.6.7.8")], &[]), "10.1.2.3");
        for bad in ["", "10.0.0.0/33", "localhost", "10.0.0"] {
            assert!(bad.parse::<Proxy>().is_err(), "{bad}");
        }
        assert_eq!("10.1.2.3/8".parse::<Proxy>().unwrap().to_string(), "10.0.0.0/8");
    }

    #[test]
    fn an_account_is_a_party_and_without_keys_an_address_is() {
        let account = Account { id: 7, ..Account::EVERYBODY };
        let of = |account: Option<&Account>, address: &str| Client::new(account, address.parse().unwrap());
        assert_eq!(of(Some(&account), "1.2.3.4").party, Party::Account(7));
        assert_eq!(of(Some(&Account::EVERYBODY), "1.2.3.4"), of(None, "::ffff:1.2.3.4"));
        assert_eq!(of(None, "1.2.3.4").party, Party::Address("1.2.3.4".parse().unwrap()));
        assert_eq!(of(None, "2001:db8:1:2:3::4"), of(None, "2001:db8:1:2:ffff::"));
        assert_ne!(of(None, "2001:db8:1:2::"), of(None, "2001:db8:1:3::"));
    }
}
