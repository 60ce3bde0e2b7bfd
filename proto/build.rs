//! Compiles the `.proto` files with protox (pure Rust: no `protoc` needed) and keeps the descriptor set for reflection.

use prost::Message as _;

const FILES: [&str; 16] = [
    "isyone/v1/access.proto",
    "isyone/v1/tenant.proto",
    "isyone/v1/host.proto",
    "isyone/v1/operation.proto",
    "isyone/v1/event.proto",
    "isyone/v1/system.proto",
    "isyone/v1/certificate.proto",
    "isyone/v1/edge.proto",
    "isyone/v1/top.proto",
    "isyone/v1/domain.proto",
    "isyone/v1/backup.proto",
    "isyone/v1/mail.proto",
    "isyone/v1/settings.proto",
    "isyone/agent/v1/agent.proto",
    "isyone/agent/v1/backup.proto",
    "isyone/agent/v1/peer.proto",
];

/// Fields that are passed on as they came: taken out of the connection's buffer without a copy.
const PASSED_ON: [&str; 6] = [
    ".isyone.agent.v1.AttachUp.data",
    ".isyone.agent.v1.AttachDown.data",
    ".isyone.agent.v1.RelayUp.data",
    ".isyone.agent.v1.RelayDown.data",
    ".isyone.agent.v1.GetFileResponse.data",
    ".isyone.agent.v1.PutFileRequest.data",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=isyone");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::Compiler::new(["."])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(FILES)?
        .file_descriptor_set();
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let builder = tonic_prost_build::configure().codec_path("crate::codec::SmallProst");
    PASSED_ON
        .iter()
        .fold(builder, |builder, field| builder.bytes(field))
        .compile_fds(descriptors)?;
    Ok(())
}
