//! URLs and addresses (RFC 3986), cut as a request line and a connect need them. Only what goes out unchanged is accepted.

use super::problem::Refusal;
use super::settings::{Authority, Url};
use crate::tls::server_name;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest URL; servers commonly refuse a request line beyond 8,000 bytes.
const URL_BYTES_MAX: usize = 4_000;

/// An absolute `http://` or `https://` URL without userinfo and fragment.
pub(super) fn parse_url(text: &str) -> Result<Url, Refusal> {
    const REMEDY: &str = "an absolute URL such as \"http://127.0.0.1:8000/films/\"";
    let (scheme, rest) =
        text.split_once("://").ok_or_else(|| Refusal::new("this is no absolute URL", REMEDY.to_owned()))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority_text, target) = rest.split_at(end);
    if authority_text.contains('@') {
        return Err(Refusal::secret(
            "a user name or password in a URL",
            "leave it out; an Authorization header can be read from a file: \
             headers = { Authorization = { file = \"/etc/ringest/authorization\" } }",
        ));
    }
    let secure = scheme.eq_ignore_ascii_case("https");
    if !secure && !scheme.eq_ignore_ascii_case("http") {
        return Err(Refusal::new(format!("{scheme:?} is no scheme that ringest speaks"), REMEDY));
    }
    if text.len() > URL_BYTES_MAX {
        return Err(Refusal::new(format!("this URL has {} bytes", text.len()), format!("at most {URL_BYTES_MAX}")));
    }
    let authority = parse_authority(authority_text, Some(if secure { 443 } else { 80 }))?;
    if secure && server_name(&authority.host).is_none() {
        return Err(Refusal::new(
            format!("{:?} is no name that a certificate can have", authority.host),
            "a DNS name or an address that stands in the server's certificate",
        ));
    }
    let target = match target.as_bytes().first() {
        Some(b'/') => target.to_owned(),
        _ => format!("/{target}"),
    };
    check_target(&target)?;
    Ok(Url { secure, authority, host_header: authority_text.to_owned(), target })
}

/// Path and query: the characters of RFC 3986 sections 3.3 and 3.4, everything else percent-encoded.
fn check_target(target: &str) -> Result<(), Refusal> {
    let percent = |c: char| {
        let mut utf8 = [0; 4];
        c.encode_utf8(&mut utf8).bytes().map(|byte| format!("%{byte:02X}")).collect::<String>()
    };
    for (at, c) in target.char_indices() {
        match c {
            '#' => {
                return Err(Refusal::new("a fragment (what follows #) is never sent to a service", "leave it out"));
            }
            '%' => {
                let digits = target.as_bytes().get(at + 1..at + 3);
                if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    return Err(Refusal::new("a % without two hexadecimal digits", "a percent sign itself is %25"));
                }
            }
            'a'..='z' | 'A'..='Z' | '0'..='9' => {}
            _ if "-._~!$&'()*+,;=:@/?".contains(c) => {}
            _ => {
                let what = match c {
                    ' ' => "a space in a URL".to_owned(),
                    '\r' | '\n' => "a line break in a URL".to_owned(),
                    _ => format!("{c:?} cannot stand in a URL"),
                };
                return Err(Refusal::new(what, format!("leave it out, or percent-encode it as {}", percent(c))));
            }
        }
    }
    Ok(())
}

/// `host:port`. Without `default_port` the port must be there.
pub(super) fn parse_authority(text: &str, default_port: Option<u16>) -> Result<Authority, Refusal> {
    const REMEDY: &str =
        "a host name or an address, and a port of 1 to 65535, such as \"10.0.4.20:4001\" or \"[fd00::7]:4001\"";
    let refuse = |what: String| Err(Refusal::new(what, REMEDY));
    let (host, port) = if let Some(inside) = text.strip_prefix('[') {
        let Some((address, rest)) = inside.split_once(']') else {
            return refuse("the ] of an IPv6 address is missing".to_owned());
        };
        if address.parse::<Ipv6Addr>().is_err() {
            return refuse(format!("{address:?} is no IPv6 address"));
        }
        match rest.strip_prefix(':') {
            Some(port) => (address, Some(port)),
            None if rest.is_empty() => (address, None),
            None => return refuse(format!("{rest:?} after an address")),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return refuse("an IPv6 address stands in brackets".to_owned());
            }
            Some((host, port)) => (check_host(host)?, Some(port)),
            None => (check_host(text)?, None),
        }
    };
    let port = match (port, default_port) {
        (Some(port), _) => match port.parse::<u16>() {
            Ok(number) if number > 0 && !port.starts_with('+') => number,
            _ => return refuse(format!("{port:?} is no port")),
        },
        (None, Some(port)) => port,
        (None, None) => return refuse("the port is missing".to_owned()),
    };
    Ok(Authority { host: host.to_owned(), port })
}

