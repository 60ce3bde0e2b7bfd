//! What a key means, depending on where it is pressed. Pure.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::list::Move;

/// Where a key is pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A list of tenants or hosts.
    List,
    Tenant,
    Logs,
    /// The input line of the filter.
    Filter,
    Help,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Quit,
    /// One step back; in the outermost list, quit.
    Back,
    Help,
    Go(Move),
    OtherTab,
    Tenants,
    Hosts,
    /// Sort by the next column (`true`: the previous one).
    Order(bool),
    /// Reverse the order.
    Reverse,
    /// Open the selected row.
    Open,
    OdooLog,
    PostgresLog,
    /// Start typing a filter.
    Filter,
    /// Append a letter to the filter.
    Letter(char),
    /// Delete the filter's last letter.
    Erase,
    /// Clear the filter.
    EraseAll,
    Accept,
}

/// Every key with a function, for the help page.
pub const HELP: [(&str, &str); 15] = [
    (
        "up down PgUp PgDn Home End",
        "select, or scroll (also k j g G)",
    ),
    ("Tab, 1, 2", "the other list; tenants; hosts"),
    ("Enter", "look closer: a tenant; a host and its tenants"),
    ("l", "follow the log of the tenant's Odoo"),
    ("L", "follow the log of its PostgreSQL"),
    ("s S", "order by the next figure; by the one before"),
    ("r", "the other way round"),
    ("/", "show only what contains a text; Enter accepts"),
    ("Esc", "one step back; drops a filter; ends"),
    ("q, Ctrl-C", "end"),
    ("?", "these keys"),
    ("", ""),
    ("-", "not known: not measured yet, or a silent host"),
    ("P95", "95 % of the last minute's requests were as fast"),
    ("EDGE", "what a visitor gets: a code, or who is down"),
];

/// The action of a key, or `None` when it has none in this place.
pub fn action(place: Place, key: KeyEvent) -> Option<Action> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c' | 'd') => Some(Action::Quit),
            KeyCode::Char('u') if place == Place::Filter => Some(Action::EraseAll),
            KeyCode::Char('f') => Some(Action::Go(Move::Page(1))),
            KeyCode::Char('b') => Some(Action::Go(Move::Page(-1))),
            _ => None,
        };
    }
    if place == Place::Filter {
        return typing(key.code);
    }
    match (place, key.code) {
        (_, KeyCode::Char('q')) => Some(Action::Quit),
        (Place::Help, _) | (_, KeyCode::Esc) => Some(Action::Back),
        (_, KeyCode::Char('?') | KeyCode::F(1)) => Some(Action::Help),
        (Place::List | Place::Tenant, KeyCode::Char('l')) => Some(Action::OdooLog),
        (Place::List | Place::Tenant, KeyCode::Char('L')) => Some(Action::PostgresLog),
        (Place::List, code) => list(code).or_else(|| movement(code)),
        (_, KeyCode::Left | KeyCode::Backspace) => Some(Action::Back),
        (_, code) => movement(code),
    }
}

fn list(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Tab | KeyCode::BackTab => Action::OtherTab,
        KeyCode::Char('1') => Action::Tenants,
        KeyCode::Char('2') => Action::Hosts,
        KeyCode::Char('s') => Action::Order(false),
        KeyCode::Char('S') => Action::Order(true),
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Char('/') => Action::Filter,
        KeyCode::Enter | KeyCode::Right => Action::Open,
        KeyCode::Left => Action::Back,
        _ => return None,
    })
}

fn movement(code: KeyCode) -> Option<Action> {
    Some(Action::Go(match code {
        KeyCode::Up | KeyCode::Char('k') => Move::By(-1),
        KeyCode::Down | KeyCode::Char('j') => Move::By(1),
        KeyCode::PageUp => Move::Page(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => Move::Page(1),
        KeyCode::Home | KeyCode::Char('g') => Move::First,
        KeyCode::End | KeyCode::Char('G') => Move::Last,
        _ => return None,
    }))
}

fn typing(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Enter => Action::Accept,
        KeyCode::Esc => Action::Back,
        KeyCode::Backspace => Action::Erase,
        KeyCode::Char(letter) => Action::Letter(letter),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_c_ends_everywhere_and_letters_are_text_while_typing() {
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for place in [
            Place::List,
            Place::Tenant,
            Place::Logs,
            Place::Filter,
            Place::Help,
        ] {
            assert_eq!(action(place, ctrl_c), Some(Action::Quit), "{place:?}");
        }
        let q = KeyEvent::from(KeyCode::Char('q'));
        assert_eq!(action(Place::Filter, q), Some(Action::Letter('q')));
        assert_eq!(action(Place::Logs, q), Some(Action::Quit));
        assert_eq!(
            action(Place::Help, KeyEvent::from(KeyCode::Char('x'))),
            Some(Action::Back)
        );
        assert_eq!(
            action(Place::Logs, KeyEvent::from(KeyCode::Char('s'))),
            None
        );
        assert_eq!(
            action(Place::Tenant, KeyEvent::from(KeyCode::Down)),
            Some(Action::Go(Move::By(1)))
        );
    }
}
