//! What went wrong while a copy was fetched, in words, and whether another attempt may help.
//!
//! Not here: trying again (the parent's parent).

use std::{error::Error as _, io};

use isyone_proto::{ids::HostName, pb::agent::v1::ListEnd, tls};
use tonic::{Code, Status};

use crate::{base::beneath, jobs::JobError, peer::STALL};

/// Longest answer of another host that is passed on.
const MAX_TOLD_CHARS: usize = 1_000;
/// Files that are named when they differ.
pub(super) const EXAMPLES: usize = 3;

/// Worth another attempt.
pub(super) fn again(why: impl ToString) -> JobError {
    JobError::Again(why.to_string())
}

/// An error of our own disk. What the other side sent is not the disk's fault.
pub(super) fn disk(e: io::Error) -> JobError {
    match e.kind() {
        _ if beneath::is_for_good(&e) => {
            JobError::Never(format!("this host cannot open the volumes' files: {e}"))
        }
        io::ErrorKind::InvalidData => JobError::Never(e.to_string()),
        io::ErrorKind::WouldBlock => again("an earlier attempt is just ending"),
        _ => again(format!("this host's disk: {e}")),
    }
}

/// What an answer of the other host means.
pub(super) fn told(from: &HostName, status: &Status) -> JobError {
    // What a server says is its message; what happened on the way is in the sources.
    let text = match status.source() {
        None if !status.message().is_empty() => status.message().to_owned(),
        _ => tls::error_chain(status),
    };
    let plain = text.chars().filter(|c| !c.is_control());
    let text: String = plain.take(MAX_TOLD_CHARS).collect();
    match status.code() {
        // Agents of before say no more than this whatever the reason.
        Code::PermissionDenied => again(format!(
            "host {from} does not let this host have it: its plan must grant it, and its copy must be stopped"
        )),
        Code::Unimplemented => JobError::Never(format!(
            "host {from} has an agent of a version that gives no copies away; upgrade it"
        )),
        // The same request gets the same answer.
        Code::FailedPrecondition | Code::InvalidArgument | Code::OutOfRange => {
            JobError::Never(format!("host {from}: {text}"))
        }
        _ => again(format!("host {from}: {text}")),
    }
}

/// What did not come along, for whoever reads of the job.
pub(super) fn skipped(end: &ListEnd) -> String {
    let some = end.skipped_examples.iter().take(EXAMPLES);
    let some: Vec<String> = some.map(|s| s.escape_debug().to_string()).collect();
    format!(
        "{} not copied, neither files nor directories: {}",
        end.skipped,
        some.join(", ")
    )
}

/// Too little came for too long.
pub(super) fn stalled(from: &HostName) -> JobError {
    again(format!(
        "host {from}: too little came for {} s",
        STALL.as_secs()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(status: &Status) -> JobError {
        told(&"h1".parse().unwrap(), status)
    }

    #[test]
    fn what_the_other_host_says_is_passed_on_briefly_and_ends_the_job_where_it_stays_so() {
        let long = "a\u{1b}[31m".repeat(1_000);
        assert_eq!(
            heard(&Status::aborted("refused: it runs")),
            JobError::Again("host h1: refused: it runs".to_owned())
        );
        let JobError::Again(why) = heard(&Status::unavailable(long)) else {
            panic!("it may come yet")
        };
        assert!(why.len() < 1_100 && !why.contains('\u{1b}'), "{why}");
        for code in [
            Code::FailedPrecondition,
            Code::InvalidArgument,
            Code::OutOfRange,
            Code::Unimplemented,
        ] {
            let never = heard(&Status::new(code, "no"));
            assert!(matches!(never, JobError::Never(_)), "{code:?}");
        }
        // As agents of before answer.
        let before = heard(&Status::permission_denied("not granted"));
        assert!(matches!(before, JobError::Again(_)), "{before:?}");
    }
}
