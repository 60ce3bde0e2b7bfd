//! Questions to the PostgreSQL of a restored database. What is in it was a tenant's and may be anything: each session has options of its
//! own, which go before those of roles and databases, and uses the system's own functions only.
//!
//! Not here: the questions (plan::recovery, plan::proof), the PostgreSQL itself (server).

use std::{io::Read as _, time::Duration};

use isyone_backup::{Stop, source::Producer};
use isyone_proto::backup::Fault;

use super::{super::words::Problem, server::Server};
use crate::{base::fsutil::blocking, plan::recovery::Session};

/// An answer to one of our questions is a number.
const MOST_ANSWER: u64 = 4 << 10;
/// A list of relations: of a hundred thousand, a line each.
const MOST_LIST: u64 = 32 << 20;
/// Who is asked what is no tenant's, and where.
pub(in crate::backup) const POSTGRES: (&str, &str) = ("postgres", "postgres");
/// How long a question may take.
const ASK_S: u64 = 60;
/// How long a look into all tables may take: of 500 GB on a fast disk, hours. It says nothing meanwhile.
const LOOK_S: u64 = 6 * 3_600;
/// How long PostgreSQL may be silent before, and within, a list. It may take longer altogether: whoever reads it looks at a file for each
/// line.
const LIST_SILENCE: Duration = Duration::from_secs(3_600);
/// Beyond a program's own limit, for it to end by that.
const GRACE: Duration = Duration::from_secs(60);

fn psql(
    (role, database): (&str, &str),
    session: Session,
    statement: &str,
    limit_s: Option<u64>,
) -> Vec<String> {
    let options = format!("PGOPTIONS={}", session.options());
    let limit = limit_s.map(|limit| limit.to_string());
    let limited = limit
        .iter()
        .flat_map(|limit| ["timeout", "-k", "5", limit.as_str()]);
    let words = [
        "psql",
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-U",
        role,
        "-d",
        database,
        "-c",
        statement,
    ];
    let all = ["env", options.as_str()].into_iter().chain(limited);
    all.chain(words).map(str::to_owned).collect()
}

/// The one value that a statement gives.
pub(in crate::backup) async fn ask(
    server: &dyn Server,
    who: (&str, &str),
    statement: &str,
    stop: &Stop,
) -> Result<String, Problem> {
    let words = psql(who, Session::Value, statement, Some(ASK_S));
    let silence = Duration::from_secs(ASK_S) + GRACE;
    let client = server.run(words, silence, stop).await?;
    let said = answer(client, MOST_ANSWER).await?;
    Ok(said.trim().to_owned())
}

/// Lines as they come.
pub(in crate::backup) async fn lines(
    server: &dyn Server,
    who: (&str, &str),
    statement: &str,
    stop: &Stop,
) -> Result<Box<dyn Producer>, Problem> {
    let words = psql(who, Session::List, statement, None);
    server.run(words, LIST_SILENCE, stop).await
}

/// The lines that a statement gives.
pub(in crate::backup) async fn list(
    server: &dyn Server,
    who: (&str, &str),
    statement: &str,
    stop: &Stop,
) -> Result<String, Problem> {
    answer(lines(server, who, statement, stop).await?, MOST_LIST).await
}

/// The lines that a statement gives which looks into everything, and writes down what it finds.
pub(in crate::backup) async fn look(
    server: &dyn Server,
    who: (&str, &str),
    statement: &str,
    stop: &Stop,
) -> Result<String, Problem> {
    let words = psql(who, Session::Look, statement, Some(LOOK_S));
    let silence = Duration::from_secs(LOOK_S) + GRACE;
    answer(server.run(words, silence, stop).await?, MOST_LIST).await
}

async fn answer(mut client: Box<dyn Producer>, most: u64) -> Result<String, Problem> {
    let said = blocking(move || {
        let mut said = Vec::new();
        (&mut client).take(most).read_to_end(&mut said)?;
        client.finish()?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    });
    let failed = |_| Problem::new(Fault::Other, "the restored PostgreSQL does not answer");
    said.await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_no_clock_and_each_session_has_its_own_options() {
        let who = ("odoo", "odoo_alfa");
        let list = psql(who, Session::List, "COPY x TO STDOUT", None);
        assert!(!list.contains(&"timeout".to_owned()), "{list:?}");
        assert_eq!(list[2], "psql");
        let value = psql(who, Session::Value, "SELECT 1", Some(60));
        assert_eq!(value[2..6], ["timeout", "-k", "5", "60"]);
        for (words, has) in [(&list, "statement_timeout=0"), (&value, "=50000")] {
            assert_eq!(words[0], "env");
            assert!(words[1].starts_with("PGOPTIONS=-c "), "{words:?}");
            assert!(words[1].contains("default_transaction_read_only=on"));
            assert!(words[1].contains(has), "{words:?}");
        }
    }
}
