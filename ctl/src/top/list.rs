//! A list of which only the rows on the screen are loaded: selection, order, and which rows to ask for. Pure.

use isyone_proto::pb::v1::{HostOrder, TenantOrder};

/// The coordinator's limit on rows per request.
const MAX_ROWS: usize = 200;
/// The coordinator's limit on a filter's length.
pub const MAX_FILTER: usize = 64;

/// An order that a list can have.
pub trait Order: Copy + PartialEq + 'static {
    /// All orders, in the sequence in which a key cycles through them.
    const ALL: &'static [(Self, &'static str)];

    /// The order's name on the command line and on the screen.
    fn word(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(order, _)| *order == self)
            .map_or("name", |(_, word)| word)
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == word)
            .map(|(order, _)| *order)
    }

    /// The order `by` places further on, wrapping around.
    fn turned(self, by: usize) -> Self {
        let place = Self::ALL
            .iter()
            .position(|(order, _)| *order == self)
            .unwrap_or(0);
        Self::ALL[(place + by) % Self::ALL.len()].0
    }
}

impl Order for TenantOrder {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::State, "state"),
        (Self::Cpu, "cpu"),
        (Self::Memory, "memory"),
        (Self::Disk, "disk"),
        (Self::Requests, "requests"),
        (Self::Errors, "errors"),
        (Self::Latency, "latency"),
        (Self::Host, "host"),
        (Self::Name, "name"),
    ];
}

impl Order for HostOrder {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::State, "state"),
        (Self::Cpu, "cpu"),
        (Self::Memory, "memory"),
        (Self::Disk, "disk"),
        (Self::Load, "load"),
        (Self::Tenants, "tenants"),
        (Self::Name, "name"),
    ];
}

/// How a selection moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    By(isize),
    Page(isize),
    First,
    Last,
}

#[derive(Debug, Clone, PartialEq)]
pub struct List<O, T> {
    pub order: O,
    pub reverse: bool,
    /// Show only rows that contain this.
    pub filter: String,
    /// Index of the selected row in the whole list.
    pub cursor: usize,
    /// Index of the first row on the screen.
    pub offset: usize,
    /// Number of rows that match the filter, by the last answer.
    pub matching: usize,
    /// Number of rows with or without a match.
    pub total: usize,
    /// The loaded rows, preceded by the index of the first.
    known: (usize, Vec<T>),
}

impl<O: Order, T> List<O, T> {
    /// A list with nothing loaded.
    pub fn new(order: O) -> Self {
        Self {
            order,
            reverse: false,
            filter: String::new(),
            cursor: 0,
            offset: 0,
            matching: 0,
            total: 0,
            known: (0, Vec::new()),
        }
    }

    /// First row and number of rows to ask for: one screen, plus one before and after it, so that paging shows rows at
    /// once.
    pub fn window(&self, height: usize) -> (usize, usize) {
        let from = self.offset.saturating_sub(height);
        (from, (self.offset - from + 2 * height).clamp(1, MAX_ROWS))
    }

    /// Takes the rows from index `from` on.
    pub fn take_rows(
        &mut self,
        from: usize,
        rows: Vec<T>,
        matching: usize,
        total: usize,
        height: usize,
    ) {
        (self.known, self.matching, self.total) = ((from, rows), matching, total);
        self.go(Move::By(0), height);
    }

    /// Takes only the counts, when no rows were asked for.
    pub fn count(&mut self, matching: usize, total: usize, height: usize) {
        (self.matching, self.total) = (matching, total);
        self.go(Move::By(0), height);
    }

    /// Moves the selection and scrolls to it.
    pub fn go(&mut self, to: Move, height: usize) {
        let height = height.max(1);
        let last = self.matching.saturating_sub(1);
        let page = isize::try_from(height).unwrap_or(isize::MAX);
        self.cursor = match to {
            Move::By(rows) => self.cursor.saturating_add_signed(rows),
            Move::Page(pages) => self
                .cursor
                .saturating_add_signed(pages.saturating_mul(page)),
            Move::First => 0,
            Move::Last => last,
        }
        .min(last);
        let lowest = (self.cursor + 1).saturating_sub(height);
        self.offset = self
            .offset
            .clamp(lowest, self.cursor)
            .min(self.matching.saturating_sub(height).max(lowest));
    }

