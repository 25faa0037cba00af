//! Keeps web pages away from the operators' listener. It asks for no key, so an operator's browser could otherwise be
//! made to change a route by any page that he opens: by a request across sites, which browsers mark, or by a name of
//! the page's own that was made to point at this machine (DNS rebinding), which shows in the `Host` header.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::error::{ApiError, shown};

/// By which hosts the listener is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// From this machine only: by an address or as `localhost`.
    Local,
    /// From other machines too, which may know it by any name.
    Any,
}

impl Hosts {
    /// The hosts that lead to a listener at `address`.
    pub(super) fn reaching(address: SocketAddr) -> Self {
        if address.ip().is_loopback() { Self::Local } else { Self::Any }
    }

    fn include(self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        self == Self::Any || host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
    }
}

/// Lets a request pass unless a web page may have sent it.
pub(super) async fn refuse_web_pages(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    match check(hosts, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(hosts: Hosts, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(site) = text(headers, "sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return Err(cross_site("sec-fetch-site", &site));
    }
    let host = host(uri, headers)?;
    if let Some(host) = &host
        && !hosts.include(host.host())
    {
        return Err(unknown_host(host.host()));
    }
    match text(headers, "origin") {
        Some(origin) if !same_authority(&origin, host.as_ref()) => Err(cross_site("origin", &origin)),
        _ => Ok(()),
    }
}

/// A header's value; what is no UTF-8 becomes something that fits nothing.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Whom the request is for. A browser always says it; an HTTP/1.0 client need not.
fn host(uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, ApiError> {
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.clone()));
    }
    let Some(given) = text(headers, header::HOST.as_str()) else { return Ok(None) };
    given.parse().map(Some).map_err(|_| unknown_host(&given))
}

/// Whether a page of `origin` was served by `host`. Both leave out a port that is their scheme's own.
fn same_authority(origin: &str, host: Option<&Authority>) -> bool {
    let origin: Option<Authority> = origin.split_once("://").and_then(|(_, rest)| rest.parse().ok());
    origin.as_ref().zip(host).is_some_and(|(origin, host)| origin == host)
}

fn cross_site(header: &str, found: &str) -> ApiError {
    let message = format!(
        "a web page of another site may not call the admin API (`{header}` is {}); use `switchback` or curl",
        shown(found)
    );
    ApiError::request(StatusCode::FORBIDDEN, "cross_site_request", message)
}

fn unknown_host(found: &str) -> ApiError {
    let message = format!(
        "the admin API is not reached as {} while it listens on this machine only; call it as `localhost` or by \
         its address, or set `server.admin` to an address that other machines reach",
        shown(found)
    );
    ApiError::request(StatusCode::FORBIDDEN, "unknown_host", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(hosts: Hosts, headers: &[(&'static str, &'static str)]) -> Option<String> {
        let map =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        check(hosts, &Uri::from_static("/admin/models"), &map).err().and_then(|e| e.body().error.code)
    }

    #[test]
    fn a_listener_of_this_machine_is_reached_by_address_or_as_localhost() {
        for host in
            ["127.0.0.1:8081", "127.0.0.1", "localhost:8081", "LOCALHOST", "[::1]:8081", "10.0.0.7:8081"]
        {
            assert_eq!(code(Hosts::Local, &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example", "a b"] {
            assert_eq!(code(Hosts::Local, &[("host", host)]).as_deref(), Some("unknown_host"), "{host}");
        }
        assert_eq!(code(Hosts::Local, &[]), None);
        assert_eq!(code(Hosts::Any, &[("host", "switchback.internal:8081")]), None);
    }

    #[test]
    fn a_page_may_call_only_the_host_that_served_it() {
        let refused = Some("cross_site_request");
        for (origin, wanted) in [
            ("http://127.0.0.1:8081", None),
            ("http://127.0.0.1:8080", refused),
            ("http://evil.example", refused),
            ("http://evil.example/127.0.0.1:8081", refused),
            ("null", refused),
        ] {
            for hosts in [Hosts::Local, Hosts::Any] {
                let found = code(hosts, &[("host", "127.0.0.1:8081"), ("origin", origin)]);
                assert_eq!(found.as_deref(), wanted, "{origin}");
            }
        }
        assert_eq!(code(Hosts::Any, &[("origin", "http://a.example")]).as_deref(), refused);
    }

    #[test]
    fn a_browser_s_own_word_is_enough() {
        for (site, wanted) in [
            ("same-origin", None),
            ("none", None),
            ("same-site", Some("cross_site_request")),
            ("cross-site", Some("cross_site_request")),
        ] {
            let found = code(Hosts::Any, &[("host", "127.0.0.1:8081"), ("sec-fetch-site", site)]);
            assert_eq!(found.as_deref(), wanted, "{site}");
        }
    }

    #[test]
    fn a_loopback_listener_is_local() {
        assert_eq!(Hosts::reaching("[::1]:8081".parse().unwrap()), Hosts::Local);
        assert_eq!(Hosts::reaching("0.0.0.0:8081".parse().unwrap()), Hosts::Any);
    }
}
