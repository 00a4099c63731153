//! Compiles our protos with protox: no system protoc, and generated code exists only in OUT_DIR.

use std::{env, io, path::PathBuf};

const PROTOS: [&str; 8] = [
    "etcd/kv.proto",
    "etcd/auth.proto",
    "etcd/rpc.proto",
    "etcd/lock.proto",
    "etcd/election.proto",
    "node/command.proto",
    "node/peer.proto",
    "dipper/operations.proto",
];

fn main() -> io::Result<()> {
    for proto in PROTOS {
        println!("cargo:rerun-if-changed={proto}");
    }
    let files = protox::compile(PROTOS, ["etcd", "node", "."]).map_err(io::Error::other)?;
    let mut prost = tonic_prost_build::Config::new();
    // Keys and values are slices of the request they came in: nothing is copied to decode them.
    prost.bytes(["."]);
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .build_client(env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .build_transport(false)
        .codec_path("crate::codec::FittingBuffers")
        .out_dir(out)
        .compile_fds_with_config(files, prost)
}
