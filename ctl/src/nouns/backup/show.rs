//! Backups, and what tenants would lose, for people.

use isyone_proto::{
    convert::unix_ms,
    pb::v1::{
        Backup, BackupBucket, BackupFile, BackupFileKind, BackupProof, BucketState,
        DestinationProtection, ProofVerdict, Protection, Pruned, Standing,
    },
};

use crate::output::{
    format,
    table::{Paint, Table, clean},
};

/// Digits of an id that are shown: as restic shows them, and enough for `backup show`.
const SHORT: usize = 8;

fn short(id: &str) -> &str {
    format::or_dash(id.get(..SHORT).unwrap_or(id))
}

fn notes(backup: &Backup) -> String {
    format::or_dash(&backup.notes.join(",")).to_owned()
}

/// `isyctl backup list`.
pub(super) fn backups(backups: &[Backup], wide: bool) -> String {
    if backups.is_empty() {
        return String::new();
    }
    let mut head = vec![
        "ID",
        "TENANT",
        "TIME",
        "KIND",
        "WHY",
        "DESTINATION",
        "ADDED",
    ];
    if wide {
        head.extend(["READ", "TOOK", "NOTES", "UNTIL"]);
    }
    let mut table = Table::new(head);
    for backup in backups {
        let id = if wide {
            backup.id.as_str()
        } else {
            short(&backup.id)
        };
        let mut row = vec![
            id.into(),
            backup.tenant.as_str().into(),
            format::local(backup.time.as_ref()).into(),
            format::backup_work(backup.work).into(),
            format::backup_purpose(backup.purpose).into(),
            backup.destination.as_str().into(),
            format::bytes(backup.stored_bytes).into(),
        ];
        if wide {
            row.extend([
                format::bytes(backup.read_bytes).into(),
                format::between(backup.time.as_ref(), backup.end_time.as_ref()).into(),
                notes(backup).into(),
                format::local(backup.expire_time.as_ref()).into(),
            ]);
        }
        table.row(row);
    }
    table.render()
}

fn sheet(lines: &[(&str, String)]) -> String {
    lines
        .iter()
        .map(|(key, value)| format!("{key:<11} {value}\n"))
        .collect()
}

/// `isyctl backup show`.
pub(super) fn backup(backup: &Backup) -> String {
    let mut lines = vec![
        ("id", clean(&backup.id)),
        ("tenant", clean(&backup.tenant)),
        ("time", format::local(backup.time.as_ref())),
        ("kind", format::backup_work(backup.work)),
        ("why", format::backup_purpose(backup.purpose)),
        ("destination", clean(&backup.destination)),
        ("read", format::bytes(backup.read_bytes)),
        ("added", format::bytes(backup.stored_bytes)),
        (
            "took",
            format::between(backup.time.as_ref(), backup.end_time.as_ref()),
        ),
        ("notes", clean(&notes(backup))),
    ];
    if let Some(until) = &backup.expire_time {
        let until = format::local(Some(until));
        lines.push(("kept until", format!("{until} (its tenant is deleted)")));
    }
    sheet(&lines)
}

/// `isyctl backup ls TENANT BACKUP`.
pub(super) fn files(files: &[BackupFile]) -> String {
    if files.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NAME", "SIZE"]);
    for file in files {
        let (end, size) = match file.kind() {
            BackupFileKind::File => ("", format::bytes(file.bytes)),
            BackupFileKind::Folder => ("/", "-".to_owned()),
            BackupFileKind::Other | BackupFileKind::Unspecified => ("", "not kept".to_owned()),
        };
        table.row([format!("{}{end}", file.name).into(), size.into()]);
    }
    table.render()
}

fn standing(shown: &Protection) -> String {
    format::standing(shown.standing)
}

/// What would be lost: the time since the newest moment that can be restored, or everything.
fn loses(shown: &Protection, now_ms: i64) -> String {
    match (&shown.restorable_time, shown.standing()) {
        (_, Standing::NothingToLose) => "nothing".to_owned(),
        (Some(time), Standing::Protected | Standing::Partly | Standing::NotProtected) => {
            format::duration(now_ms.saturating_sub(unix_ms(time)))
        }
        (None, Standing::NotProtected | Standing::NoneMade) => "everything".to_owned(),
        _ => "-".to_owned(),
    }
}

fn base(shown: &Protection) -> Option<&prost_types::Timestamp> {
    let bases = shown
        .destinations
        .iter()
        .filter_map(|d| d.base_time.as_ref());
    bases.max_by_key(|time| unix_ms(time))
}

