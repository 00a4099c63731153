//! Calls that no generated client makes: bodies of any bytes, metadata of any text, sockets without a protocol.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::{Buf, BufMut};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use crate::harness::rpc::{CALL_WITHIN, block_on, runtime};

/// Bytes in, bytes out.
#[derive(Clone, Copy, Default)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

/// A connection of its own.
pub fn channel(url: &str) -> Channel {
    let _inside = runtime().enter();
    Endpoint::from_shared(url.to_owned())
        .expect("a client URL")
        .connect_timeout(Duration::from_secs(5))
        .connect_lazy()
}

/// A unary call with any bytes as its body, such as "/etcdserverpb.KV/Range".
pub fn unary(channel: &Channel, path: &'static str, body: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    let call = async move {
        grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        grpc.unary(Request::new(body), PathAndQuery::from_static(path), RawCodec)
            .await
    };
    let answer = block_on(async { tokio::time::timeout(CALL_WITHIN, call).await });
    answer
        .unwrap_or_else(|_| panic!("{path} was not answered within {CALL_WITHIN:?}"))
        .map(tonic::Response::into_inner)
}

/// Writes bytes to a port and reads until the other side closes or says nothing for `patience`.
pub fn poke(address: &str, bytes: &[u8], patience: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("a listening port");
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    stream.set_write_timeout(Some(patience)).expect("a timeout");
    // The other side may have closed before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..read]);
    }
    answer
}
