//! Draws a [`ScreenView`] onto ratatui's buffer.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line as TextLine, Span, Text},
    widgets::{Cell as GridCell, Paragraph, Row, Table, TableState},
};

use super::{
    rows::Cell,
    view::{Body, Head, Line, ScreenView},
};
use crate::output::table::Paint;

/// Draws the whole view. Without `colour`, emphasis is by font weight alone.
pub fn draw(frame: &mut Frame<'_>, view: &ScreenView, colour: bool) {
    let [summary, place, body, footer] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(text(&view.summary, colour), summary);
    frame.render_widget(text(&view.place, colour), place);
    match &view.body {
        Body::Text(lines) => frame.render_widget(texts(lines, colour), body),
        Body::Rows {
            above,
            heads,
            rows,
            selected,
        } => {
            let lines = u16::try_from(above.len()).unwrap_or(u16::MAX);
            let [top, rest] =
                Layout::vertical([Constraint::Length(lines), Constraint::Min(1)]).areas(body);
            frame.render_widget(texts(above, colour), top);
            grid(frame, rest, (heads, rows, *selected), colour);
        }
    }
    frame.render_widget(text(&view.footer, colour), footer);
}

type Grid<'a> = (&'a [Head], &'a [Vec<Cell>], Option<usize>);

fn grid(frame: &mut Frame<'_>, area: Rect, (heads, rows, selected): Grid<'_>, colour: bool) {
    let align = |head: &Head| {
        if head.right {
            Alignment::Right
        } else {
            Alignment::Left
        }
    };
    let header = heads.iter().map(|head| {
        let style = if head.decides {
            Style::new().add_modifier(Modifier::BOLD)
        } else {
            Style::new()
        };
        GridCell::from(Text::from(head.name.clone()).alignment(align(head))).style(style)
    });
    let lines = rows.iter().map(|cells| {
        Row::new(cells.iter().zip(heads).map(|(cell, head)| {
            GridCell::from(Text::from(cell.text.as_str()).alignment(align(head)))
                .style(style(cell.paint, colour))
        }))
    });
    let widths = heads.iter().map(|head| match head.width {
        0 => Constraint::Min(1),
        width => Constraint::Length(width),
    });
    let table = Table::new(lines, widths)
        .header(Row::new(header).style(Style::new().add_modifier(Modifier::UNDERLINED)))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut state);
}

fn text<'a>(line: &'a Line, colour: bool) -> Paragraph<'a> {
    Paragraph::new(spans(line, colour))
}

fn texts<'a>(lines: &'a [Line], colour: bool) -> Paragraph<'a> {
    Paragraph::new(
        lines
            .iter()
            .map(|line| spans(line, colour))
            .collect::<Vec<_>>(),
    )
}

fn spans(line: &Line, colour: bool) -> TextLine<'_> {
    let span = |piece: &'_ super::view::Piece| {
        let mut style = style(piece.paint, colour);
        if piece.strong {
            style = style.add_modifier(Modifier::BOLD);
        }
        Span::styled(piece.text.clone(), style)
    };
    TextLine::from(line.iter().map(span).collect::<Vec<_>>())
}

fn style(paint: Option<Paint>, colour: bool) -> Style {
    match paint {
        Some(Paint::Good) if colour => Style::new().fg(Color::Green),
        Some(Paint::Warn) if colour => Style::new().fg(Color::Yellow),
        Some(Paint::Bad) if colour => Style::new().fg(Color::Red),
        Some(Paint::Bad) => Style::new().add_modifier(Modifier::BOLD),
        Some(Paint::Faint) => Style::new().add_modifier(Modifier::DIM),
        Some(Paint::Good | Paint::Warn) | None => Style::new(),
    }
}