/// `isyctl backup status`.
pub(super) fn protections(all: &[Protection], wide: bool, now_ms: i64) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut head = vec![
        "TENANT",
        "STANDING",
        "WOULD LOSE",
        "MAY LOSE",
        "LAST BACKUP",
        "FROM",
    ];
    if wide {
        head.extend(["PLAN", "SPOOL", "VERIFIED", "NOW", "SUMMARY"]);
    }
    let mut table = Table::new(head);
    for shown in all {
        let mut row = vec![
            shown.tenant.as_str().into(),
            Paint::word(&standing(shown)),
            loses(shown, now_ms).into(),
            rpo(shown).into(),
            format::age(now_ms, base(shown)).into(),
            format::or_dash(&shown.restorable_from).into(),
        ];
        if wide {
            let spool = shown.spool.as_ref().map(|spool| format::bytes(spool.bytes));
            row.extend([
                shown.plan.as_str().into(),
                spool.unwrap_or_else(|| "-".to_owned()).into(),
                verified(shown, now_ms).into(),
                now(shown).into(),
                shown.summary.as_str().into(),
            ]);
        }
        table.row(row);
    }
    table.render()
}

/// Buckets with copies, below the tenants.
pub(super) fn buckets(all: &[BackupBucket], now_ms: i64) -> String {
    if all.is_empty() {
        return String::new();
    }
    let head = vec![
        "BUCKET",
        "COPY OF",
        "STATE",
        "BEHIND",
        "WAITING",
        "LAST ERROR",
    ];
    let mut table = Table::new(head);
    for bucket in all {
        let state = match bucket.state() {
            BucketState::Unspecified => "unknown",
            BucketState::Up => "up",
            BucketState::Down => "down",
        };
        let behind = match bucket.behind_ms {
            0 => "-".to_owned(),
            ms => format::duration(ms),
        };
        table.row(vec![
            bucket.name.as_str().into(),
            bucket.destination.as_str().into(),
            Paint::word(state),
            behind.into(),
            bucket.waiting.to_string().into(),
            bucket_failure(bucket, now_ms).into(),
        ]);
    }
    format!("\n{}", table.render())
}

fn bucket_failure(bucket: &BackupBucket, now_ms: i64) -> String {
    match (&*bucket.failure, bucket.only_there) {
        ("", 0) if bucket.keeps_all => "- (it lets nobody remove anything)".to_owned(),
        ("", 0) => "-".to_owned(),
        ("", count) => format!("{count} snapshots are only there"),
        (failure, _) => {
            let age = format::age(now_ms, bucket.failure_time.as_ref());
            format!("{age} ago: {}", clean(failure))
        }
    }
}

fn rpo(shown: &Protection) -> String {
    match shown.rpo_ms {
        0 => "-".to_owned(),
        ms => format::duration(ms),
    }
}

/// When its backups were last found to be whole, the longest ago of them; or that they are not.
fn verified(shown: &Protection, now_ms: i64) -> String {
    let verdict = |d: &DestinationProtection| d.proof.as_ref().map(BackupProof::verdict);
    let has = |one| { shown.destinations.iter() }.any(|d| verdict(d) == Some(one));
    let times = shown.destinations.iter().map(|d| d.verify_time.as_ref());
    let oldest = times.min_by_key(|time| time.map(unix_ms)).flatten();
    format::verified(
        now_ms,
        oldest,
        (has(ProofVerdict::Damaged), has(ProofVerdict::Incomplete)),
    )
}

/// What a proof has found, in a line.
pub(super) fn proof(proof: &BackupProof) -> String {
    let took = format::between(proof.begin_time.as_ref(), proof.end_time.as_ref());
    let is_partly = proof.verdict() == ProofVerdict::Proven && !proof.left_out.is_empty();
    let mut text = format!(
        "{}{} (backup {} of {}, {} tables and indexes, {} files, {} on {} in {took})",
        format::proof_verdict(proof.verdict),
        if is_partly { " in part" } else { "" },
        short(&proof.backup_id),
        format::local(proof.backup_time.as_ref()),
        proof.relations,
        proof.attachments,
        format::bytes(proof.bytes),
        clean(&proof.host),
    );
    for damage in &proof.damages {
        text += &format!("\n  damaged: {}", clean(damage));
    }
    if proof.more_damages > 0 {
        text += &format!("\n  and {} more", proof.more_damages);
    }
    for what in &proof.left_out {
        text += &format!("\n  not looked at: {}", clean(what));
    }
    text
}

