//! What is on the screen, as a value: summary, tabs, rows or text, and keys. Pure.

use isyone_proto::pb::v1::{ContainerRole, Host};

use super::{
    list::{List, Order},
    model::{HOST_LINES, Layer, Model, Tab},
    rows::{self, Cell, Column},
};
use crate::output::{
    self, format,
    table::{self, Paint, clean},
};

/// Show the age of an answer older than this: five refreshes of the default interval were missed.
const OLD_MS: i64 = 10_000;

/// A part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// A single line without control characters.
    pub text: String,
    pub paint: Option<Paint>,
    pub strong: bool,
}

pub type Line = Vec<Piece>;

fn plain(text: impl AsRef<str>) -> Piece {
    Piece {
        text: clean_line(text.as_ref()),
        paint: None,
        strong: false,
    }
}

fn painted(text: impl AsRef<str>, paint: Paint) -> Piece {
    Piece {
        paint: Some(paint),
        ..plain(text)
    }
}

fn strong(text: impl AsRef<str>) -> Piece {
    Piece {
        strong: true,
        ..plain(text)
    }
}

/// Like [`clean`], but keeps trailing blanks: another piece may follow.
fn clean_line(text: &str) -> String {
    let kept = text.len() - text.trim_end_matches(' ').len();
    clean(text) + &" ".repeat(kept)
}

/// A column's heading as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its name, with an arrow when the list is sorted by it.
    pub name: String,
    /// Width in characters; 0 for the column that takes what is left.
    pub width: u16,
    /// Right-aligned.
    pub right: bool,
    /// Whether the list is sorted by this column.
    pub decides: bool,
}

