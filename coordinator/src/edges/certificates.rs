//! Judges a certificate for tenants' host names before it is stored: is it valid, does its key match, does its chain
//! link up, which names does it cover, and for how long.
//!
//! Pure. Not here: whether browsers trust its issuer; whoever uploads it has to know that.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use isyone_fleet::desired::{
    Sealed,
    certificates::{EdgeCertificate, Origin},
};
use isyone_proto::{error::FieldError, tls};
use rustls_pki_types::CertificateDer;
use tokio_rustls::rustls::{self, sign::CertifiedKey};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Longest chain or key, in bytes: four RSA-4096 certificates with text around them are half of it.
const MAX_PEM_BYTES: usize = 64 * 1024;
/// Most certificates in a chain. TLS clients give up at about as many.
const MAX_CHAIN: usize = 8;
/// Most host names in one certificate; the limit of the largest CAs.
const MAX_NAMES: usize = 100;

/// The content of a valid certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Lower case, in the certificate's order; at least one.
    pub hostnames: Vec<String>,
    /// Serial number, in hex.
    pub serial: String,
    /// Distinguished name of its issuer.
    pub issuer: String,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// The certificates only, without any text around them.
    pub chain_pem: String,
}

impl Judged {
    /// The record to store, with the key sealed for that name.
    pub fn kept(self, name: String, origin: Origin, key: Sealed) -> EdgeCertificate {
        EdgeCertificate {
            name,
            origin,
            hostnames: self.hostnames,
            serial: self.serial,
            issuer: self.issuer,
            not_before: self.not_before,
            not_after: self.not_after,
            chain_pem: self.chain_pem,
            key,
            issued: Vec::new(),
        }
    }
}

/// Judges a chain (leaf first) and its key; an error names the field.
pub fn judge(chain_pem: &str, key_pem: &str, now_s: i64) -> Result<Judged, FieldError> {
    let chain_error = |problem: String| FieldError::new("certificate_pem", problem);
    let key_error = |problem: String| FieldError::new("key_pem", problem);
    if chain_pem.len() > MAX_PEM_BYTES {
        return Err(chain_error(format!("is longer than {MAX_PEM_BYTES} bytes")));
    }
    if key_pem.len() > MAX_PEM_BYTES {
        return Err(key_error(format!("is longer than {MAX_PEM_BYTES} bytes")));
    }
    let chain = tls::certificates("certificate", chain_pem).map_err(|_| {
        chain_error("is no PEM certificate (-----BEGIN CERTIFICATE-----)".to_owned())
    })?;
    let judged = judge_chain(&chain, now_s).map_err(chain_error)?;
    let key = tls::private_key(key_pem).map_err(|_| {
        key_error("is no unencrypted PEM private key (PKCS#8, PKCS#1 or SEC1)".to_owned())
    })?;
    match CertifiedKey::from_der(chain, key, &tls::provider()) {
        Ok(_) => Ok(judged),
        Err(rustls::Error::InconsistentKeys(_)) => Err(key_error(
            "is not the key of the first certificate in certificate_pem".to_owned(),
        )),
        Err(error) => Err(key_error(format!("cannot be used: {error}"))),
    }
}

fn judge_chain(chain: &[CertificateDer<'_>], now_s: i64) -> Result<Judged, String> {
    if chain.len() > MAX_CHAIN {
        return Err(format!(
            "has {} certificates, at most {MAX_CHAIN} make a chain",
            chain.len()
        ));
    }
    let mut parsed = Vec::with_capacity(chain.len());
    for (i, der) in chain.iter().enumerate() {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|e| format!("certificate {} cannot be read: {e}", i + 1))?;
        parsed.push(certificate);
    }
    for (i, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer() != pair[1].subject() {
            return Err(format!(
                "certificate {} was issued by {}, and the next one is {}: the leaf goes first, then each one's issuer",
                i + 1,
                pair[0].issuer(),
                pair[1].subject()
            ));
        }
    }
    let leaf = parsed.first().ok_or("has no certificate in it")?;
    let (not_before, not_after) = (
        leaf.validity().not_before.timestamp(),
        leaf.validity().not_after.timestamp(),
    );
    if not_after <= now_s {
        return Err(format!("ended on {}", leaf.validity().not_after));
    }
    if not_before > now_s {
        return Err(format!(
            "is not valid before {}",
            leaf.validity().not_before
        ));
    }
    let usage = leaf
        .extended_key_usage()
        .map_err(|e| format!("cannot be read: {e}"))?;
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        return Err("is not for servers (extended key usage)".to_owned());
    }
    Ok(Judged {
        hostnames: hostnames(leaf)?,
        serial: hex::encode(leaf.tbs_certificate.raw_serial()),
        issuer: leaf.issuer().to_string(),
        not_before,
        not_after,
        chain_pem: chain.iter().map(|der| pem(der)).collect(),
    })
}

