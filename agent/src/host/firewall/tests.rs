//! What the coordinator's address says, and that the real `nft` takes what we render.

use super::*;
use crate::plan::firewall::testing::busy;

#[test]
fn the_coordinator_is_closed_by_the_name_or_address_that_the_agent_calls() {
    let name = |text: &str| Some(text.parse().unwrap());
    for (endpoint, wanted) in [
        ("192.0.2.9:7443", (Some([192, 0, 2, 9].into()), None)),
        ("isy.example.com:7443", (None, name("isy.example.com"))),
        ("coordinator:7443", (None, name("coordinator"))),
        ("[2001:db8::9]:7443", (None, None)),
    ] {
        assert_eq!(control(endpoint), wanted, "{endpoint}");
    }
}

/// Only checks, so it changes nothing on the machine that runs it.
#[tokio::test]
async fn nft_takes_what_we_render() {
    let (plan, around) = busy();
    let (rules, limits) = (render(&plan, &around), render_limits(&plan, &around));
    for text in [&rules, &limits, &format!("{rules}{limits}")] {
        match nft(&["--check", "-f", "-"], text).await {
            Ok(()) => {}
            Err(FirewallError::Missing(e)) => println!("not run, there is no nft here: {e}"),
            Err(FirewallError::Refused(e)) if e.contains("not permitted") => {
                println!("not run, nft is not permitted here: {e}");
            }
            Err(e) => panic!("{e}\n{text}"),
        }
    }
}
