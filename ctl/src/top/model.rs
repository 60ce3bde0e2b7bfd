//! What is looked at: which list, order, filter and row, what is known of it, and what a key, an answer or a line of a log does to
//! that. Pure: time and size are events.

use std::collections::VecDeque;

use isyone_proto::pb::v1::{
    ContainerRole, Host, HostOrder, Tenant, TenantOrder, TopHostsRequest, TopHostsResponse,
    TopTenantsRequest, TopTenantsResponse,
};
use ratatui::crossterm::event::KeyEvent;

use super::{
    keys::{self, Action, Place},
    list::{List, Listing, MAX_FILTER, Move},
    view,
};

/// Log lines that are kept: some screens back.
const MAX_LOG_LINES: usize = 2_000;
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
    /// Why no more come.
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

    /// Takes an event in, and says what follows.
    pub fn update(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Key(key) => {
                let action = keys::action(self.place(), key);
                return action.map(|action| self.act(action)).unwrap_or_default();
            }
            Event::Resize(columns, rows) => {
                self.size = (columns, rows);
                self.scroll(Move::By(0));
                return vec![Effect::Fetch];
            }
            Event::Tick(now_ms) => self.now_ms = now_ms,
            Event::Answer(answer) => self.take(*answer),
            Event::Failed(why) => self.problem = Some(why),
            Event::LogLines(lines) => self.take_lines(lines),
            Event::LogEnded(why) => self.log.ended = Some(why),
            Event::Hangup => return vec![Effect::Quit],
        }
        Vec::new()
    }

    fn take(&mut self, answer: Answer) {
        (self.problem, self.answered_ms) = (None, Some(self.now_ms));
        let edges = &answer.hosts.edges;
        self.edges = (edges.iter().filter(|edge| edge.up).count(), edges.len());
        let (height, wanted) = (self.height(), self.query());
        let (rows, asked) = (answer.hosts, &answer.query.hosts);
        let (matching, total) = (rows.matching as usize, rows.total as usize);
        if same_hosts(asked, &wanted.hosts) {
            match asked.limit {
                ..=COUNT => self.hosts.count(matching, total, height),
                _ => self
                    .hosts
                    .take(asked.offset as usize, rows.hosts, matching, total, height),
            }
        }
        let (rows, asked) = (answer.tenants, &answer.query.tenants);
        let (matching, total) = (rows.matching as usize, rows.total as usize);
        if same_tenants(asked, &wanted.tenants) {
            let inside = matches!(self.layers.last(), Some(Layer::Host(_)));
            let list = if inside {
                &mut self.inside
            } else {
                &mut self.tenants
            };
            match asked.limit {
                ..=COUNT => list.count(matching, total, height),
                _ => list.take(asked.offset as usize, rows.tenants, matching, total, height),
            }
        }
        // An answer to what was looked at before leaves what is looked at now unknown.
        if (&answer.query.tenant, &answer.query.host) == (&wanted.tenant, &wanted.host) {
            (self.tenant, self.host, self.waiting) = (answer.tenant, answer.host, false);
        }
    }

    fn take_lines(&mut self, lines: Vec<String>) {
        for line in lines {
            if self.log.lines.len() == MAX_LOG_LINES {
                self.log.lines.pop_front();
            }
            self.log.lines.push_back(line);
            // Who has scrolled up goes on reading the same lines.
            self.log.below += usize::from(self.log.below > 0);
        }
        self.log.below = self.log.below.min(self.log.lines.len());
    }

    fn act(&mut self, action: Action) -> Vec<Effect> {
        match action {
            Action::Quit => return vec![Effect::Quit],
            Action::Back => return self.back(),
            Action::Help => self.help = true,
            Action::Go(to) => return self.scroll(to),
            Action::OtherTab | Action::Tenants | Action::Hosts => {
                let other = if self.tab == Tab::Tenants {
                    Tab::Hosts
                } else {
                    Tab::Tenants
                };
                self.tab = match action {
                    Action::Tenants => Tab::Tenants,
                    Action::Hosts => Tab::Hosts,
                    _ => other,
                };
                self.layers.clear();
                return vec![Effect::Fetch];
            }
            Action::Order(back) => return self.reorder(|list| list.turn(back)),
            Action::Reverse => return self.reorder(|list| list.turn_round()),
            Action::Filter => self.typing = Some(self.listing().filter().clone()),
            Action::Letter(letter) => {
                return self.retype(|filter| {
                    if filter.len() + letter.len_utf8() <= MAX_FILTER {
                        filter.push(letter);
                    }
                });
            }
            Action::Erase => {
                return self.retype(|filter| filter.truncate(filter.len() - last_letter(filter)));
            }
            Action::EraseAll => return self.retype(String::clear),
            Action::Accept => self.typing = None,
            Action::Open => return self.open(),
            Action::OdooLog => return self.open_log(ContainerRole::Odoo),
            Action::PostgresLog => return self.open_log(ContainerRole::Postgres),
        }
        Vec::new()
    }

    fn back(&mut self) -> Vec<Effect> {
        if std::mem::take(&mut self.help) {
            return Vec::new();
        }
        if let Some(before) = self.typing.take() {
            return self.reorder(move |list| *list.filter() = before.clone());
        }
        match self.layers.pop() {
            Some(Layer::Logs(..)) => {
                self.log = Log::default();
                vec![Effect::CloseLog, Effect::Fetch]
            }
            Some(_) => {
                self.look_anew();
                vec![Effect::Fetch]
            }
            None if !self.listing().filter().is_empty() => {
                self.reorder(|list| list.filter().clear())
            }
            None => vec![Effect::Quit],
        }
    }

    fn open(&mut self) -> Vec<Effect> {
        let layer = match (self.layers.last(), self.tab) {
            (None, Tab::Hosts) => self
                .hosts
                .selected()
                .map(|host| Layer::Host(host.name.clone())),
            _ => self.chosen().map(|name| Layer::Tenant(name, 0)),
        };
        let Some(layer) = layer else {
            return Vec::new();
        };
        if matches!(layer, Layer::Host(_)) {
            self.inside = List::new(TenantOrder::State);
        }
        self.look_anew();
        self.layers.push(layer);
        vec![Effect::Fetch]
    }

    fn look_anew(&mut self) {
        (self.tenant, self.host, self.waiting) = (None, None, true);
    }

    fn open_log(&mut self, role: ContainerRole) -> Vec<Effect> {
        let Some(name) = self.chosen() else {
            return Vec::new();
        };
        self.log = Log::default();
        self.layers.push(Layer::Logs(name.clone(), role));
        vec![Effect::OpenLog(name, role)]
    }

    /// The tenant that is selected, or looked at.
    fn chosen(&self) -> Option<String> {
        let name = |tenant: &Tenant| tenant.name.clone();
        match (self.layers.last(), self.tab) {
            (Some(Layer::Tenant(name, _) | Layer::Logs(name, _)), _) => Some(name.clone()),
            (Some(Layer::Host(_)), _) => self.inside.selected().map(name),
            (None, Tab::Tenants) => self.tenants.selected().map(name),
            (None, Tab::Hosts) => None,
        }
    }

    fn scroll(&mut self, to: Move) -> Vec<Effect> {
        let (height, lines) = (self.height(), self.text_height());
        let longest = view::tenant_lines(self).len().saturating_sub(lines);
        match self.layers.last_mut() {
            Some(Layer::Tenant(_, scrolled)) => {
                *scrolled = scrolled_by(*scrolled, to, lines).min(longest)
            }
            Some(Layer::Logs(..)) => {
                let most = self.log.lines.len().saturating_sub(lines);
                let up = match to {
                    Move::By(rows) => Move::By(-rows),
                    Move::Page(pages) => Move::Page(-pages),
                    Move::First => Move::Last,
                    Move::Last => Move::First,
                };
                self.log.below = scrolled_by(self.log.below, up, lines).min(most);
            }
            _ => {
                let window =
                    |model: &Self| (model.query().tenants.offset, model.query().hosts.offset);
                let before = window(self);
                self.listing().go(to, height);
                return if before == window(self) {
                    Vec::new()
                } else {
                    vec![Effect::Fetch]
                };
            }
        }
        Vec::new()
    }

    fn reorder(&mut self, change: impl FnOnce(&mut dyn Listing)) -> Vec<Effect> {
        let list = self.listing();
        change(list);
        list.restart();
        vec![Effect::Fetch]
    }

    fn retype(&mut self, change: impl FnOnce(&mut String)) -> Vec<Effect> {
        self.reorder(|list| change(list.filter()))
    }

    fn listing(&mut self) -> &mut dyn Listing {
        match (self.layers.last(), self.tab) {
            (Some(Layer::Host(_)), _) => &mut self.inside,
            (_, Tab::Tenants) => &mut self.tenants,
            (_, Tab::Hosts) => &mut self.hosts,
        }
    }
}

