//! Tokens of list calls: where the next page begins, sealed, so that a token says nothing, cannot be made up, and is good for
//! the same list with the same filter only.
//!
//! Not here: what is listed, and how much at once (each service).

use std::str::FromStr;

use isyone_fleet::desired::Sealed;
use isyone_proto::error::FieldError;

use super::Api;
use crate::base::secrets::Sealer;

/// Longest token: a host name of 255 bytes, sealed and in base64, is below it.
const MAX_TOKEN: usize = 512;

/// One list, as a caller asked for it.
pub(super) struct Pages<'a> {
    sealer: &'a Sealer,
    list: String,
}

impl Api {
    /// The pages of `method`'s list; `filter` has whatever decides what is in it.
    pub(super) fn pages(&self, method: &str, filter: &[&str]) -> Pages<'_> {
        Pages {
            sealer: &self.parts.sealer,
            list: format!("page of {method} {filter:?}"),
        }
    }
}

impl Pages<'_> {
    /// What the page before ended with; none for the first page.
    pub(super) fn after<T: FromStr>(&self, token: &str) -> Result<Option<T>, FieldError> {
        if token.is_empty() {
            return Ok(None);
        }
        self.opened(token).map(Some).ok_or_else(|| {
            FieldError::new(
                "page_token",
                "is no `next_page_token` of this list with this filter; begin again without one",
            )
        })
    }

    fn opened<T: FromStr>(&self, token: &str) -> Option<T> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let plain = self.sealer.open(&self.list, &Sealed(token.into()));
        std::str::from_utf8(&plain.ok()?).ok()?.parse().ok()
    }

    /// The token of the page that follows; empty when none does.
    pub(super) fn next(&self, last: Option<impl AsRef<str>>) -> String {
        last.map(|last| {
            self.sealer
                .seal(&self.list, last.as_ref().as_bytes())
                .0
                .into()
        })
        .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use isyone_proto::ids::TenantName;
    use proptest::prelude::*;

    use super::*;

    fn pages<'a>(sealer: &'a Sealer, list: &str) -> Pages<'a> {
        Pages {
            sealer,
            list: list.to_owned(),
        }
    }

    fn after(pages: &Pages<'_>, token: &str) -> Result<Option<TenantName>, FieldError> {
        pages.after(token)
    }

    #[test]
    fn a_token_is_good_for_its_own_list_and_says_nothing() {
        let (sealer, other) = (Sealer::ephemeral(), Sealer::ephemeral());
        let ours = pages(&sealer, "a");
        let token = ours.next(Some("alfa"));
        assert!(!token.contains("alfa") && token.len() <= MAX_TOKEN);
        assert_eq!(after(&ours, &token).unwrap(), Some("alfa".parse().unwrap()));
        assert_eq!(after(&ours, "").unwrap(), None);
        assert_eq!(ours.next(None::<&str>), "");
        let longest = ours.next(Some("x".repeat(255)));
        assert!(ours.after::<String>(&longest).unwrap().is_some());
        let long = "A".repeat(100_000);
        for (pages, token) in [
            (pages(&sealer, "b"), token.as_str()),
            (pages(&other, "a"), token.as_str()),
            (pages(&sealer, "a"), "alfa"), // as they were before
            (pages(&sealer, "a"), &token[1..]),
            (pages(&sealer, "a"), long.as_str()),
        ] {
            let refused = after(&pages, token).unwrap_err();
            assert_eq!(refused.field, "page_token");
            assert!(refused.problem.len() < 200);
        }
    }

    proptest! {
        #[test]
        fn nothing_made_up_is_a_token(text in "\\PC{1,80}|[A-Za-z0-9+/]{0,200}={0,2}", last in "[a-z]{2,20}", at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let sealer = Sealer::ephemeral();
            let ours = pages(&sealer, "a");
            if !text.is_empty() {
                prop_assert!(ours.after::<String>(&text).is_err());
            }
            let mut token = ours.next(Some(&last)).into_bytes();
            let at = at.index(token.len());
            token[at] ^= 1 << bit;
            // A changed bit of base64's padding may stand for the same bytes.
            if let Ok(changed) = String::from_utf8(token)
                && let Ok(read) = ours.after::<String>(&changed)
            {
                prop_assert_eq!(read, Some(last));
            }
        }
    }
}
