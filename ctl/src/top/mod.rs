//! `isyctl top`: the fleet on a screen, drawn anew every few seconds.
//!
//! Pure: `model` (what is looked at, and what a key or an answer does to it), `keys` (what a key means where), `rows` and `view`
//! (what is on the screen), `draw` (onto ratatui's buffer). Acting: `fetch` (asks the coordinator), `screen` (the terminal),
//! `follow` (the loop). Not here: the command line (nouns/top).

pub mod draw;
pub mod fetch;
pub mod follow;
pub mod keys;
pub mod list;
pub mod model;
pub mod rows;
pub mod screen;
pub mod view;