/// The middle of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Rows below the column names.
    Rows {
        /// Lines above the table.
        above: Vec<Line>,
        heads: Vec<Head>,
        /// Cells of each row; empty for a row not loaded yet.
        rows: Vec<Vec<Cell>>,
        selected: Option<usize>,
    },
    Text(Vec<Line>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScreenView {
    /// Columns and rows of the terminal that the view is for.
    pub size: (u16, u16),
    pub summary: Line,
    pub place: Line,
    pub body: Body,
    /// The available keys, or the current problem.
    pub footer: Line,
}

pub fn view(model: &Model) -> ScreenView {
    ScreenView {
        size: model.size,
        summary: summary(model),
        place: place(model),
        body: body(model),
        footer: footer(model),
    }
}

fn counted(matching: usize, total: usize) -> String {
    if matching == total {
        total.to_string()
    } else {
        format!("{matching} of {total}")
    }
}

fn summary(model: &Model) -> Line {
    let mut line = vec![strong("isyctl top"), plain(format!("  {}", model.context))];
    if model.answered_ms.is_none() {
        line.push(plain("  asking the coordinator…"));
        return line;
    }
    let tenants = counted(model.tenants.matching, model.tenants.total);
    let hosts = counted(model.hosts.matching, model.hosts.total);
    line.push(plain(format!("   tenants {tenants}   hosts {hosts}")));
    match model.edges {
        (_, 0) => {}
        (up, all) if up == all => line.push(plain(format!("   edges {up} up"))),
        (up, all) => line.push(painted(format!("   edges {up} of {all} up"), Paint::Bad)),
    }
    line
}

fn place(model: &Model) -> Line {
    let tab = |name: &str, own: Tab| {
        let here = model.tab == own;
        if here {
            strong(format!("[{name}]"))
        } else {
            plain(format!(" {name} "))
        }
    };
    let mut line = vec![
        tab("Tenants", Tab::Tenants),
        plain(" "),
        tab("Hosts", Tab::Hosts),
    ];
    for (depth, layer) in model.layers.iter().enumerate() {
        let text = match layer {
            Layer::Tenant(name, _) | Layer::Host(name) => name.clone(),
            Layer::Logs(name, role) => {
                let whose = if *role == ContainerRole::Postgres {
                    "PostgreSQL"
                } else {
                    "Odoo"
                };
                let told = matches!(
                    depth.checked_sub(1).map(|below| &model.layers[below]),
                    Some(Layer::Tenant(..))
                );
                if told {
                    format!("{whose}'s log")
                } else {
                    format!("{whose}'s log of {name}")
                }
            }
        };
        line.push(plain(" > "));
        line.push(strong(text));
    }
    match (model.layers.last(), model.tab) {
        (Some(Layer::Host(_)), _) => line.extend(listed(&model.inside, model)),
        (None, Tab::Tenants) => line.extend(listed(&model.tenants, model)),
        (None, Tab::Hosts) => line.extend(listed(&model.hosts, model)),
        _ => {}
    }
    line
}

fn listed<O: Order, T>(list: &List<O, T>, model: &Model) -> Line {
    let round = if list.reverse { ", reversed" } else { "" };
    let mut line = vec![plain(format!("   by {}{round}", list.order.word()))];
    if model.typing.is_some() {
        line.push(strong(format!("   /{}_", list.filter)));
    } else if !list.filter.is_empty() {
        line.push(painted(format!("   /{}", list.filter), Paint::Warn));
    }
    line
}

fn body(model: &Model) -> Body {
    if model.help {
        let line = |(keys, what): &(&str, &str)| vec![strong(format!(" {keys:<29}")), plain(*what)];
        return Body::Text(super::keys::HELP.iter().map(line).collect());
    }
    match (model.layers.last(), model.tab) {
        (Some(Layer::Tenant(_, scrolled)), _) => Body::Text(
            tenant_lines(model)
                .into_iter()
                .skip(*scrolled)
                .take(model.text_height())
                .collect(),
        ),
        (Some(Layer::Logs(..)), _) => Body::Text(log(model)),
        (Some(Layer::Host(_)), _) => table(&model.inside, &rows::TENANTS, model, host_lines(model)),
        (None, Tab::Tenants) => table(&model.tenants, &rows::TENANTS, model, Vec::new()),
        (None, Tab::Hosts) => table(&model.hosts, &rows::HOSTS, model, Vec::new()),
    }
}

fn table<O: Order, T>(
    list: &List<O, T>,
    columns: &'static [Column<T, O>],
    model: &Model,
    above: Vec<Line>,
) -> Body {
    let columns = rows::fitting(columns, model.size.0);
    let head = |column: &&Column<T, O>| {
        let decides = column.order == Some(list.order);
        let arrow = match (decides, list.reverse) {
            (false, _) => "",
            (true, false) => "▼",
            (true, true) => "▲",
        };
        Head {
            name: format!("{}{arrow}", column.name),
            width: column.width,
            right: column.right,
            decides,
        }
    };
    let cells = |row: Option<&T>| match row {
        Some(row) => columns
            .iter()
            .map(|column| (column.cell)(row, model.now_ms))
            .collect(),
        None => Vec::new(),
    };
    let rows: Vec<_> = list.visible(model.height()).map(cells).collect();
    let selected = (!rows.is_empty()).then(|| list.selected_line());
    Body::Rows {
        above,
        heads: columns.iter().map(head).collect(),
        rows,
        selected,
    }
}

/// Everything about the open tenant.
pub(super) fn tenant_lines(model: &Model) -> Vec<Line> {
    match &model.tenant {
        Some(tenant) => lines(&output::tenant::details(tenant, false, model.now_ms)),
        None => unknown(model, "there is no such tenant any more"),
    }
}

fn unknown(model: &Model, gone: &str) -> Vec<Line> {
    // The last answer is for the previous view and says nothing about this tenant.
    let text = if model.waiting {
        "asking the coordinator…"
    } else {
        gone
    };
    vec![vec![plain(text)]]
}

fn lines(text: &str) -> Vec<Line> {
    let piece = |(text, paint): (String, Option<Paint>)| Piece {
        text,
        paint,
        strong: false,
    };
    text.lines()
        .map(|line| table::pieces(line).into_iter().map(piece).collect())
        .collect()
}

/// A summary of a host in a few lines.
fn host_lines(model: &Model) -> Vec<Line> {
    let mut lines = match &model.host {
        Some(host) => host_summary(host, model.now_ms),
        None => unknown(model, "there is no such host any more"),
    };
    lines.resize(HOST_LINES, Vec::new());
    lines
}

fn host_summary(host: &Host, now_ms: i64) -> Vec<Line> {
    let state = rows::host_state(host, now_ms);
    let state = Piece {
        text: state.text,
        paint: state.paint,
        strong: false,
    };
    let mut first = vec![state];
    if !host.message.is_empty() {
        first.push(plain(format!(": {}", host.message)));
    }
    let used = match &host.resources {
        Some(r) => output::host::used(r)
            .into_iter()
            .take(3)
            .map(|(name, value)| format!("{name} {value}"))
            .collect(),
        None => vec!["CPU, memory, disk: not known".to_owned()],
    };
    let reserved = output::host::reserved(host);
    vec![
        first,
        vec![plain(format!(
            "{}  {}",
            format::or_dash(&host.advertise_address),
            format::labels(&host.labels)
        ))],
        vec![plain(used.join("   "))],
        vec![plain(format!("reserved {reserved}"))],
        vec![plain(format!(
            "agent {}   Docker {}   reported {} ago",
            format::or_dash(&host.agent_version),
            format::or_dash(&host.docker_version),
            format::age(now_ms, host.report_time.as_ref())
        ))],
    ]
}

fn log(model: &Model) -> Vec<Line> {
    let (log, height) = (&model.log, model.text_height());
    let end = log.lines.len().saturating_sub(log.below);
    let from = end.saturating_sub(height);
    log.lines
        .range(from..end)
        .map(|line| vec![plain(line)])
        .collect()
}

fn footer(model: &Model) -> Line {
    if let Some(problem) = &model.problem {
        return vec![painted(format!("{problem} (trying again)"), Paint::Bad)];
    }
    let silent_ms = model.answered_ms.map_or(0, |at| model.now_ms - at);
    if silent_ms > OLD_MS {
        let text = format!(
            "the figures are {} old: the coordinator does not answer",
            format::duration(silent_ms)
        );
        return vec![painted(text, Paint::Bad)];
    }
    let keys = match (model.layers.last(), model.tab) {
        _ if model.help => "any key: back   q quit",
        _ if model.typing.is_some() => "type a part of a name   Enter accept   Esc as before",
        (Some(Layer::Logs(..)), _) => return log_footer(model),
        (Some(Layer::Tenant(..)), _) => {
            "up/down scroll   l log   L PostgreSQL's log   Esc back   q quit"
        }
        (None, Tab::Hosts) => {
            "Enter its tenants  Tab tenants  s order  r reverse  / filter  ? help  q quit"
        }
        _ => "Enter details  l log  Tab hosts  s order  r reverse  / filter  ? help  q quit",
    };
    vec![painted(keys, Paint::Faint)]
}

fn log_footer(model: &Model) -> Line {
    let log = &model.log;
    if let Some(why) = &log.ended {
        return vec![painted(format!("{why}   Esc back"), Paint::Warn)];
    }
    let place = match log.below {
        0 => "following".to_owned(),
        below => format!("{below} newer lines below, G follows"),
    };
    vec![painted(
        format!("{place}   up/down scroll   Esc back   q quit"),
        Paint::Faint,
    )]
}
