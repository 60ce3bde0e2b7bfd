//! Which option or argument sets a field of a request: people know what they typed, not what the protocol calls it.
//!
//! Not here: the rest of a refusal's words (`status`).

/// The option or argument that sets a field, or a word for what was asked for otherwise. None for a field of a newer
/// coordinator, and for those that isyctl fills in itself.
pub fn flag_of(field: &str) -> Option<&'static str> {
    let bare = bare(field);
    let name = bare.strip_prefix("start.").unwrap_or(&bare);
    let name = name.strip_prefix("spec.").unwrap_or(name);
    let name = name.strip_prefix("settings.").unwrap_or(name);
    Some(match name {
        "name" => "NAME",
        "id" => "ID",
        "domain" => "DOMAIN",
        "arguments" => "COMMAND",
        "plan" => "--plan",
        "domains" => "--domain",
        "language" => "--lang",
        "country" => "--country",
        "time_zone" => "--tz",
        "modules" => "--modules",
        "edition" => "--edition",
        "odoo_image" => "--odoo-image",
        "postgres_image" => "--postgres-image",
        "host" => "--host",
        "to_host" | "to_host_live" => "--to",
        "away_from_host" => "--away-from",
        "max_pause_ms" => "--max-pause",
        "on_host" => "--on",
        "apart" => "--apart",
        "is_down" => "--is-down",
        "standbys_only" => "--standbys-only",
        "host_labels" | "labels" => "--label",
        "admin_login" => "--login",
        "force" => "--force",
        "dry_run" => "--dry-run",
        "cancel_running" => "--cancel-running",
        "purge" => "--purge",
        "with_database" => "--with-database",
        "with_www" => "--www",
        "primary" => "--primary",
        "skip_dns_check" => "--skip-dns-check",
        "networks" | "networks.networks" => "--allow",
        "put_user" | "put_user.name" => "--user",
        // Never typed as an option.
        "put_user.password" | "password" => "the password",
        "remove_users" => "--remove-user",
        "remove_all_users" => "--no-users",
        "rate" | "rate.average" | "rate.burst" => "--rate",
        "default_rate" => "--default-rate",
        "ttl_seconds" | "ttl_days" => "--ttl",
        "role" => "--role",
        "root" => "--root",
        "follow" => "--follow",
        "tail" => "--tail",
        "container" => "--container",
        "timestamps" => "--timestamps",
        "after_sequence" => "--after",
        "tenant" => "--tenant",
        "tenants" => "TENANT",
        "all" => "--all",
        "bad_only" => "--bad",
        "active_only" => "--active",
        "phase" => "--phase",
        "show_deleted" => "--deleted",
        "from_networks" => "--from",
        "same_machine" => "--same-machine",
        "shard" => "--shard",
        "certificate_pem" => "--certificate",
        "key_pem" => "--key",
        "filter" => "--filter",
        "order" => "--sort",
        "limit" => "--rows",
        _ => return other_flag_of(name),
    })
}

fn other_flag_of(name: &str) -> Option<&'static str> {
    host_flag_of(name)
        .or_else(|| backup_flag_of(name))
        .or_else(|| settings_flag_of(name))
}

/// The same of work on hosts, and of the load on them.
fn host_flag_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "until" => "--until",
        "reason" => "--reason",
        "leaves_tenants" => "--leave",
        "max_moves" => "--most",
        _ => return None,
    })
}

/// The same of backups.
fn backup_flag_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "notes" => "--note",
        "backup" => "BACKUP",
        "path" => "PATH",
        "destination" => "--destination",
        "as_new" | "new_name" => "--as",
        "latest" | "backup_id" | "time" => "--to",
        "live" => "--live",
        _ => return None,
    })
}

/// The same of a tenant's settings: what its database begins with, how it sends mail, and its Odoo's.
fn settings_flag_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "signup" => "--signup",
        "collation" => "--collation",
        "port" => "--port",
        "tls" => "--tls",
        "unverified" => "--no-verify",
        "user" => "--user",
        "sender_domain" => "--sender-domain",
        "from_filter" => "--from-filter",
        "alias_domain" => "--alias-domain",
        "per_day" => "--per-day",
        "set" => "SETTING=VALUE",
        "unset" => "--unset",
        _ => return None,
    })
}

