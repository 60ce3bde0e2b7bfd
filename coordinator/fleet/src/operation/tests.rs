//! Records: what is written is read, and what older versions wrote is, too.

use isyone_types::operation::OperationState;
use uuid::Uuid;

use super::*;

/// A record of the version before operations were machines.
const OLDER: &str = r#"{"id":"019af000-0000-7000-8000-000000000001","kind":"restore","tenant":"alfa",
    "tenant_uid":"00000000-0000-0000-0000-000000000007","host":"h1","generation":3,"state":"running",
    "steps":[{"name":"place","state":"succeeded","started_at":1,"ended_at":1,"detail":"","progress_percent":100}],
    "created_at":5,"ended_at":null,"error":"","actor":"ana","request_id":"r1"}"#;

#[test]
fn an_older_record_goes_on_as_a_machine() {
    let read: Operation = serde_json::from_str(OLDER).unwrap();
    assert_eq!(read.kind, OperationKind::Undelete);
    assert_eq!(read.tenant().map(TenantName::as_str), Some("alfa"));
    assert_eq!(read.stage(), Stage::Converge(ConvergeStage::Host));
    assert_eq!(
        (read.procedure.host().as_str(), read.procedure.generation()),
        ("h1", 3)
    );
    assert_eq!((read.log.len(), read.stage_since), (1, 5));
    let written = serde_json::to_string(&read).unwrap();
    assert_eq!(serde_json::from_str::<Operation>(&written).unwrap(), read);
}

#[test]
fn a_record_that_lacks_what_it_needs_is_refused() {
    for (from, field) in [
        ("\"host\":\"h1\",", "procedure"),
        ("\"tenant\":\"alfa\",", "subject"),
    ] {
        let text = OLDER.replace(from, "");
        let error = serde_json::from_str::<Operation>(&text)
            .unwrap_err()
            .to_string();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn every_stage_has_a_word_and_every_kind_a_deadline() {
    for stage in Stage::ALL {
        assert!(!stage.word().is_empty());
    }
    for kind in OperationKind::ALL {
        assert!(deadline_ms(kind) > 0 && !kind.word().is_empty());
    }
    let ended = Operation {
        state: OperationState::Cancelled,
        subject: Subject::Host("h1".parse().unwrap()),
        parent: Some(Uuid::nil()),
        ..serde_json::from_str(OLDER).unwrap()
    };
    assert!(ended.is_over() && ended.tenant().is_none() && ended.tenant_uid().is_none());
    let again = serde_json::to_string(&ended).unwrap();
    assert_eq!(serde_json::from_str::<Operation>(&again).unwrap(), ended);
}