/// Encodes as in RFC 7468.
fn pem(der: &[u8]) -> String {
    const LINE: usize = 64;
    let text = BASE64.encode(der);
    let lines = text
        .as_bytes()
        .chunks(LINE)
        .map(|line| format!("{}\n", String::from_utf8_lossy(line)));
    let body: String = lines.collect();
    format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
}

/// The alternative names; browsers ignore everything else.
fn hostnames(leaf: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let names = leaf
        .subject_alternative_name()
        .map_err(|e| format!("cannot be read: {e}"))?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let dns: Vec<String> = names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    match dns.len() {
        0 => Err("names no host (subject alternative name)".to_owned()),
        n if n > MAX_NAMES => Err(format!("names {n} hosts, at most {MAX_NAMES} are taken")),
        _ => Ok(dns),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        date_time_ymd,
    };

    use super::*;

    const NOW_S: i64 = 1_800_000_000;

    struct Made {
        chain: String,
        key: String,
    }

    fn ca() -> (String, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Test CA");
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, Issuer::new(params, key))
    }

    fn leaf(names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Made {
        let (ca_pem, issuer) = ca();
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
                .unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(2026, 1, 1), date_time_ymd(2030, 1, 1));
        edit(&mut params);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Made {
            chain: certificate.pem() + &ca_pem,
            key: key.serialize_pem(),
        }
    }

    #[test]
    fn a_good_one_says_what_it_is_for() {
        let made = leaf(&["*.Isy.one", "isy.one"], |_| {});
        let judged = judge(&made.chain, &made.key, NOW_S).unwrap();
        assert_eq!(judged.hostnames, ["*.isy.one", "isy.one"]);
        assert_eq!(
            (judged.not_before, judged.not_after),
            (1_767_225_600, 1_893_456_000)
        );
        assert!(judged.issuer.contains("Test CA") && !judged.serial.is_empty());
        let around = format!(
            "\u{1b}[31mtext\n{}more text\n",
            made.chain.replace('\n', "\r\n")
        );
        assert_eq!(
            judge(&around, &made.key, NOW_S).unwrap().chain_pem,
            judged.chain_pem
        );
        assert_eq!(judged.chain_pem, made.chain.replace("\r\n", "\n"));
    }

    #[expect(clippy::too_many_lines, reason = "one table, a case each")]
    #[test]
    fn what_is_wrong_is_said_of_the_field_that_it_is_wrong_with() {
        let good = leaf(&["alfa.isy.one"], |_| {});
        let other = leaf(&["alfa.isy.one"], |_| {});
        let (ca_pem, _) = ca();
        let alone = good
            .chain
            .split_inclusive("-----END CERTIFICATE-----")
            .next()
            .unwrap();
        let client = leaf(&["alfa.isy.one"], |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]
        });
        let old = leaf(&["alfa.isy.one"], |p| {
            p.not_after = date_time_ymd(2026, 2, 1)
        });
        let early = leaf(&["alfa.isy.one"], |p| {
            p.not_before = date_time_ymd(2029, 1, 1)
        });
        let nameless = leaf(&[], |_| {});
        let address = leaf(&["192.0.2.1"], |_| {});
        let stranger = leaf(&["alfa.isy.one"], |_| {});
        let foreign = format!("{}{}", ca_pem, stranger.chain);
        for (chain, key, field, part) in [
            (
                "nonsense",
                good.key.as_str(),
                "certificate_pem",
                "no PEM certificate",
            ),
            (
                good.chain.as_str(),
                "nonsense",
                "key_pem",
                "PEM private key",
            ),
            (&good.chain, &other.key, "key_pem", "not the key"),
            (
                &foreign,
                &stranger.key,
                "certificate_pem",
                "the leaf goes first",
            ),
            (
                &client.chain,
                &client.key,
                "certificate_pem",
                "not for servers",
            ),
            (&old.chain, &old.key, "certificate_pem", "ended on"),
            (
                &early.chain,
                &early.key,
                "certificate_pem",
                "not valid before",
            ),
            (
                &nameless.chain,
                &nameless.key,
                "certificate_pem",
                "names no host",
            ),
            (
                &address.chain,
                &address.key,
                "certificate_pem",
                "names no host",
            ),
            (
                &"x".repeat(MAX_PEM_BYTES + 1),
                &good.key,
                "certificate_pem",
                "longer than",
            ),
        ] {
            let error = judge(chain, key, NOW_S).unwrap_err();
            assert!(
                error.field == field && error.problem.contains(part),
                "{error}"
            );
            assert!(!error.problem.contains("PRIVATE"), "{error}");
        }
        judge(alone, &good.key, NOW_S).unwrap();
    }
}
