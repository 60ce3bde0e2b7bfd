//! What the tenants of a test's site answer, by path: pages of several kinds, slow ones, and what they were asked.

use std::time::Duration;

/// More than what an edge leaves as it is because it is small.
const LARGE: usize = 8 * 1024;
/// Long enough that requests begun one after another are all under way together.
const SLOW: Duration = Duration::from_secs(3);

/// The answer to a request's head: 200 always.
///
/// `/page` is HTML, `/picture` a picture, `/packed` HTML that is compressed already, `/slow` takes its time, `/echo` says what came in,
/// everything else is a health check's answer.
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
