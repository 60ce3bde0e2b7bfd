//! Messages as JSON or YAML for programs, straight from the descriptors, so that new fields appear without new code.
//! Fields keep the names and order of the `.proto` files and are always all there; times are RFC 3339, enums short
//! lower-case words, 64-bit numbers are numbers, and an unset message is null.

use std::sync::LazyLock;

use isyone_proto::pb::{DESCRIPTORS, v1};
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, Kind, MapKey, ReflectMessage as _, Value,
};
use prost_types::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap as _, ser::SerializeSeq as _};

use super::format;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTORS).expect("the descriptors were made by our own build")
});

/// A message that can be looked up in the descriptors.
pub trait Named: prost::Message {
    /// Full name, e.g. `isyone.v1.Tenant`.
    const NAME: &'static str;
}

macro_rules! named {
    ($($message:ident),*) => { $(impl Named for v1::$message { const NAME: &'static str = concat!("isyone.v1.", stringify!($message)); })* };
}
named!(
    Tenant,
    Operation,
    Placement,
    Credentials,
    Host,
    CreateJoinTokenResponse,
    JoinToken,
    Event,
    Operator,
    Info,
    Certificate,
    Edge,
    RejectedRoute,
    EdgeHealth,
    TenantAccess,
    TenantMail,
    OdooSetting,
    SetAccessResponse,
    Domain,
    AddDomainResponse,
    RemoveDomainResponse,
    Backup,
    BackupFile,
    Protection,
    Pruned,
    RepositoryKey,
    TenantFailOver,
    Orphan,
    RebalanceProposal
);

/// A message that serialises as described above.
#[derive(Debug, Clone)]
pub struct Wire(DynamicMessage);

impl Wire {
    pub fn of<M: Named>(message: &M) -> Self {
        let descriptor = POOL
            .get_message_by_name(M::NAME)
            .expect("`named!` lists messages of the protocol");
        let bytes = message.encode_to_vec();
        Self(
            DynamicMessage::decode(descriptor, bytes.as_slice())
                .expect("what prost encoded, prost decodes"),
        )
    }

    pub fn all<'a, M: Named + 'a>(messages: impl IntoIterator<Item = &'a M>) -> Vec<Self> {
        messages.into_iter().map(Self::of).collect()
    }
}

impl Serialize for Wire {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        message(&self.0, serializer)
    }
}

fn message<S: Serializer>(message: &DynamicMessage, serializer: S) -> Result<S::Ok, S::Error> {
    if message.descriptor().full_name() == "google.protobuf.Timestamp" {
        let part = |name: &str| {
            message
                .get_field_by_name(name)
                .and_then(|v| v.as_i64().or(v.as_i32().map(i64::from)))
        };
        let time = Timestamp {
            seconds: part("seconds").unwrap_or(0),
            nanos: part("nanos").unwrap_or(0) as i32,
        };
        return format::rfc3339(&time).serialize(serializer);
    }
    let mut map = serializer.serialize_map(None)?;
    for field in message.descriptor().fields() {
        let value = message.get_field(&field);
        let unset = field.supports_presence() && !message.has_field(&field);
        map.serialize_entry(
            field.name(),
            &(!unset).then_some(Field {
                value: &value,
                kind: field.kind(),
            }),
        )?;
    }
    map.end()
}

struct Field<'a> {
    value: &'a Value,
    kind: Kind,
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Bool(v) => serializer.serialize_bool(*v),
            Value::I32(v) => serializer.serialize_i32(*v),
            Value::I64(v) => serializer.serialize_i64(*v),
            Value::U32(v) => serializer.serialize_u32(*v),
            Value::U64(v) => serializer.serialize_u64(*v),
            Value::F32(v) => serializer.serialize_f32(*v),
            Value::F64(v) => serializer.serialize_f64(*v),
            Value::String(v) => serializer.serialize_str(v),
            Value::Bytes(v) => serializer.serialize_bytes(v),
            Value::EnumNumber(number) => match &self.kind {
                Kind::Enum(descriptor) => serializer.serialize_str(&word(descriptor, *number)),
                _ => serializer.serialize_i32(*number),
            },
            Value::Message(m) => message(m, serializer),
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&Field {
                        value: item,
                        kind: self.kind.clone(),
                    })?;
                }
                list.end()
            }
            Value::Map(entries) => {
                // Sorted, so that the same answer prints the same text.
                let mut sorted: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| (key_text(key), value))
                    .collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                let kind = map_value_kind(&self.kind);
                let mut map = serializer.serialize_map(Some(sorted.len()))?;
                for (key, value) in sorted {
                    map.serialize_entry(
                        &key,
                        &Field {
                            value,
                            kind: kind.clone(),
                        },
                    )?;
                }
                map.end()
            }
        }
    }
}

/// A map is a repeated entry message whose second field is the value.
fn map_value_kind(kind: &Kind) -> Kind {
    match kind {
        Kind::Message(entry) if entry.is_map_entry() => entry.map_entry_value_field().kind(),
        other => other.clone(),
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(v) => v.to_string(),
        MapKey::I32(v) => v.to_string(),
        MapKey::I64(v) => v.to_string(),
        MapKey::U32(v) => v.to_string(),
        MapKey::U64(v) => v.to_string(),
        MapKey::String(v) => v.clone(),
    }
}

/// `TENANT_PHASE_RUNNING` becomes `running`: the prefix is whatever precedes `UNSPECIFIED` in the zero value.
fn word(descriptor: &EnumDescriptor, number: i32) -> String {
    let Some(value) = descriptor.get_value(number) else {
        return number.to_string();
    };
    let zero = descriptor.default_value();
    let prefix = zero.name().strip_suffix("UNSPECIFIED").unwrap_or_default();
    value
        .name()
        .strip_prefix(prefix)
        .unwrap_or(value.name())
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_all_its_fields_in_the_order_of_the_proto_file() {
        let operator = v1::Operator {
            name: "ana".into(),
            role: v1::Role::Admin.into(),
            create_time: Some(Timestamp {
                seconds: 1_795_420_800,
                nanos: 0,
            }),
            revoked: false,
            certificate_expire_time: None,
            prometheus: false,
        };
        assert_eq!(
            serde_json::to_string(&Wire::of(&operator)).unwrap(),
            r#"{"name":"ana","role":"admin","create_time":"2026-11-23T08:00:00.000Z","revoked":false,"certificate_expire_time":null,"prometheus":false}"#
        );
    }

    #[test]
    fn maps_are_sorted_and_hold_messages() {
        let size = |workers| v1::Size {
            memory_bytes: 1 << 40,
            cpu_millis: 1,
            disk_bytes: 2,
            workers,
            bounds: None,
        };
        let info = v1::Info {
            plans: [("b".into(), size(2)), ("a".into(), size(1))].into(),
            ..Default::default()
        };
        let json = serde_json::to_value(Wire::of(&info)).unwrap();
        assert_eq!(json["plans"]["a"]["workers"], 1);
        assert_eq!(json["plans"]["b"]["memory_bytes"], 1u64 << 40);
        let text = serde_json::to_string(&Wire::of(&info)).unwrap();
        assert!(text.find("\"a\"").unwrap() < text.find("\"b\"").unwrap());
    }
}
