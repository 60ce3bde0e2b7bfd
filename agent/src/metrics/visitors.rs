//! The relay's figures, `isyone_relay_*`, as it says them itself: passed on with the host's page.
//!
//! The relay is our own program, but for an agent another version of it may run: what is no figure of a relay's is left out, and what is
//! too much is cut off. Not here: what is counted (the crate isyone-relay), tenants' own metrics (relay).

use super::text::{MetricType, Text};
use crate::host::relay::Admin;

/// Prefix of the relay's metrics.
const PREFIX: &str = "isyone_relay_";
/// Most bytes that are passed on: some 40 figures of each of 500 tenants.
const MAX_BYTES: usize = 2 << 20;

/// What goes on the host's page: the relay's own, and whether it answered.
pub async fn page(admin: &Admin) -> String {
    render(admin.metrics().await.as_deref().map_err(|_| ()))
}

fn render(answer: Result<&[u8], ()>) -> String {
    let mut out = Text::default();
    let up = f64::from(u8::from(answer.is_ok()));
    let help = "1 while the host's relay answers its agent";
    out.single("isyone_relay_up", MetricType::Gauge, help, up);
    let mut page = out.finish();
    let text = answer
        .ok()
        .and_then(|bytes| std::str::from_utf8(bytes).ok());
    for line in text.unwrap_or_default().lines().filter(|line| is_own(line)) {
        if page.len() + line.len() >= MAX_BYTES {
            break;
        }
        page.push_str(line);
        page.push('\n');
    }
    page
}

fn is_own(line: &str) -> bool {
    let name = line
        .strip_prefix("# HELP ")
        .or_else(|| line.strip_prefix("# TYPE "))
        .unwrap_or(line);
    name.starts_with(PREFIX) && !name.starts_with("isyone_relay_up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_figures_are_passed_on_and_not_too_many() {
        let text = "# HELP isyone_relay_x X.\n# TYPE isyone_relay_x gauge\nisyone_relay_x{tenant=\"a\"} 1\nup 1\nisyone_relay_up 7\n";
        let page = render(Ok(text.as_bytes()));
        assert!(page.contains("\nisyone_relay_up 1\n"), "{page}");
        assert!(
            page.ends_with("gauge\nisyone_relay_x{tenant=\"a\"} 1\n"),
            "{page}"
        );
        let long = "isyone_relay_x 1\n".repeat(MAX_BYTES / 10);
        assert!(render(Ok(long.as_bytes())).len() <= MAX_BYTES);
    }

    #[test]
    fn a_relay_that_does_not_answer_is_down() {
        assert!(render(Err(())).ends_with("isyone_relay_up 0\n"));
        assert!(render(Ok(&[0xff])).ends_with("isyone_relay_up 1\n"));
    }
}
