//! `isyctl top`: the fleet on a screen, refreshed every few seconds.
//!
//! Pure: `model` (what is shown, and how keys and answers change it), `keys` (what a key means where), `rows` and
//! `view` (what is on the screen), `draw` (onto ratatui's buffer). With side effects: `fetch` (asks the coordinator),
//! `screen` (the terminal), `follow` (the loop). Not here: the command line (nouns/top).

pub mod draw;
pub mod fetch;
pub mod follow;
pub mod keys;
pub mod list;
pub mod model;
pub mod rows;
pub mod screen;
pub mod view;
