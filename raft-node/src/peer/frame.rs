//! One frame on the wire: length, CRC-32, body. Read and written the same way by every lane.
//!
//! ```text
//!   0        4        8
//!   | length | crc32  | body ... |      big endian; length and crc are the body's
//! ```
//! The length is compared with a limit before a byte is allocated for it, and memory grows with what has
//! really arrived, not with what was announced. A frame that does not verify ends its connection: there is
//! no way to find the next frame behind it.
//!
//! Not here: what a body means.

use std::{fmt, io, io::Read};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes in front of a body.
pub const HEADER_BYTES: usize = 8;

/// What a read asks of the socket at least: many small frames come with one system call.
const READ_BYTES: usize = 64 << 10;
/// Room for less than this is not worth a system call.
const READ_ROOM_BYTES: usize = 8 << 10;

/// Why no frame could be read.
#[derive(Debug)]
pub enum FrameError {
    /// The other side closed between two frames.
    Closed,
    /// The first bytes are neither ours nor HTTP's.
    Magic,
    /// The announced length exceeds the limit.
    TooLong { length: usize, max: usize },
    /// The body is not what was sent.
    Checksum,
    /// The body verifies but is no message of ours.
    Malformed(prost::DecodeError),
    /// The connection failed, or ended inside a frame.
    Io(io::Error),
}

impl FrameError {
    /// Whether the bytes themselves were wrong, as opposed to a connection that ended.
    pub fn is_garbage(&self) -> bool {
        matches!(
            self,
            FrameError::Magic | FrameError::TooLong { .. } | FrameError::Checksum | FrameError::Malformed(_)
        )
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Closed => write!(f, "closed by the other side"),
            FrameError::Magic => write!(f, "the first bytes are not those of a member"),
            FrameError::TooLong { length, max } => {
                write!(f, "a frame of {length} bytes is announced, the limit is {max}")
            }
            FrameError::Checksum => write!(f, "a frame's checksum does not match"),
            FrameError::Malformed(error) => write!(f, "a frame does not decode: {error}"),
            FrameError::Io(error) => write!(f, "{error}"),
        }
    }
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> FrameError {
        FrameError::Io(error)
    }
}

/// Appends `message` as one frame.
pub fn put(buffer: &mut BytesMut, message: &impl Message) {
    let length = message.encoded_len();
    buffer.reserve(HEADER_BYTES + length);
    let start = buffer.len();
    buffer.put_u32(u32::try_from(length).expect("no queue holds a message of 4 GiB"));
    buffer.put_u32(0);
    message.encode(buffer).expect("a BytesMut grows");
    let checksum = crc32fast::hash(&buffer[start + HEADER_BYTES..]);
    buffer[start + 4..start + HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
}

/// Takes the first frame's message off `buffer`, or `None` while it is not complete.
pub fn take<M: Message + Default>(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<M>, FrameError> {
    let Some((length, checksum)) = header(buffer, bytes_max)? else {
        return Ok(None);
    };
    if buffer.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    // Fields of the message are slices of this body: nothing is copied.
    decode(buffer.split_to(length).freeze(), checksum).map(Some)
}

/// Reads until a whole frame is in `buffer` and takes it; may be cancelled without losing a byte.
pub async fn read<M: Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    bytes_max: usize,
) -> Result<M, FrameError> {
    loop {
        if let Some(message) = take(buffer, bytes_max)? {
            return Ok(message);
        }
        fill(stream, buffer).await?;
    }
}

/// Waits for more bytes and says how many came.
pub async fn fill(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<usize, FrameError> {
    // Entries are kept, and with them the whole buffer that they are slices of: a new one is for when this is full.
    if buffer.capacity() - buffer.len() < READ_ROOM_BYTES {
        // Doubling: an announced length alone allocates nothing.
        buffer.reserve(READ_BYTES.max(buffer.len()));
    }
    match stream.read_buf(buffer).await {
        Ok(0) if buffer.is_empty() => Err(FrameError::Closed),
        Ok(0) => Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(FrameError::Io(error)),
    }
}

/// Reads exactly one frame, and not a byte behind it: for handshakes, whose stream is handed on.
pub async fn read_one<M: Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<M, FrameError> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).await?;
    let (length, checksum) = header(&head, bytes_max)?.expect("a whole header was read");
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body).await?;
    whole(body, length, checksum)
}

