//! `[odoo]` and `[plans.*.odoo]`: settings of tenants' Odoos. Numbers, booleans and lists may be written as such.
//!
//! Not here: which there are, their types and bounds (isyone_types::odoo).

use std::collections::BTreeMap;

use isyone_fleet::settings::OdooRules;
use isyone_proto::odoo::OdooSettings;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::Config;

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Number(i64),
    Flag(bool),
    Text(String),
    List(Vec<String>),
}

impl From<Value> for String {
    fn from(value: Value) -> Self {
        match value {
            Value::Number(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            Value::Text(text) => text,
            Value::List(parts) => parts.join(","),
        }
    }
}

/// Reads a table of settings.
pub(super) fn settings<'de, D: Deserializer<'de>>(from: D) -> Result<OdooSettings, D::Error> {
    let map = BTreeMap::<String, Value>::deserialize(from)?;
    let texts: BTreeMap<String, String> = map.into_iter().map(|(k, v)| (k, v.into())).collect();
    OdooSettings::try_from(texts).map_err(D::Error::custom)
}

impl Config {
    pub(super) fn odoo_rules(&self) -> OdooRules {
        let plans = self.plans.iter();
        OdooRules {
            fleet: self.odoo.clone(),
            plans: plans
                .filter(|(_, plan)| !plan.odoo.is_empty())
                .map(|(name, plan)| (name.clone(), plan.odoo.clone()))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_are_written() {
        let text = "[odoo]\nlimit_time_real = 300\nunaccent = false\nlog_handler = [\":INFO\", \"odoo.sql_db:DEBUG\"]\nqueue_job_channels = \"root:2\"\n\
                    [plans.small]\nmemory = \"1GiB\"\ncpu = 1\ndisk = \"10GiB\"\n[plans.small.odoo]\nODOO_MAX_HTTP_THREADS = 32\n";
        let config = Config::parse("f", text).unwrap();
        config.check().unwrap();
        let rules = config.settings().odoo;
        let texts: Vec<&str> = rules.fleet.iter().map(|(_, value)| value).collect();
        assert_eq!(texts, ["300", ":INFO,odoo.sql_db:DEBUG", "root:2", "False"]);
        assert_eq!(
            rules.plans["small"].number("ODOO_MAX_HTTP_THREADS"),
            Some(32)
        );
        assert_eq!(Config::parse("x", &config.to_toml()).unwrap(), config);
    }

    #[test]
    fn what_may_not_be_set_or_is_out_of_bounds_is_found_with_its_line() {
        for (text, said) in [
            (
                "[odoo]\nadmin_passwd = \"x\"",
                "no setting that may be chosen",
            ),
            ("[odoo]\nlimit_time_real = 5", "a number from 60"),
            ("[odoo]\nlog_level = \"debug_rpc\"", "one of debug"),
        ] {
            let error = Config::parse("f", text).unwrap_err().to_string();
            assert!(
                error.starts_with("f line ") && error.contains(said),
                "{error}"
            );
        }
    }
}
