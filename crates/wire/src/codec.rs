//! Frames to bytes and back: `length (4 bytes, big endian) | protobuf`.
//!
//! **Invariant**: a length over the limit is refused from its first four bytes, before anything is reserved for it.

use bytes::{Buf, BufMut, BytesMut};
use prost::Message;

/// The largest frame that either side reads once a session stands.
pub const FRAME_LIMIT: usize = 16 << 20;
/// The largest frame that a server reads from a connection without a session (it holds an identity backup).
pub const PRE_SESSION_FRAME_LIMIT: usize = 32 << 10;
/// The bytes of a frame's length.
pub const LENGTH_BYTES: usize = 4;

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The announced length is over the limit.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLarge {
        /// What was announced.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The bytes are not the protobuf message that was expected.
    #[error("not a frame: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Appends `frame` with its length to `out`.
pub fn encode<F: Message>(frame: &F, out: &mut BytesMut) {
    let length = frame.encoded_len();
    out.reserve(LENGTH_BYTES + length);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // Into a BytesMut this cannot fail: it grows.
    let _ = frame.encode(out);
}

/// Takes the next whole frame off the front of `buffer`; `None` when it is not all there yet.
///
/// # Errors
/// The frame is longer than `limit` or is not an `F`. The connection should end: the stream has no further boundary.
pub fn decode<F: Message + Default>(buffer: &mut BytesMut, limit: usize) -> Result<Option<F>, FrameError> {
    let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > limit {
        return Err(FrameError::TooLarge { length, limit });
    }
    if buffer.len() < LENGTH_BYTES + length {
        buffer.reserve(LENGTH_BYTES + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    Ok(Some(F::decode(buffer.split_to(length).freeze())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{ClientFrame, Hello, ServerFrame, client_frame::Body};
    use proptest::prelude::*;

    fn hello() -> ClientFrame {
        ClientFrame { request: 7, body: Some(Body::Hello(Hello { version_min: 1, version_max: 1, agent: "t".into() })) }
    }

    #[test]
    fn golden_bytes_of_hello() {
        let mut out = BytesMut::new();
        encode(&hello(), &mut out);
        assert_eq!(out.as_ref(), b"\x00\x00\x00\x0b\x08\x07\x12\x07\x08\x01\x10\x01\x1a\x01t");
    }

    #[test]
    fn a_frame_split_at_every_byte_is_put_together() {
        let mut whole = BytesMut::new();
        encode(&hello(), &mut whole);
        for cut in 0..whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            assert_eq!(decode::<ClientFrame>(&mut buffer, 100), Ok(None));
            buffer.extend_from_slice(&whole[cut..]);
            assert_eq!(decode(&mut buffer, 100), Ok(Some(hello())));
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_bytes_arrive() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        let before = buffer.capacity();
        assert!(matches!(decode::<ClientFrame>(&mut buffer, FRAME_LIMIT), Err(FrameError::TooLarge { .. })));
        assert_eq!(buffer.capacity(), before);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode::<ClientFrame>(&mut buffer, 1000) {}
            let mut framed = BytesMut::new();
            framed.put_u32(u32::try_from(bytes.len()).unwrap());
            framed.extend_from_slice(&bytes);
            let _ = decode::<ServerFrame>(&mut framed.clone(), 4000);
            let _ = decode::<ClientFrame>(&mut framed, 4000);
        }
    }
}
