//! Is a database that sorts in a language's order sorted as its PostgreSQL sorts now? Another image may have another ICU, and an index that
//! was made with the one before then leaves rows out, and lets the same key in twice, while PostgreSQL only warns in its log.
//!
//! Not here: a database that sorts by bytes, which is never wrong.

use super::checks::Found;
use crate::{
    client::Client,
    nouns::tenant::inside::{self, Unsaid},
    output::table::clean,
};

/// PostgreSQL 15 and newer; before, a database has no order of ICU's.
const SQL: &str = "SELECT coalesce(datcollversion, ''), coalesce(pg_database_collation_actual_version(oid), '') \
                   FROM pg_database WHERE datname = current_database()";

/// The check.
pub(super) async fn sorting(client: &Client, tenant: &str, order: &str) -> Found {
    let doing = format!("ask how tenant `{tenant}` sorts");
    match inside::query(client, &doing, tenant, SQL).await {
        Ok(said) if said.code == 0 => judge(tenant, order, &said.out),
        Ok(said) => Found::Fail(clean(said.err.trim())),
        Err(Unsaid::Denied(_)) => Found::Skip("needs the role operator".to_owned()),
        Err(Unsaid::Failed(failure)) => Found::Fail(failure.message),
    }
}

fn judge(tenant: &str, order: &str, said: &str) -> Found {
    let Some((made, now)) = said.trim().split_once('|') else {
        return Found::Fail("what PostgreSQL said cannot be read".to_owned());
    };
    let (made, now) = (clean(made), clean(now));
    if made == now {
        return Found::Ok(format!("{order}, ICU {now}"));
    }
    // A tenant's name may have a hyphen, which SQL takes in quotes only.
    let database = format!("\"odoo_{tenant}\"");
    Found::Fail(format!(
        "its indexes are sorted by ICU {made}, and this image has {now}: `isyctl tenant exec {tenant} --container postgres -- psql -U \
         postgres -d odoo_{tenant} -c 'REINDEX DATABASE {database}' -c 'ALTER DATABASE {database} REFRESH COLLATION VERSION'`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_icu_is_a_failure_with_its_remedy() {
        assert_eq!(
            judge("alfa", "pt-BR", "153.121|153.121\n"),
            Found::Ok("pt-BR, ICU 153.121".to_owned())
        );
        let Found::Fail(why) = judge("alfa", "pt-BR", "153.120|153.121\n") else {
            panic!("not the same");
        };
        assert!(
            why.contains("153.120") && why.contains("REINDEX DATABASE \"odoo_alfa\""),
            "{why}"
        );
        assert!(judge("alfa", "pt-BR", "").failed());
    }
}