/// Fields that isyctl fills in by itself: nothing that was typed can be wrong with them.
#[cfg(test)]
const OURS: &[&str] = &[
    "columns",
    "csr_pem",
    "kind",
    "offset",
    "page_size",
    "page_token",
    "request_id",
    "resize.columns",
    "resize.rows",
    "reverse",
    "rows",
    "settings.kind",
    "stdin",
    "stdin_eof",
    "tty",
    "with_settings",
];

/// `spec.host_labels["zone"]` is `spec.host_labels`, `networks[0]` is `networks`.
fn bare(field: &str) -> String {
    let mut bare = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, inside)) = rest.split_once('[') {
        bare.push_str(before);
        // A label's key may hold a bracket itself: only the last one ends it.
        rest = inside.rsplit_once(']').map_or("", |(_, after)| after);
    }
    bare + rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;
    use prost::Message as _;
    use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

    use super::*;
    use crate::cli::Cli;

    /// The fields of all requests, without those of messages that commands do not send.
    fn all() -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(isyone_proto::pb::DESCRIPTORS).unwrap();
        let files: Vec<_> = set
            .file
            .iter()
            .filter(|f| f.package() == "isyone.v1")
            .collect();
        let find = |name: &str| {
            let name = name.trim_start_matches(".isyone.v1.");
            files
                .iter()
                .flat_map(|f| &f.message_type)
                .find(|m| m.name() == name)
        };
        fn walk<'a>(
            message: &'a DescriptorProto,
            find: &dyn Fn(&str) -> Option<&'a DescriptorProto>,
            path: &str,
            to: &mut BTreeSet<String>,
        ) {
            for field in &message.field {
                let path = format!("{path}{}", field.name());
                match (field.r#type(), find(field.type_name())) {
                    (Type::Message, Some(inner)) => walk(inner, find, &format!("{path}."), to),
                    _ => drop(to.insert(path)),
                }
            }
        }
        let mut fields = BTreeSet::new();
        for method in files
            .iter()
            .flat_map(|f| &f.service)
            .flat_map(|s| &s.method)
        {
            walk(find(method.input_type()).unwrap(), &find, "", &mut fields);
        }
        fields
    }

    /// Fails if a request gets a field that no refusal can name in words that were typed.
    #[test]
    fn every_field_that_a_command_sends_has_an_option_or_is_ours() {
        let (mut without, mut ours) = (Vec::new(), BTreeSet::new());
        for field in all() {
            let short = field
                .trim_start_matches("start.")
                .trim_start_matches("spec.");
            if OURS.contains(&short) {
                ours.insert(short.to_owned());
                assert_eq!(flag_of(&field), None, "{field}");
            } else if flag_of(&field).is_none() {
                without.push(field);
            }
        }
        assert!(without.is_empty(), "{without:?}");
        let gone = OURS.iter().filter(|field| !ours.contains(**field));
        assert_eq!(gone.collect::<Vec<_>>(), Vec::<&&str>::new(), "are gone");
    }

    /// Fails if an option is renamed and the table is not.
    #[test]
    fn every_option_of_the_table_exists() {
        fn walk(command: &clap::Command, to: &mut BTreeSet<String>) {
            for arg in command.get_arguments() {
                to.extend(arg.get_long().map(|long| format!("--{long}")));
                to.extend(
                    arg.get_value_names()
                        .unwrap_or_default()
                        .iter()
                        .map(ToString::to_string),
                );
            }
            command.get_subcommands().for_each(|inner| walk(inner, to));
        }
        let mut known = BTreeSet::from(["the password".to_owned()]);
        walk(&Cli::command(), &mut known);
        for field in all() {
            if let Some(flag) = flag_of(&field) {
                assert!(known.contains(flag), "{field}: {flag}");
            }
        }
    }

    #[test]
    fn a_path_into_a_list_or_a_map_is_the_options_own() {
        for (field, flag) in [
            ("spec.domains[2]", Some("--domain")),
            ("spec.host_labels[a]", Some("--label")),
            ("labels[a].b[c]d]", Some("--label")),
            ("networks[0]", Some("--allow")),
            ("put_user.name", Some("--user")),
            ("filter", Some("--filter")),
            ("start.name", Some("NAME")),
            ("spec.new_field", None),
            ("page_token", None),
        ] {
            assert_eq!(flag_of(field), flag, "{field}");
        }
    }
}
