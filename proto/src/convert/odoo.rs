//! Settings of Odoo: wire to checked values and back.
//!
//! Not here: which there are (isyone_types::odoo).

use std::collections::{BTreeMap, HashMap};

use crate::{error::FieldError, odoo::OdooSettings};

/// Parses settings by name. One that this version does not know is refused: it may not become less than was meant.
pub fn settings(field: &str, wire: HashMap<String, String>) -> Result<OdooSettings, FieldError> {
    // Sorted, so that of several that are wrong the same one is named each time.
    let sorted: BTreeMap<String, String> = wire.into_iter().collect();
    OdooSettings::try_from(sorted).map_err(|e| FieldError::new(field, e.to_string()))
}

/// Those of a plan, which the coordinator has checked: one that this agent does not know must not keep it from the rest of the plan.
pub(super) fn planned(wire: HashMap<String, String>) -> OdooSettings {
    OdooSettings::lenient(wire.into_iter().collect())
}

pub(super) fn texts(settings: &OdooSettings) -> HashMap<String, String> {
    let all = settings.iter();
    all.map(|(name, value)| (name.as_str().to_owned(), value.to_owned()))
        .collect()
}
