//! prost's codec, with buffers that fit. tonic's default takes 16 KiB for every open stream before the first byte has
//! come; with ten thousand watches that is most of a member's memory. And it lets the buffer of a large message grow
//! by doubling, so that up to twice its size waits for a client that does not read.

use prost::Message;
use std::marker::PhantomData;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstCodec;

/// What a stream's buffers begin with: room for a watch's request, or a put of the usual size.
const BUFFER_BYTES: usize = 512;
/// How much is encoded before it is handed to HTTP/2: tonic's own value.
const YIELD_BYTES: usize = 32 << 10;

/// The codec of every service.
#[derive(Clone, Debug)]
pub struct FittingBuffers<T, U>(PhantomData<(T, U)>);

/// Encodes into a buffer of the message's size.
#[derive(Clone, Debug)]
pub struct FittingEncoder<T>(PhantomData<T>);

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

impl<T, U> Default for FittingBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for FittingBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = FittingEncoder<T>;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        FittingEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

impl<T: Message> Encoder for FittingEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).expect("room for all of it was reserved");
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}
