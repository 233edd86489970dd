//! Which addresses may be spoken to: what an operator writes in a configuration, or a name server answers, must not lead to
//! what only this machine or its network reaches. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// What is wrong with the address of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    #[error("is no http:// or https:// URL")]
    Scheme,
    #[error("holds a user's name or a password: receivers know who speaks by the signature")]
    Credentials,
    #[error("is a private address: set webhooks.allow_private = true if it is yours")]
    Private,
}

/// Looks at a URL as it is written; what its name leads to is looked at when it is known.
pub fn check(url: &Url, allow_private: bool) -> Result<(), BadUrl> {
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(BadUrl::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadUrl::Credentials);
    }
    let is_private = match url.host() {
        Some(Host::Ipv4(address)) => is_private(address.into()),
        Some(Host::Ipv6(address)) => is_private(address.into()),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        None => true,
    };
    if is_private && !allow_private { Err(BadUrl::Private) } else { Ok(()) }
}

/// Scheme and host of a URL, for messages: what follows may hold a token.
pub fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// Whether an address is none of the public internet, in whatever form it is written.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

/// By the IANA registry of special purposes; 169.254.169.254, where clouds tell secrets, is link-local.
fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        // Multicast, what is reserved, and broadcast.
        || a >= 224
        // "This network", where 0.0.0.0 is this machine.
        || a == 0
        // Shared by a provider's customers (RFC 6598).
        || (a == 100 && b & 0xc0 == 64)
        // Protocol assignments, and the old relays of 6to4.
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        // Tests between networks (RFC 2544).
        || (a == 198 && b & 0xfe == 18)
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    let v4 = |high: u16, low: u16| is_private_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match s {
        // Unspecified, loopback, and the old form of a v4 address; mapped and translated ones (RFC 4291, RFC 2765).
        [0, 0, 0, 0, 0, 0, _, _] => true,
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => v4(high, low),
        // NAT64 with the prefix that is known (RFC 6052); one for use inside a network (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 1, ..] => true,
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => v4(high, low),
        // Protocol assignments, Teredo and ORCHID among them.
        [0x2001, second, ..] if second < 0x200 => true,
        // Documentation.
        [0x2001, 0xdb8, ..] => true,
        [0x3fff, second, ..] if second < 0x1000 => true,
        // Only these are given to the public internet: not fc00::/7, fe80::/10, fec0::/10, ff00::/8.
        [first, ..] => first & 0xe000 != 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_private_in_every_form() {
        let private = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::808:808",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "5f00::1",
        ];
        for text in private {
            assert!(is_private(text.parse().unwrap()), "{text}");
        }
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "169.253.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ];
        for text in public {
            assert!(!is_private(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn urls_are_looked_at_as_written() {
        let looked = |text: &str| check(&Url::parse(text).unwrap(), false);
        assert_eq!(looked("https://hooks.example.com/weir?token=x"), Ok(()));
        assert_eq!(looked("http://8.8.8.8:8080/"), Ok(()));
        // All of these are 127.0.0.1.
        for text in ["http://127.1/", "http://0x7f000001/", "http://2130706433/", "http://[::ffff:7f00:1]/"] {
            assert_eq!(looked(text), Err(BadUrl::Private), "{text}");
        }
        for text in ["http://localhost/", "http://LOCALHOST./", "http://a.localhost/", "http://[fd00::1]/"] {
            assert_eq!(looked(text), Err(BadUrl::Private), "{text}");
            assert_eq!(check(&Url::parse(text).unwrap(), true), Ok(()));
        }
        for text in ["ftp://example.com/", "file:///etc/passwd", "mailto:x@example.com", "unix:/run/x"] {
            assert_eq!(looked(text), Err(BadUrl::Scheme), "{text}");
        }
        assert_eq!(looked("https://user@example.com/"), Err(BadUrl::Credentials));
        assert_eq!(looked("https://:pass@example.com/"), Err(BadUrl::Credentials));
        assert_eq!(shown(&Url::parse("https://example.com:81/secret?token=x").unwrap()), "https://example.com:81");
    }
}
