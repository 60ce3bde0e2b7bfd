//! A placement as a table: the hosts that fit, best first, then the others with the reasons against them.

use isyone_proto::pb::v1::Placement;

use super::{
    format,
    table::{Cell, Paint, Table},
};

/// The table; with `wide` also the components of the load.
pub fn table(placement: &Placement, wide: bool) -> String {
    let mut header = vec!["RANK", "HOST", "FITS", "LOAD AFTER"];
    if wide {
        header.extend(["MEMORY", "CPU", "DISK"]);
    }
    header.extend(["TENANTS", "WHY NOT"]);
    let mut table = Table::new(header);
    for score in &placement.hosts {
        let number = |permille| {
            if score.fits {
                format::percent(permille)
            } else {
                "-".to_owned()
            }
        };
        let rank = if score.rank == 0 {
            "-".to_owned()
        } else {
            score.rank.to_string()
        };
        let fits = if score.fits {
            Paint::Good.on("yes")
        } else {
            Paint::Bad.on("no")
        };
        let mut row: Vec<Cell> = vec![
            rank.into(),
            score.host.as_str().into(),
            fits,
            number(score.load_permille).into(),
        ];
        if wide {
            row.extend(
                [
                    score.memory_permille,
                    score.cpu_permille,
                    score.disk_permille,
                ]
                .map(|p| number(p).into()),
            );
        }
        row.extend([
            score.tenants.to_string().into(),
            score.reasons.join(", ").into(),
        ]);
        table.row(row);
    }
    let mut text = table.render();
    let shown = placement.hosts.len();
    if (placement.considered as usize) > shown {
        text.push_str(&format!(
            "({shown} of {} shown, {} fit)\n",
            format::plural(placement.considered as usize, "host"),
            placement.fitting
        ));
    }
    text
}

/// The decision in a sentence, then the table.
pub fn explained(placement: &Placement, wide: bool) -> String {
    let tenant = Cell::from(&placement.tenant);
    let today = Cell::from(chosen(&placement.host, &placement.reason));
    let mut text = if placement.original_reason.is_empty() {
        format!("{tenant} would go to {today}\n\n")
    } else {
        let then = Cell::from(chosen(&placement.host, &placement.original_reason));
        format!(
            "{tenant} is on {then}\ntoday: {}\n\n",
            Cell::from(&placement.reason)
        )
    };
    text.push_str(&table(placement, wide));
    text
}

/// `h2: least loaded of 3`, whether or not the coordinator's sentence starts with the host.
pub fn chosen(host: &str, reason: &str) -> String {
    if reason.starts_with(host) {
        reason.to_owned()
    } else {
        format!("{}: {reason}", format::or_dash(host))
    }
}
