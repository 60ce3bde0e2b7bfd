//! The tenants' answers on a test's site, by path: several kinds of pages, slow ones, and echoes of the request.

use std::time::Duration;

/// Large enough for an edge to compress it.
const LARGE: usize = 8 * 1024;
/// Long enough that requests started one after another are all in flight together.
const SLOW: Duration = Duration::from_secs(3);

/// The answer to a request's head; the status is always 200.
///
/// `/page` is HTML, `/picture` a picture, `/packed` HTML that is compressed already, `/slow` answers late, `/echo`
/// returns the request, and any other path answers like a health check.
pub fn reply(head: &str) -> Vec<u8> {
    let path = head.split(' ').nth(1).unwrap_or_default();
    match path.split('?').next().unwrap_or_default() {
        "/page" => answer(
            "Content-Type: text/html; charset=utf-8\r\n",
            &"a".repeat(LARGE),
        ),
        "/picture" => answer("Content-Type: image/png\r\n", &"a".repeat(LARGE)),
        "/packed" => answer(
            "Content-Type: text/html\r\nContent-Encoding: br\r\n",
            &"a".repeat(LARGE),
        ),
        "/slow" => {
            std::thread::sleep(SLOW);
            answer("", "slow")
        }
        "/echo" | "/websocket" => answer("Content-Type: text/plain\r\n", &head.to_lowercase()),
        _ => answer("", "{\"status\": \"pass\"}"),
    }
}

fn answer(headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
