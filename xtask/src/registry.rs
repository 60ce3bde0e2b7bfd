//! Checks quickly, and only once, whether a container registry answers, so that a machine without one goes straight to
//! building its images.

use crate::cmd::output;
use crate::engine::docker;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::mpsc;
use std::time::Duration;

/// Limit for name resolution and TCP connection together; a slower registry is of no use to us.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Whether a connection to the daemon's registry (or mirror, or proxy) succeeds.
pub(crate) fn reachable() -> bool {
    // The daemon knows where it would pull from: mirrors first, then its index server.
    let format = "{{with .HTTPSProxy}}{{.}}\n{{end}}{{range .RegistryConfig.Mirrors}}{{.}}\n{{end}}{{.IndexServerAddress}}";
    let Ok(said) = output(&mut docker(["info", "--format", format])) else {
        return false;
    };
    let (tell, answers) = mpsc::channel();
    let mut asked = 0;
    for address in said.lines().filter_map(address) {
        asked += 1;
        let tell = tell.clone();
        // Threads, because name resolution has no time limit; a late one ends with the process.
        std::thread::spawn(move || tell.send(connects(&address)));
    }
    (0..asked).any(|_| answers.recv_timeout(ANSWER_LIMIT).unwrap_or(false))
}

fn connects(address: &str) -> bool {
    address.to_socket_addrs().is_ok_and(|found| {
        found
            .take(4)
            .any(|one| TcpStream::connect_timeout(&one, ANSWER_LIMIT / 2).is_ok())
    })
}

/// `host:port` of a URL such as `https://mirror.example/v1/` or `http://user:word@proxy.example:3128`.
fn address(url: &str) -> Option<String> {
    let (scheme, rest) = url
        .trim()
        .split_once("://")
        .unwrap_or(("https", url.trim()));
    let authority = rest.split('/').next()?;
    let host = authority
        .rsplit('@')
        .next()
        .filter(|host| !host.is_empty())?;
    let has_port = host
        .rsplit(':')
        .next()
        .is_some_and(|end| end.parse::<u16>().is_ok());
    let port = if scheme == "http" { 80 } else { 443 };
    Some(if has_port {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    })
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses_are_read_from_urls() {
        assert_eq!(
            address("https://mirror.example/v1/").as_deref(),
            Some("mirror.example:443")
        );
        assert_eq!(
            address("http://u:p@proxy.example:3128").as_deref(),
            Some("proxy.example:3128")
        );
        assert_eq!(
            address("http://mirror.example").as_deref(),
            Some("mirror.example:80")
        );
        assert_eq!(
            address("mirror.example:5000/").as_deref(),
            Some("mirror.example:5000")
        );
        assert_eq!(address(""), None);
    }
}