/// A host name (RFC 1123 section 2.1, with underscores, which container networks use) or an IPv4 address.
fn check_host(host: &str) -> Result<&str, Refusal> {
    let refuse = |what: String| Err(Refusal::new(what, "a host name or an address, such as \"api.plant.example\""));
    if host.is_empty() {
        return refuse("the host is missing".to_owned());
    }
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && host.parse::<Ipv4Addr>().is_err() {
        return refuse(format!("{host:?} is no IPv4 address"));
    }
    if let Some(wrong) = host.chars().find(|c| !(c.is_ascii_alphanumeric() || "-._".contains(*c))) {
        return refuse(format!("{wrong:?} cannot stand in a host name"));
    }
    let labels = host.strip_suffix('.').unwrap_or(host);
    if labels.len() > 253 || labels.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return refuse(format!("{host:?} is no host name"));
    }
    Ok(host)
}

/// An address to listen on: an IP address and a port, no name.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, Refusal> {
    const REMEDY: &str = "an IP address of this machine and a port of 1 to 65535, such as \"127.0.0.1:8080\", \"[::1]:8080\", \
                          or \"0.0.0.0:8080\" for all of its IPv4 addresses";
    let what = match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => return Ok(address),
        Ok(_) => "port 0 would be another port at each start and on each core".to_owned(),
        Err(_) if text.parse::<IpAddr>().is_ok() => "the port is missing".to_owned(),
        Err(_) if text.starts_with(':') => "the address before the port is missing".to_owned(),
        Err(_) => "this is no address to listen on".to_owned(),
    };
    Err(Refusal::new(what, REMEDY))
}

/// Whether two listeners cannot be open at once: the same port, and the same address or all addresses. `[::]` takes IPv4 too.
pub(crate) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |wide: SocketAddr, narrow: SocketAddr| match wide.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && narrow.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    a.port() == b.port() && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_cut_into_what_a_request_needs() {
        let cut = |text| {
            let url = parse_url(text).unwrap();
            (url.authority.host, url.authority.port, url.host_header, url.target)
        };
        let expect = |host: &str, port, header: &str, target: &str| {
            (host.to_owned(), port, header.to_owned(), target.to_owned())
        };
        assert_eq!(cut("http://127.0.0.1:8000/films/"), expect("127.0.0.1", 8000, "127.0.0.1:8000", "/films/"));
        assert_eq!(cut("HTTP://api.example"), expect("api.example", 80, "api.example", "/"));
        assert_eq!(cut("http://a?x=1"), expect("a", 80, "a", "/?x=1"));
        assert_eq!(cut("http://[::1]:9/p%20q"), expect("::1", 9, "[::1]:9", "/p%20q"));
        assert_eq!(cut("http://[::1]"), expect("::1", 80, "[::1]", "/"));
        assert_eq!(cut("http://my_app:80/"), expect("my_app", 80, "my_app:80", "/"));
        assert_eq!(cut("https://api.example/films/"), expect("api.example", 443, "api.example", "/films/"));
        assert_eq!(cut("HTTPS://[::1]:8443"), expect("::1", 8443, "[::1]:8443", "/"));
        assert!(parse_url("https://a/").unwrap().secure && !parse_url("http://a/").unwrap().secure);
    }

    #[test]
    fn what_could_not_go_out_unchanged_is_refused() {
        for wrong in [
            "127.0.0.1:8000/films/",
            "ftp://a/",
            "https://a-/",
            "http:///films",
            "http://a b/",
            "http://a/b c",
            "http://a/b\r\nX: y",
            "http://a/ü",
            "http://a/{id}",
            "http://a/%2",
            "http://a/%zz",
            "http://a/#top",
            "http://user:secret@a/",
            "http://a:0/",
            "http://a:/",
            "http://a:+80/",
            "http://a:65536/",
            "http://a:80:81/",
            "http://::1/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[fe80::1%eth0]/",
            "http://10.0.0.256/",
            "http://a..b/",
            "http://a/\u{7f}",
        ] {
            assert!(parse_url(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_connect_needs_its_port() {
        assert_eq!(parse_authority("srv:4001", None), Ok(Authority { host: "srv".to_owned(), port: 4001 }));
        assert!(parse_authority("srv", None).is_err());
        assert!(parse_authority("srv:+1", None).is_err());
    }

    #[test]
    fn a_listener_needs_an_address_and_a_port() {
        assert!(parse_listen("0.0.0.0:4001").is_ok());
        for wrong in ["localhost:80", ":80", "80", "127.0.0.1", "127.0.0.1:0", "::1:80"] {
            assert!(parse_listen(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn all_addresses_overlap_with_each() {
        let overlaps = |a: &str, b: &str| {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(overlap(a, b), overlap(b, a));
            overlap(a, b)
        };
        assert!(overlaps("127.0.0.1:1", "127.0.0.1:1"));
        assert!(overlaps("0.0.0.0:1", "127.0.0.1:1"));
        assert!(overlaps("[::]:1", "127.0.0.1:1"));
        assert!(!overlaps("0.0.0.0:1", "[::1]:1"));
        assert!(!overlaps("127.0.0.1:1", "127.0.0.2:1"));
        assert!(!overlaps("0.0.0.0:1", "0.0.0.0:2"));
    }
}
