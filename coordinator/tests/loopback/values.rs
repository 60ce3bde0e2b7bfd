//! Values that are far too long are refused by name, whatever the call: an answer that repeats them would not fit into
//! its headers, and callers would see a broken connection.
//!
//! Not here: streaming calls, and what a value must be otherwise (unit tests of the parsers).

use isyone_proto::pb;
use prost::{
    Message as _,
    bytes::{Buf, BufMut},
    encoding::{WireType, encode_key, encode_varint},
};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet, field_descriptor_proto,
};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_types::StatusExt as _;

use crate::support::{soon, start};

const LONG: usize = 130_000;

/// Requests as bytes; answers are not looked into.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, bytes: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

/// What another field of the request says, so that the one in question is reached.
fn usual(message: &str, field: &str) -> &'static str {
    match field {
        "host" if message == "DeleteOrphanRequest" => "h1",
        "name" | "tenant" => "alfa",
        "new_name" => "alfa2",
        "domain" => "erp.customer.com",
        "plan" => "small",
        "to_host" => "h1",
        _ => "",
    }
}

struct Messages(FileDescriptorSet);

impl Messages {
    fn get(&self, name: &str) -> Option<&DescriptorProto> {
        let name = name.trim_start_matches(".isyone.v1.");
        let (outer, inner) = name.split_once('.').unwrap_or((name, ""));
        let files = self.0.file.iter().filter(|f| f.package() == "isyone.v1");
        let message = files
            .flat_map(|f| &f.message_type)
            .find(|m| m.name() == outer)?;
        if inner.is_empty() {
            return Some(message);
        }
        message.nested_type.iter().find(|m| m.name() == inner)
    }

    /// Every string in a message, as the path of its fields; of maps the key stands for both.
    fn strings(&self, message: &DescriptorProto) -> Vec<Vec<FieldDescriptorProto>> {
        let mut all = Vec::new();
        for field in &message.field {
            match field.r#type() {
                field_descriptor_proto::Type::String => all.push(vec![field.clone()]),
                field_descriptor_proto::Type::Message => {
                    let Some(inner) = self.get(field.type_name()) else {
                        continue;
                    };
                    for mut path in self.strings(inner) {
                        path.insert(0, field.clone());
                        all.push(path);
                    }
                }
                _ => {}
            }
        }
        all
    }

    /// A request with this one value, and the usual ones beside it.
    fn request(
        &self,
        message: &DescriptorProto,
        path: &[FieldDescriptorProto],
        value: &str,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |field: &FieldDescriptorProto, content: &[u8]| {
            encode_key(
                u32::try_from(field.number()).unwrap(),
                WireType::LengthDelimited,
                &mut bytes,
            );
            encode_varint(content.len() as u64, &mut bytes);
            bytes.extend_from_slice(content);
        };
        let (first, rest) = path.split_first().unwrap();
        for field in message.field.iter().filter(|f| *f != first) {
            let usual = usual(message.name(), field.name());
            if !usual.is_empty() {
                put(field, usual.as_bytes());
            }
        }
        if rest.is_empty() {
            put(first, value.as_bytes());
        } else {
            let inner = self.get(first.type_name()).unwrap();
            put(first, &self.request(inner, rest, value));
        }
        let role = message.field.iter().find(|f| f.name() == "role");
        if let Some(role) = role {
            encode_key(
                u32::try_from(role.number()).unwrap(),
                WireType::Varint,
                &mut bytes,
            );
            encode_varint(2, &mut bytes);
        }
        bytes
    }
}

/// `spec.host_labels["xx"]` is `spec.host_labels`.
fn bare(field: &str) -> String {
    let mut parts = field
        .split('.')
        .map(|part| part.split('[').next().unwrap_or(part));
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |path, part| format!("{path}.{part}"))
}

/// Fails if a call repeats a value whole, or takes one that nobody can have meant.
#[tokio::test]
async fn a_value_that_is_far_too_long_is_refused_by_name() {
    let fixture = start().await;
    let messages = Messages(FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap());
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    let files = messages
        .0
        .file
        .iter()
        .filter(|f| f.package() == "isyone.v1");
    for service in files.flat_map(|file| &file.service) {
        for method in service.method.iter().filter(|m| !m.client_streaming()) {
            let input = messages.get(method.input_type()).unwrap();
            for path in messages.strings(input) {
                let names: Vec<&str> = path.iter().map(FieldDescriptorProto::name).collect();
                let asked = names.join(".");
                let uri = format!("/isyone.v1.{}/{}", service.name(), method.name());
                let request = messages.request(input, &path, &"x".repeat(LONG));
                let mut client = tonic::client::Grpc::new(fixture.admin.clone());
                client.ready().await.unwrap();
                let call = client.server_streaming(
                    tonic::Request::new(request),
                    uri.parse().unwrap(),
                    Raw,
                );
                let refused = match soon(call).await {
                    Err(status) => status,
                    Ok(answer) => match soon(answer.into_inner().message()).await {
                        Err(status) => status,
                        Ok(_) => Status::ok("taken"),
                    },
                };
                looked_at += 1;
                let named = refused.get_details_bad_request();
                let named = named.and_then(|bad| Some(bare(&bad.field_violations.first()?.field)));
                // A message that only wraps a list, and a map's entry, are named by the field that holds them.
                let fits = named
                    .as_deref()
                    .is_some_and(|n| asked == n || asked.starts_with(&format!("{n}.")));
                if refused.code() != Code::InvalidArgument
                    || !fits
                    || refused.message().len() > 1_000
                {
                    wrong.push(format!("{uri} {asked}: {:?} {named:?}", refused.code()));
                }
            }
        }
    }
    assert!(looked_at > 50, "{looked_at}");
    assert!(
        wrong.is_empty(),
        "{} of {looked_at}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
