//! What must hold of proposals in any fleet.
