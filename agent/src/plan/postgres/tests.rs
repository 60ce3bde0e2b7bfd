//! The files as text, and the program on directories of a test. With a real PostgreSQL: tests/archive.

use super::*;
