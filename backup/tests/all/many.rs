//! Much data and much at once.