    /// Drops the loaded rows: they are wrong for another order or filter.
    pub fn reset(&mut self) {
        (self.cursor, self.offset) = (0, 0);
        self.known = (0, Vec::new());
    }

    /// Rows on the screen; `None` for those not loaded yet.
    pub fn visible(&self, height: usize) -> impl Iterator<Item = Option<&T>> {
        let end = self.matching.min(self.offset.saturating_add(height));
        (self.offset..end).map(|place| self.row(place))
    }

    fn row(&self, place: usize) -> Option<&T> {
        self.known.1.get(place.checked_sub(self.known.0)?)
    }

    /// The selected row, if it is loaded.
    pub fn selected(&self) -> Option<&T> {
        self.row(self.cursor)
    }

    /// The selection's line on the screen.
    pub fn selected_line(&self) -> usize {
        self.cursor - self.offset
    }
}

/// A list of either kind.
pub trait Listing {
    fn go(&mut self, to: Move, height: usize);
    /// Sorts by the next column, or by the previous one.
    fn turn(&mut self, back: bool);
    fn turn_round(&mut self);
    fn filter(&mut self) -> &mut String;
    /// Goes back to the top with nothing loaded.
    fn restart(&mut self);
}

impl<O: Order, T> Listing for List<O, T> {
    fn go(&mut self, to: Move, height: usize) {
        List::go(self, to, height);
    }
    fn turn(&mut self, back: bool) {
        self.order = self.order.turned(if back { O::ALL.len() - 1 } else { 1 });
    }
    fn turn_round(&mut self) {
        self.reverse = !self.reverse;
    }
    fn filter(&mut self) -> &mut String {
        &mut self.filter
    }
    fn restart(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(matching: usize) -> List<TenantOrder, usize> {
        let mut list = List::new(TenantOrder::Name);
        list.take_rows(0, (0..matching.min(30)).collect(), matching, matching, 10);
        list
    }

    #[test]
    fn orders_go_round() {
        assert_eq!(TenantOrder::Name.turned(1), TenantOrder::State);
        assert_eq!(
            HostOrder::State.turned(HostOrder::ALL.len() - 1),
            HostOrder::Name
        );
        assert!(
            TenantOrder::ALL
                .iter()
                .all(|(order, word)| TenantOrder::from_word(word) == Some(*order))
        );
        assert_eq!(HostOrder::from_word("requests"), None);
    }

    #[test]
    fn an_empty_list_has_no_selection() {
        let mut list = list(0);
        for to in [
            Move::By(1),
            Move::By(-1),
            Move::Page(1),
            Move::Last,
            Move::First,
        ] {
            list.go(to, 10);
            assert_eq!(
                (
                    list.selected(),
                    list.visible(10).count(),
                    list.selected_line()
                ),
                (None, 0, 0)
            );
        }
    }

    #[test]
    fn rows_that_are_not_known_yet_are_gaps() {
        let mut list = list(1_000);
        list.go(Move::Last, 10);
        assert_eq!(
            (list.selected(), list.offset, list.window(10)),
            (None, 990, (980, 30))
        );
        assert!(list.visible(10).all(|row| row.is_none()));
        list.take_rows(980, (980..1_000).collect(), 1_000, 1_000, 10);
        assert_eq!(list.selected(), Some(&999));
    }

    proptest! {
        /// However the selection, the list and the screen change, the selection stays on the screen and in the list.
        #[test]
        fn the_selection_stays_in_sight(
            steps in proptest::collection::vec((0..5_u8, -30..30_isize, 1..40_usize, 0..200_usize), 1..60)
        ) {
            let mut list = list(50);
            for (kind, by, height, matching) in steps {
                match kind {
                    0 => list.go(Move::By(by), height),
                    1 => list.go(Move::Page(by.signum()), height),
                    2 => list.go(Move::Last, height),
                    3 => list.go(Move::First, height),
                    _ => list.take_rows(0, (0..matching).collect(), matching, matching, height),
                }
                prop_assert!(list.cursor < list.matching.max(1));
                prop_assert!(list.selected_line() < height, "{list:?}");
                prop_assert!(list.offset <= list.cursor);
                let (from, rows) = list.window(height);
                prop_assert!(from <= list.offset && from + rows > list.cursor);
                // No empty lines at the bottom while there are rows above the screen.
                prop_assert!(list.offset == 0 || list.visible(height).count() == height);
            }
        }
    }
}
