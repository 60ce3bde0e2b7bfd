//! Join tokens: `isy1.<id>.<secret>.<pin>`. The pin is the SHA-256 of the coordinator's CA certificate, so that an
//! agent can authenticate the coordinator at first contact.
//!
//! Not here: issuing and redeeming a token (coordinator).

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

use crate::{plan::Secret, spec::ValueError};

/// What the coordinator stores of a token's secret half: its SHA-256, hex.
pub fn secret_hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

/// A join token as an operator hands it to `isy-agent join`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Public half, which names the token in the store and in logs: 16 hex digits.
    pub id: String,
    /// Secret half: 64 hex digits (256 bits).
    pub secret: Secret,
    /// SHA-256 of the CA certificate's DER: 64 hex digits.
    pub ca_pin: String,
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl FromStr for JoinToken {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        // The text is secret: errors never repeat it.
        let bad = || {
            ValueError(
                "is not a join token: expected `isy1.<id>.<secret>.<pin>` as printed by `isyctl host token`"
                    .to_owned(),
            )
        };
        let parts: Vec<&str> = text.trim().split('.').collect();
        match parts[..] {
            ["isy1", id, secret, pin]
                if is_hex(id, 16) && is_hex(secret, 64) && is_hex(pin, 64) =>
            {
                Ok(Self {
                    id: id.to_owned(),
                    secret: Secret::new(secret),
                    ca_pin: pin.to_owned(),
                })
            }
            _ => Err(bad()),
        }
    }
}

impl JoinToken {
    /// The text form, which is secret.
    pub fn expose(&self) -> String {
        format!("isy1.{}.{}.{}", self.id, self.secret.expose(), self.ca_pin)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "isy1.{}.[secret].{}", self.id, self.ca_pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_errors_do_not_leak_it() {
        let token = JoinToken {
            id: "0".repeat(16),
            secret: Secret::new("a".repeat(64)),
            ca_pin: "b".repeat(64),
        };
        assert_eq!(token.expose().parse::<JoinToken>().unwrap(), token);
        assert!(!token.to_string().contains(&"a".repeat(64)));
        let error = format!("isy1.{}", "a".repeat(64))
            .parse::<JoinToken>()
            .unwrap_err();
        assert!(!error.to_string().contains("aaaa"));
    }
}