/// [`read_one`] for the threads that handle a snapshot's files.
pub fn read_blocking<M: Message + Default>(stream: &mut impl Read, bytes_max: usize) -> Result<M, FrameError> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head)?;
    let (length, checksum) = header(&head, bytes_max)?.expect("a whole header was read");
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body)?;
    whole(body, length, checksum)
}

fn header(buffer: &[u8], bytes_max: usize) -> Result<Option<(usize, u32)>, FrameError> {
    let Some((mut head, _)) = buffer.split_at_checked(HEADER_BYTES) else {
        return Ok(None);
    };
    let length = head.get_u32() as usize;
    if length > bytes_max {
        return Err(FrameError::TooLong { length, max: bytes_max });
    }
    Ok(Some((length, head.get_u32())))
}

fn whole<M: Message + Default>(body: Vec<u8>, length: usize, checksum: u32) -> Result<M, FrameError> {
    if body.len() < length {
        return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    decode(body.into(), checksum)
}

fn decode<M: Message + Default>(body: Bytes, checksum: u32) -> Result<M, FrameError> {
    if crc32fast::hash(&body) != checksum {
        return Err(FrameError::Checksum);
    }
    M::decode(body).map_err(FrameError::Malformed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proto::node::{PeerFrame, peer_frame::Body};

    use super::*;

    fn frame(value: u64) -> PeerFrame {
        PeerFrame {
            body: Some(Body::Ping(value)),
        }
    }

    fn encoded(values: &[u64]) -> BytesMut {
        let mut buffer = BytesMut::new();
        for value in values {
            put(&mut buffer, &frame(*value));
        }
        buffer
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut buffer = encoded(&[1, 2, 3]);
        for value in 1..=3 {
            assert_eq!(take::<PeerFrame>(&mut buffer, 100).unwrap(), Some(frame(value)));
        }
        assert!(buffer.is_empty());
    }

    #[test]
    fn no_prefix_of_a_frame_is_a_frame() {
        let whole = encoded(&[7]);
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert!(take::<PeerFrame>(&mut part, 100).unwrap().is_none());
            assert_eq!(part.len(), cut);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = encoded(&[7]);
        for bit in 32..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(take::<PeerFrame>(&mut damaged, 100).unwrap_err().is_garbage());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_allocated() {
        let mut buffer = BytesMut::from(&[0xff_u8; HEADER_BYTES][..]);
        let capacity = buffer.capacity();
        let error = take::<PeerFrame>(&mut buffer, 1 << 20).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a frame of 4294967295 bytes is announced, the limit is 1048576"
        );
        assert_eq!(buffer.capacity(), capacity);
    }

    #[test]
    fn what_verifies_but_does_not_decode_is_garbage() {
        let mut buffer = BytesMut::new();
        buffer.put_u32(2);
        buffer.put_u32(crc32fast::hash(&[0xff, 0xff]));
        buffer.put_slice(&[0xff, 0xff]);
        assert!(matches!(
            take::<PeerFrame>(&mut buffer, 100),
            Err(FrameError::Malformed(_))
        ));
    }

    #[test]
    fn a_blocking_read_ends_at_a_cut() {
        let whole = encoded(&[7]);
        assert!(matches!(
            read_blocking::<PeerFrame>(&mut &whole[..whole.len() - 1], 100),
            Err(FrameError::Io(_))
        ));
        assert_eq!(read_blocking::<PeerFrame>(&mut &whole[..], 100).unwrap(), frame(7));
    }
}
