//! URLs of flags: their text as given (ids are computed from it), their host and port, and what is refused.
//!
//! Not a general URL parser: a member speaks plain HTTP on host and port, and nothing else may be asked of it here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::error::{Cause, StartError};

/// `http://host:port`, spelled as given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    host: String,
    port: u16,
}

impl Url {
    /// Reads one URL; `origin` names the flag or variable in a refusal.
    pub fn parse(text: &str, origin: &str) -> Result<Self, StartError> {
        let text = text.trim();
        let bad = |why: &str| StartError::new(Cause::BadUrl, format!("invalid URL in {origin}: {text:?}: {why}"));
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(bad("http://host:port is needed"));
        };
        check_scheme(&scheme.to_ascii_lowercase(), text, origin)?;
        if rest.contains('/') {
            return Err(bad("URL must not contain a path"));
        }
        if rest.contains(['@', '?', '#', ',']) || rest.contains(char::is_whitespace) {
            return Err(bad("only host and port are allowed"));
        }
        let (host, port) = split_host_port(rest).map_err(bad)?;
        Ok(Self {
            text: format!("http://{rest}"),
            host: host.to_owned(),
            port,
        })
    }

    /// The URL as text, the one that ids are computed from and that clients are told.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `host:port`, as a connection needs it.
    pub fn authority(&self) -> &str {
        self.text
            .strip_prefix("http://")
            .expect("parse puts the scheme in front")
    }

    /// The host, without the brackets of IPv6.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    // localhost and 127.0.0.1 are one place: a cluster may name either in one flag and the other in the next.
    pub(super) fn same_place(&self, other: &Url) -> bool {
        let plain = |url: &Url| {
            if url.host == "localhost" {
                "127.0.0.1".to_owned()
            } else {
                url.host.clone()
            }
        };
        self.port == other.port && plain(self) == plain(other)
    }
}

impl AsRef<str> for Url {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A URL whose host is an address of this machine, with that address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenUrl {
    /// The URL.
    pub url: Url,
    /// Where to bind. Port 0 lets the system choose.
    pub addr: SocketAddr,
}

impl ListenUrl {
    fn from_url(url: Url, origin: &str) -> Result<Self, StartError> {
        let ip = match url.host() {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host => host.parse().ok(),
        };
        let Some(ip) = ip else {
            let text = format!("expected IP in URL for binding ({url}) in {origin}");
            return Err(StartError::new(Cause::BindHost, text));
        };
        let addr = SocketAddr::new(ip, url.port());
        Ok(Self { url, addr })
    }
}

/// A list of URLs to listen on; empty text is an empty list.
pub fn parse_listen(text: &str, origin: &str) -> Result<Vec<ListenUrl>, StartError> {
    parse_list(text, origin)?
        .into_iter()
        .map(|url| ListenUrl::from_url(url, origin))
        .collect()
}

/// A list of URLs that others are told; each has a host and a port that can be dialled.
pub fn parse_advertised(text: &str, origin: &str) -> Result<Vec<Url>, StartError> {
    let urls = parse_list(text, origin)?;
    for url in &urls {
        if url.host().is_empty() {
            let text = format!("invalid URL in {origin}: \"{url}\": unexpected empty host");
            return Err(StartError::new(Cause::BadUrl, text));
        }
        if url.port() == 0 {
            let text = format!("port 0 cannot be advertised: {url} in {origin}; others need the real port");
            return Err(StartError::new(Cause::PortZero, text));
        }
    }
    Ok(urls)
}

// Sorted, as etcd keeps and shows them.
fn parse_list(text: &str, origin: &str) -> Result<Vec<Url>, StartError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut urls = text
        .split(',')
        .map(|part| Url::parse(part, origin))
        .collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    Ok(urls)
}

fn check_scheme(scheme: &str, text: &str, origin: &str) -> Result<(), StartError> {
    match scheme {
        "http" => Ok(()),
        "https" => Err(StartError::new(
            Cause::Tls,
            format!("TLS is not served yet: use http:// for {text} in {origin}"),
        )),
        "unix" | "unixs" => {
            let text = format!("unix sockets are not served yet: use http:// for {text} in {origin}");
            Err(StartError::new(Cause::UnixSocket, text))
        }
        _ => {
            let text = format!("invalid URL in {origin}: {text:?}: URL scheme must be http");
            Err(StartError::new(Cause::BadUrl, text))
        }
    }
}

fn split_host_port(authority: &str) -> Result<(&str, u16), &'static str> {
    let no_port = "URL address does not have the form \"host:port\"";
    let (host, port) = authority.rsplit_once(':').ok_or(no_port)?;
    let port_is_number = !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit());
    let host = match host.strip_prefix('[') {
        Some(inner) => {
            let inner = inner.strip_suffix(']').ok_or(no_port)?;
            inner
                .parse::<Ipv6Addr>()
                .map_err(|_| "not an IPv6 address in the brackets")?;
            inner
        }
        None if host.contains(':') => return Err("an IPv6 address needs brackets, as in http://[::1]:2379"),
        None => host,
    };
    if !port_is_number {
        return Err("the port is not a number");
    }
    Ok((host, port.parse().map_err(|_| "the port is above 65535")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_is_kept_and_lists_are_sorted() {
        let urls = parse_advertised("http://b:2, HTTP://a:1,http://[::1]:3", "--x").unwrap();
        assert_eq!(
            urls.iter().map(Url::as_str).collect::<Vec<_>>(),
            ["http://[::1]:3", "http://a:1", "http://b:2"]
        );
        assert_eq!(
            (urls[0].host(), urls[0].authority(), urls[0].port()),
            ("::1", "[::1]:3", 3)
        );
        assert!(parse_advertised("  ", "--x").unwrap().is_empty());
    }

    #[test]
    fn a_listen_url_is_bindable() {
        let urls = parse_listen("http://localhost:0,http://[::]:7,http://0.0.0.0:8", "--x").unwrap();
        let addrs: Vec<String> = urls.iter().map(|listen| listen.addr.to_string()).collect();
        assert_eq!(addrs, ["0.0.0.0:8", "[::]:7", "127.0.0.1:0"]);
    }
}
