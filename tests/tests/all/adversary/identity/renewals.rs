//! Who renews a certificate over and over: what it gets, and what is left for others.
//!
//! Not here: one renewal (mod.rs), how many there may be (isyone-coordinator's operators/renewals).

use super::*;

/// Fails if each renewal is carried out: each is an audit record.
#[test]
fn a_thief_that_renews_without_end_is_sent_away_and_an_admin_still_ends_it() {
    let fleet = Fleet::start("");
    let leaked = operator(&fleet, "ana", v1::Role::Viewer);
    let thief = leaked.connect(&fleet);
    let before = kinds(&fleet).len();
    let refused: Vec<Status> = (0..30)
        .filter_map(|_| renew(&fleet, &thief, "ana").err())
        .collect();
    assert_eq!(refused.len(), 20);
    assert_eq!(refused[0].code(), Code::ResourceExhausted);
    let after = isyone_proto::error::retry_after(&refused[0]).expect("it says when");
    assert!(after > Duration::from_secs(300), "{after:?}");
    assert_eq!(kinds(&fleet).len(), before + 10);
    let new = renew(&fleet, &fleet.admin.connection(), "ana").expect("an admin may");
    is_cut_off(&fleet, &thief, &leaked);
    call(&fleet, &new.connect(&fleet)).expect("the owner works on");
}