/// What is being made, or was asked for.
fn now(shown: &Protection) -> String {
    if let Some(order) = &shown.order {
        let done = match order.bytes_total {
            0 => format::bytes(order.bytes_done),
            total => format::share(order.bytes_done, total),
        };
        let again = match order.message.as_str() {
            "" => String::new(),
            message => format!(", tried again: {message}"),
        };
        let work = format::backup_work(order.work);
        return format!("{work} to {} ({done}{again})", order.destination);
    }
    if let Some(proving) = &shown.proving {
        let doing = match proving.message.as_str() {
            "" => String::new(),
            message => format!(": {message}"),
        };
        return format!(
            "proof of {} on {}{doing}",
            proving.destination, proving.host
        );
    }
    match (&shown.asked, &shown.proof_asked) {
        (Some(asked), _) => format!("waits: asked for by {}", asked.actor),
        (None, Some(asked)) => format!("waits: proof asked for by {}", asked.actor),
        (None, None) => "-".to_owned(),
    }
}

/// `isyctl backup status TENANT`.
pub(super) fn protection(shown: &Protection, now_ms: i64) -> String {
    let mut lines = vec![
        ("tenant", clean(&shown.tenant)),
        ("plan", clean(&shown.plan)),
        ("standing", standing(shown)),
        ("summary", clean(&shown.summary)),
        ("would lose", loses(shown, now_ms)),
        ("may lose", rpo(shown)),
        ("now", clean(&now(shown))),
        ("verified", verified(shown, now_ms)),
    ];
    if let Some(spool) = &shown.spool {
        let since = match &spool.oldest_time {
            Some(since) => format!(", the oldest for {}", format::age(now_ms, Some(since))),
            None => String::new(),
        };
        let segments = format::plural(spool.segments as usize, "segment");
        let waits = format!("{segments}, {}{since}", format::bytes(spool.bytes));
        lines.push(("spool", waits));
        if !spool.trouble.is_empty() {
            lines.push(("trouble", clean(&spool.trouble)));
        }
    }
    let table = destinations(&shown.destinations, now_ms);
    let mut text = match table.is_empty() {
        true => sheet(&lines),
        false => format!("{}\n{table}", sheet(&lines)),
    };
    for place in &shown.destinations {
        let name = clean(&place.name);
        if let Some(found) = &place.proof {
            text += &format!("\n{name}: {}\n", proof(found));
        }
        if place.proof_failures > 0 {
            let (times, why) = (place.proof_failures, clean(&place.proof_failure));
            text += &format!("\n{name}: not proven, {times} times in a row: {why}\n");
        }
    }
    text
}

fn destinations(all: &[DestinationProtection], now_ms: i64) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        "DESTINATION",
        "BACKUP",
        "SHIPPED",
        "DUMP",
        "BACKUPS",
        "PRUNED",
        "GAP",
        "FAILURES",
        "WHY",
    ]);
    for one in all {
        let age = |time: &Option<prost_types::Timestamp>| format::age(now_ms, time.as_ref());
        table.row([
            one.name.as_str().into(),
            age(&one.base_time).into(),
            age(&one.shipped_time).into(),
            age(&one.dump_time).into(),
            one.backups.to_string().into(),
            age(&one.prune_time).into(),
            age(&one.gap_time).into(),
            one.failures.to_string().into(),
            format::or_dash(&one.failure).into(),
        ]);
    }
    table.render()
}

/// `isyctl backup prune`.
pub(super) fn pruned(all: &[Pruned], dry_run: bool) -> String {
    let word = if dry_run {
        "would be forgotten"
    } else {
        "forgotten"
    };
    let mut text = String::new();
    for one in all {
        text.push_str(&format!(
            "{}: {} stay, {} {word}\n",
            clean(&one.destination),
            one.kept,
            one.forgotten_count
        ));
        if one.forgotten.is_empty() {
            continue;
        }
        let mut table = Table::new(["ID", "TIME", "KIND"]);
        for snapshot in &one.forgotten {
            table.row([
                short(&snapshot.id).into(),
                format::local(snapshot.time.as_ref()).into(),
                format::or_dash(&snapshot.purpose).into(),
            ]);
        }
        text.push_str(&table.render());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if what was looked at in part reads as if all of it was.
    #[test]
    fn what_was_not_looked_at_makes_it_proven_in_part() {
        let mut shown = BackupProof {
            verdict: ProofVerdict::Proven.into(),
            ..BackupProof::default()
        };
        assert!(proof(&shown).starts_with("proven (backup"));
        shown.left_out = vec!["tables and indexes: amcheck did not end well".into()];
        assert!(proof(&shown).starts_with("proven in part (backup"));
        shown.verdict = ProofVerdict::Damaged.into();
        assert!(proof(&shown).starts_with("damaged (backup"));
    }
}