fn last_letter(text: &str) -> usize {
    text.chars().next_back().map_or(0, char::len_utf8)
}

fn scrolled_by(scrolled: usize, to: Move, height: usize) -> usize {
    match to {
        Move::By(rows) => scrolled.saturating_add_signed(rows),
        Move::Page(1..) => scrolled.saturating_add(height),
        Move::Page(_) => scrolled.saturating_sub(height),
        Move::First => 0,
        Move::Last => usize::MAX,
    }
}

fn wire(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The answer's rows belong into the list that is seen, wherever it has been scrolled to meanwhile.
fn same_tenants(asked: &TopTenantsRequest, wanted: &TopTenantsRequest) -> bool {
    let at_once = |request: &TopTenantsRequest| TopTenantsRequest {
        offset: 0,
        limit: 0,
        ..request.clone()
    };
    at_once(asked) == at_once(wanted) && (asked.limit > COUNT) == (wanted.limit > COUNT)
}

fn same_hosts(asked: &TopHostsRequest, wanted: &TopHostsRequest) -> bool {
    let at_once = |request: &TopHostsRequest| TopHostsRequest {
        offset: 0,
        limit: 0,
        ..request.clone()
    };
    at_once(asked) == at_once(wanted) && (asked.limit > COUNT) == (wanted.limit > COUNT)
}
