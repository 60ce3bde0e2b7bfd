//! Codec for messages on gRPC streams: prost as tonic uses it, but with buffers that start small.
//!
//! tonic starts with 8 KiB in each direction of each call and keeps them while the call lasts. A session lasts for
//! months, and most of its messages have a few hundred bytes; with ten thousand sessions these buffers dominate memory.
//! They still grow to fit larger messages.
//! Not here: the size limit of a message, which clients and servers set (tls).

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Most messages of a session fit in this, bytes.
const BUFFER_BYTES: usize = 1024;
/// How much is written in one piece when more is ready, bytes. A buffer grows to that and one message more, and stays so: with
/// tonic's 32 KiB a session that begins with a long list of hosts would keep them for months.
const YIELD_BYTES: usize = 4 * 1024;

/// prost's codec with small buffers: `E` is encoded, `D` decoded.
#[derive(Debug, Clone)]
pub struct SmallProst<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for SmallProst<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for SmallProst<E, D>
where
    E: Message + Send + 'static,
    D: Message + Default + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = ProstEncoder<E>;
    type Decoder = ProstDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
