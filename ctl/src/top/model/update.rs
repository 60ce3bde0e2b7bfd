//! How an event changes the model, and what the loop must do about it.

use isyone_proto::pb::v1::{
    ContainerRole, Tenant, TenantOrder, TopHostsRequest, TopTenantsRequest,
};

use super::{Answer, COUNT, Effect, Event, Layer, Log, Model, Tab};
use crate::top::{
    keys::{self, Action},
    list::{List, Listing, MAX_FILTER, Move},
    view,
};

/// Log lines kept for scrolling back: a few dozen screens.
const MAX_LOG_LINES: usize = 2_000;

impl Model {
    /// Handles an event and returns the effects.
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
            Event::Answer(answer) => self.take_answer(*answer),
            Event::Failed(why) => self.problem = Some(why),
            Event::LogLines(lines) => self.take_lines(lines),
            Event::LogEnded(why) => self.log.ended = Some(why),
            Event::Hangup => return vec![Effect::Quit],
        }
        Vec::new()
    }

    fn take_answer(&mut self, answer: Answer) {
        (self.problem, self.answered_ms) = (None, Some(self.now_ms));
        let edges = &answer.hosts.edges;
        self.edges = (edges.iter().filter(|edge| edge.up).count(), edges.len());
        let (height, wanted) = (self.height(), self.query());
        let (rows, asked) = (answer.hosts, &answer.query.hosts);
        let (matching, total) = (rows.matching as usize, rows.total as usize);
        if same_hosts(asked, &wanted.hosts) {
            match asked.limit {
                ..=COUNT => self.hosts.count(matching, total, height),
                _ => {
                    self.hosts
                        .take_rows(asked.offset as usize, rows.hosts, matching, total, height)
                }
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
                _ => list.take_rows(asked.offset as usize, rows.tenants, matching, total, height),
            }
        }
        // An answer for the previous view says nothing about the current one.
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
            // A user who has scrolled up keeps seeing the same lines.
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

    /// The selected or open tenant.
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

/// Whether the answer's rows belong to the visible list, even if it has been scrolled since.
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
