//! What the screen shows: which list, order, filter and row, the data loaded so far, and what to ask for. How a key, an
//! answer or a log line changes that is in `update`. Pure: time and terminal size arrive as events.

mod update;

use std::collections::VecDeque;

use isyone_proto::pb::v1::{
    ContainerRole, Host, HostOrder, Tenant, TenantOrder, TopHostsRequest, TopHostsResponse,
    TopTenantsRequest, TopTenantsResponse,
};
use ratatui::crossterm::event::KeyEvent;

use super::{keys::Place, list::List};

/// Rows to ask for when a list is hidden and only its counts matter (a visible one asks for more). Such a request sorts
/// by name: the coordinator maintains that order, while any other is computed from all rows.
const COUNT: u32 = 1;
/// Screen lines that are not rows: summary, tabs, column names, keys.
pub const FRAME_LINES: usize = 4;
/// Lines about a host above its tenants.
pub const HOST_LINES: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Tenants,
    Hosts,
}

/// A view on top of the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// One tenant, scrolled by this many lines.
    Tenant(String, usize),
    /// One host and its tenants.
    Host(String),
    /// The log of one of a tenant's containers.
    Logs(String, ContainerRole),
}

/// A request to the coordinator.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    pub tenants: TopTenantsRequest,
    pub hosts: TopHostsRequest,
    /// One tenant in full.
    pub tenant: Option<String>,
    /// One host in full.
    pub host: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// The query that this answers.
    pub query: Query,
    pub tenants: TopTenantsResponse,
    pub hosts: TopHostsResponse,
    /// The tenant, unless it is gone.
    pub tenant: Option<Tenant>,
    /// The host, unless it is gone.
    pub host: Option<Host>,
}

#[derive(Debug, Clone)]
pub enum Event {
    Key(KeyEvent),
    /// Columns and rows of the terminal.
    Resize(u16, u16),
    /// Time has passed; the current time in milliseconds.
    Tick(i64),
    Answer(Box<Answer>),
    /// The request failed, and why.
    Failed(String),
    /// Lines of the open log.
    LogLines(Vec<String>),
    /// The log has ended, and why.
    LogEnded(String),
    Hangup,
}

/// What the loop must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send [`Model::query`] now, not at the next interval.
    Fetch,
    /// Open a log and close the previous one.
    OpenLog(String, ContainerRole),
    CloseLog,
    Quit,
}

/// Log lines, and how far the user has scrolled up from the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// Oldest first.
    pub lines: VecDeque<String>,
    /// Number of lines below the screen.
    pub below: usize,
    /// Why no more lines come.
    pub ended: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Model {
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    pub now_ms: i64,
    pub context: String,
    /// The list below all layers.
    pub tab: Tab,
    pub tenants: List<TenantOrder, Tenant>,
    pub hosts: List<HostOrder, Host>,
    /// The tenants of the open host.
    pub inside: List<TenantOrder, Tenant>,
    /// Views on top of the list; the last one is visible.
    pub layers: Vec<Layer>,
    /// The open tenant.
    pub tenant: Option<Tenant>,
    /// The open host.
    pub host: Option<Host>,
    pub log: Log,
    /// Set while a filter is being typed: the previous filter.
    pub typing: Option<String>,
    /// Whether the help page is shown.
    pub help: bool,
    /// Time of the last answer.
    pub answered_ms: Option<i64>,
    /// No answer yet for the current view.
    pub waiting: bool,
    /// Why the last request failed.
    pub problem: Option<String>,
    /// Edges that accept connections, and all known edges.
    pub edges: (usize, usize),
}

impl Model {
    pub fn new(context: &str, order: TenantOrder, filter: &str, tab: Tab) -> Self {
        let mut tenants = List::new(order);
        filter.clone_into(&mut tenants.filter);
        Self {
            size: (80, 24),
            now_ms: 0,
            context: context.to_owned(),
            tab,
            tenants,
            hosts: List::new(HostOrder::State),
            inside: List::new(TenantOrder::State),
            layers: Vec::new(),
            tenant: None,
            host: None,
            log: Log::default(),
            typing: None,
            help: false,
            answered_ms: None,
            waiting: true,
            problem: None,
            edges: (0, 0),
        }
    }

    /// Number of lines for rows of the visible list.
    pub fn height(&self) -> usize {
        let all = usize::from(self.size.1).saturating_sub(FRAME_LINES);
        let above = if matches!(self.layers.last(), Some(Layer::Host(_))) {
            HOST_LINES
        } else {
            0
        };
        all.saturating_sub(above).max(1)
    }

    /// Number of lines for text, which also uses the line of the column names.
    pub fn text_height(&self) -> usize {
        usize::from(self.size.1)
            .saturating_sub(FRAME_LINES - 1)
            .max(1)
    }

    /// Where keys are pressed now.
    pub fn place(&self) -> Place {
        match self.layers.last() {
            _ if self.help => Place::Help,
            _ if self.typing.is_some() => Place::Filter,
            None | Some(Layer::Host(_)) => Place::List,
            Some(Layer::Tenant(..)) => Place::Tenant,
            Some(Layer::Logs(..)) => Place::Logs,
        }
    }

    /// What to ask for: the rows on the screen, and only the counts of the other list.
    pub fn query(&self) -> Query {
        let listed = |tab| self.tab == tab && self.layers.is_empty();
        let mut query = Query {
            tenants: self.ask_tenants(&self.tenants, "", listed(Tab::Tenants)),
            hosts: self.ask_hosts(listed(Tab::Hosts)),
            tenant: None,
            host: None,
        };
        match self.layers.last() {
            Some(Layer::Tenant(name, _)) => query.tenant = Some(name.clone()),
            Some(Layer::Host(name)) => {
                query.tenants = self.ask_tenants(&self.inside, name, true);
                query.host = Some(name.clone());
            }
            Some(Layer::Logs(..)) | None => {}
        }
        query
    }

    fn ask_tenants(
        &self,
        list: &List<TenantOrder, Tenant>,
        host: &str,
        seen: bool,
    ) -> TopTenantsRequest {
        let filter = list.filter.clone();
        if !seen {
            let order = TenantOrder::Name.into();
            return TopTenantsRequest {
                order,
                filter,
                limit: COUNT,
                ..TopTenantsRequest::default()
            };
        }
        let (offset, limit) = list.window(self.height());
        TopTenantsRequest {
            order: list.order.into(),
            reverse: list.reverse,
            filter,
            host: host.to_owned(),
            offset: wire(offset),
            limit: wire(limit),
        }
    }

    fn ask_hosts(&self, seen: bool) -> TopHostsRequest {
        let (list, filter) = (&self.hosts, self.hosts.filter.clone());
        if !seen {
            let order = HostOrder::Name.into();
            return TopHostsRequest {
                order,
                filter,
                limit: COUNT,
                ..TopHostsRequest::default()
            };
        }
        let (offset, limit) = list.window(self.height());
        TopHostsRequest {
            order: list.order.into(),
            reverse: list.reverse,
            filter,
            offset: wire(offset),
            limit: wire(limit),
        }
    }
}

fn wire(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
