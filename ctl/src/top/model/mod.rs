//! What is looked at: which list, order, filter and row, what is known of it, and what to ask for. What a key, an answer or a line of a
//! log does to that: `update`. Pure: time and size are events.

mod update;

use std::collections::VecDeque;

use isyone_proto::pb::v1::{
    ContainerRole, Host, HostOrder, Tenant, TenantOrder, TopHostsRequest, TopHostsResponse,
    TopTenantsRequest, TopTenantsResponse,
};
use ratatui::crossterm::event::KeyEvent;

use super::{keys::Place, list::List};

/// Rows that are asked for of a list that is not seen, where only their number matters; of one that is seen there are more. They
/// are asked for by name: the coordinator keeps that order, and makes any other from all rows.
const COUNT: u32 = 1;
/// Lines of the screen that are no rows: summary, tabs, column names, keys.
pub const FRAME_LINES: usize = 4;
/// Lines that tell of a host above its tenants.
pub const HOST_LINES: usize = 6;

/// Which of the two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Tenants,
    Hosts,
}

/// What lies on top of the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// One tenant, scrolled by so many lines.
    Tenant(String, usize),
    /// One host and its tenants.
    Host(String),
    /// The log of one of a tenant's containers.
    Logs(String, ContainerRole),
}

/// What is asked of the coordinator.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    pub tenants: TopTenantsRequest,
    pub hosts: TopHostsRequest,
    /// One tenant, all of it.
    pub tenant: Option<String>,
    /// One host, all of it.
    pub host: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// The question that this answers.
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
    /// Time has passed: now, in milliseconds.
    Tick(i64),
    Answer(Box<Answer>),
    /// It did not, and why.
    Failed(String),
    /// Lines of the log that is open.
    LogLines(Vec<String>),
    /// It has ended, and why.
    LogEnded(String),
    Hangup,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask for [`Model::query`] now, not at the next turn.
    Fetch,
    /// Open a log, and close the one before.
    OpenLog(String, ContainerRole),
    CloseLog,
    Quit,
}

/// Log lines, and how far one has scrolled up from the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// Oldest first.
    pub lines: VecDeque<String>,
    /// Lines below the screen.
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
    /// The list at the bottom.
    pub tab: Tab,
    pub tenants: List<TenantOrder, Tenant>,
    pub hosts: List<HostOrder, Host>,
    /// The tenants of the host that is looked at.
    pub inside: List<TenantOrder, Tenant>,
    /// What lies on top, the last is seen.
    pub layers: Vec<Layer>,
    /// The tenant that is looked at.
    pub tenant: Option<Tenant>,
    /// The host that is looked at.
    pub host: Option<Host>,
    pub log: Log,
    /// A filter is being typed; this was there before.
    pub typing: Option<String>,
    /// The page of keys is shown.
    pub help: bool,
    /// When the last answer came.
    pub answered_ms: Option<i64>,
    /// What is looked at now has not been answered for yet.
    pub waiting: bool,
    /// Why the last question had no answer.
    pub problem: Option<String>,
    /// Edges that take connections, and all that are known.
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

    /// Lines for rows of the list that is seen.
    pub fn height(&self) -> usize {
        let all = usize::from(self.size.1).saturating_sub(FRAME_LINES);
        let above = if matches!(self.layers.last(), Some(Layer::Host(_))) {
            HOST_LINES
        } else {
            0
        };
        all.saturating_sub(above).max(1)
    }

    /// Lines for text: where there are no columns, their names' line is free.
    pub fn text_height(&self) -> usize {
        usize::from(self.size.1)
            .saturating_sub(FRAME_LINES - 1)
            .max(1)
    }

    /// What the keys mean now.
    pub fn place(&self) -> Place {
        match self.layers.last() {
            _ if self.help => Place::Help,
            _ if self.typing.is_some() => Place::Filter,
            None | Some(Layer::Host(_)) => Place::List,
            Some(Layer::Tenant(..)) => Place::Tenant,
            Some(Layer::Logs(..)) => Place::Logs,
        }
    }

    /// What to ask for: the rows on the screen, and of the other list only how many there are.
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
