//! etcd's clients before 3.5 send `:authority: http://127.0.0.1:2379` when they dial one endpoint (Status, HashKV,
//! Defragment, MoveLeader, Snapshot): not an authority, but gRPC-Go's server never looked. The `h2` crate answers
//! a protocol error, and no layer above it can help. So the first request on a connection is repaired before
//! HTTP/2 sees it: `http://` becomes `httpx--`, which nobody reads either.
//!
//! The three characters are replaced by ones whose codes have the same lengths, raw and in HPACK's Huffman code, so
//! the frame keeps its length, and both ends' dynamic tables keep their sizes: later requests refer to the repaired
//! entry. Only the first header block is looked at, because a connection has one authority, and it is looked at
//! only when it came in one read, which the few hundred bytes of one do.
//!
//! Not here: any other leniency. Rejected: a patched copy of `h2`, and re-encoding every header block.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;
/// It is among the four pseudo-headers, which come first; a few more for table size updates.
const FIELDS_LOOKED_AT: usize = 8;

/// HPACK's codes and their lengths in bits (RFC 7541, appendix B).
type Code = (u64, u32);
const H: Code = (0b10_0111, 6);
const T: Code = (0b0_1001, 5);
const P: Code = (0b10_1011, 6);
const S: Code = (0b0_1000, 5);
const COLON: Code = (0b101_1100, 7);
const SLASH: Code = (0b01_1000, 6);
const X: Code = (0b111_1001, 7);
const DASH: Code = (0b01_0110, 6);

/// The bytes that hold the longer of the two prefixes in Huffman code.
const PREFIX_BYTES: usize = 6;

/// How far into a new connection the repair has looked.
pub enum FirstRequest {
    /// So many bytes of the preface were as expected.
    Preface(usize),
    /// So many bytes of a frame's header have come.
    FrameHeader([u8; FRAME_HEADER_BYTES], usize),
    /// The first request's headers are next: their bytes and flags.
    Headers(usize, u8),
    /// So many bytes of a frame that is no request are still to come.
    Skip(usize),
    /// Nothing is looked at any more.
    Done,
}

impl FirstRequest {
    /// Looks at what was just read, and repairs it if need be.
    pub fn look_at(&mut self, mut read: &mut [u8]) {
        while !read.is_empty() {
            let used = match self {
                Self::Done => return,
                Self::Preface(seen) => {
                    let used = read.len().min(PREFACE.len() - *seen);
                    let as_expected = read[..used] == PREFACE[*seen..*seen + used];
                    *self = match *seen + used {
                        // HTTP/1.1
                        _ if !as_expected => Self::Done,
                        seen if seen < PREFACE.len() => Self::Preface(seen),
                        _ => Self::FrameHeader([0; FRAME_HEADER_BYTES], 0),
                    };
                    used
                }
                Self::FrameHeader(header, seen) => {
                    let used = read.len().min(FRAME_HEADER_BYTES - *seen);
                    header[*seen..*seen + used].copy_from_slice(&read[..used]);
                    *seen += used;
                    if *seen == FRAME_HEADER_BYTES {
                        *self = Self::behind(*header);
                    }
                    used
                }
                Self::Headers(length, flags) => {
                    if let Some(payload) = read.get_mut(..*length) {
                        // A block that cannot be read is HTTP/2's to refuse.
                        let _ = repair(payload, *flags);
                    }
                    *self = Self::Done;
                    return;
                }
                Self::Skip(left) => {
                    let used = read.len().min(*left);
                    let left = *left - used;
                    *self = if left > 0 {
                        Self::Skip(left)
                    } else {
                        Self::FrameHeader([0; FRAME_HEADER_BYTES], 0)
                    };
                    used
                }
            };
            read = &mut read[used..];
        }
    }

    /// What comes behind this header.
    fn behind(header: [u8; FRAME_HEADER_BYTES]) -> Self {
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let (kind, flags) = (header[3], header[4]);
        match (kind, length) {
            (HEADERS, _) => Self::Headers(length, flags),
            (_, 0) => Self::FrameHeader([0; FRAME_HEADER_BYTES], 0),
            (_, length) => Self::Skip(length),
        }
    }
}

/// Repairs the authority in the payload of a HEADERS frame; `None` if there is no literal one near the start.
fn repair(payload: &mut [u8], flags: u8) -> Option<()> {
    let mut at = usize::from(flags & PADDED != 0) + 5 * usize::from(flags & PRIORITY != 0);
    for _ in 0..FIELDS_LOOKED_AT {
        let first = *payload.get(at)?;
        let (prefix_bits, is_literal) = match first.leading_zeros() {
            0 => (7, false),
            1 => (6, true),
            2 => (5, false),
            _ => (4, true),
        };
        let name;
        (name, at) = integer(payload, at, prefix_bits)?;
        if !is_literal {
            continue;
        }
        if name == 0 {
            at = string(payload, at)?.2;
        }
        let (is_huffman, from, to) = string(payload, at)?;
        if name == AUTHORITY {
            let value = payload.get_mut(from..to)?;
            if is_huffman {
                repair_huffman(value);
            } else {
                repair_raw(value);
            }
            return Some(());
        }
        at = to;
    }
    None
}

/// An HPACK integer, and where what follows begins.
fn integer(payload: &[u8], mut at: usize, prefix_bits: u32) -> Option<(usize, usize)> {
    let mask = (1usize << prefix_bits) - 1;
    let mut value = usize::from(*payload.get(at)?) & mask;
    at += 1;
    if value < mask {
        return Some((value, at));
    }
    // Two more bytes are 16 KiB, more than any header block that is looked at.
    for shift in [0, 7] {
        let byte = usize::from(*payload.get(at)?);
        at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

/// An HPACK string: whether it is in Huffman code, and where it begins and ends.
fn string(payload: &[u8], at: usize) -> Option<(bool, usize, usize)> {
    let is_huffman = payload.get(at)? & 0x80 != 0;
    let (length, from) = integer(payload, at, 7)?;
    Some((is_huffman, from, from + length))
}

fn repair_raw(value: &mut [u8]) {
    for prefix in [&b"http://"[..], b"https://"] {
        if value.starts_with(prefix) {
            value[prefix.len() - 3..prefix.len()].copy_from_slice(b"x--");
        }
    }
}

fn repair_huffman(value: &mut [u8]) {
    let Some(start) = value.first_chunk_mut::<PREFIX_BYTES>() else {
        return;
    };
    let prefixes: [(&[Code], &[Code]); 2] = [
        (&[H, T, T, P, COLON, SLASH, SLASH], &[H, T, T, P, X, DASH, DASH]),
        (&[H, T, T, P, S, COLON, SLASH, SLASH], &[H, T, T, P, S, X, DASH, DASH]),
    ];
    let bits = start.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    for (wrong, right) in prefixes {
        let ((wrong, length), (right, _)) = (joined(wrong), joined(right));
        let behind = PREFIX_BYTES as u32 * 8 - length;
        if bits >> behind == wrong {
            let repaired = bits ^ (wrong ^ right) << behind;
            start.copy_from_slice(&repaired.to_be_bytes()[8 - PREFIX_BYTES..]);
            return;
        }
    }
}

fn joined(codes: &[Code]) -> Code {
    codes.iter().fold((0, 0), |(bits, length), (code, more)| {
        (bits << more | code, length + more)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    /// `:method POST`, `:scheme http`, `:path /a`, `:authority`, and a field behind it.
    fn block(authority: &[u8], huffman: u8) -> Vec<u8> {
        let mut block = vec![0x83, 0x86, 0x44, 2, b'/', b'a', 0x41, huffman | authority.len() as u8];
        block.extend_from_slice(authority);
        block.extend_from_slice(&[0x40, 1, b'k', 1, b'v']);
        block
    }

    fn connection(block: &[u8]) -> Vec<u8> {
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 255, 255];
        let headers = [0, 0, block.len() as u8, HEADERS, 4, 0, 0, 0, 1];
        [PREFACE, &settings, &[0, 0, 0, 4, 1, 0, 0, 0, 0], &headers, block].concat()
    }

    fn huffman(codes: &[Code]) -> Vec<u8> {
        let mut bits = String::new();
        for (code, length) in codes {
            write!(bits, "{code:0width$b}", width = *length as usize).unwrap();
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        bits.as_bytes()
            .chunks(8)
            .map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | (bit - b'0')))
            .collect()
    }

    fn repaired(bytes: &[u8], cut: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut first = FirstRequest::Preface(0);
        let (before, behind) = bytes.split_at_mut(cut);
        first.look_at(before);
        first.look_at(behind);
        bytes
    }

    #[test]
    fn a_url_becomes_an_authority_of_the_same_size() {
        let (one, dot) = ((0b0_0001, 5), (0b01_0111, 6));
        let rest = [one, dot, one];
        let coded = |scheme: &[Code], marks: [Code; 3]| huffman(&[scheme, &marks, &rest].concat());
        let (wrong, right) = ([COLON, SLASH, SLASH], [X, DASH, DASH]);
        let pairs = [
            (block(b"http://1.1:2379", 0), block(b"httpx--1.1:2379", 0)),
            (block(b"https://a", 0), block(b"httpsx--a", 0)),
            (
                block(&coded(&[H, T, T, P], wrong), 0x80),
                block(&coded(&[H, T, T, P], right), 0x80),
            ),
            (
                block(&coded(&[H, T, T, P, S], wrong), 0x80),
                block(&coded(&[H, T, T, P, S], right), 0x80),
            ),
            (block(b"127.0.0.1:2379", 0), block(b"127.0.0.1:2379", 0)),
            (
                block(&coded(&[H, T, T], wrong), 0x80),
                block(&coded(&[H, T, T], wrong), 0x80),
            ),
        ];
        for (before, after) in pairs {
            let (before, after) = (connection(&before), connection(&after));
            let payload = before.len() - before[PREFACE.len() + 24 + 2] as usize;
            for cut in 0..=payload {
                assert_eq!(repaired(&before, cut), after, "cut at {cut}");
            }
        }
    }

    #[test]
    fn garbage_is_left_alone() {
        for bytes in [
            &b"GET / HTTP/1.1\r\nhost: http://a\r\n\r\n"[..],
            &[0xff; 300],
            &connection(&[0x41, 0xff, 0xff]),
        ] {
            assert_eq!(repaired(bytes, bytes.len() / 2), bytes);
        }
        // Any cut of a good one, too: no length leads out of what is there.
        let whole = connection(&block(b"http://1.1:2379", 0));
        for length in 0..whole.len() {
            repaired(&whole[..length], length);
        }
    }
}
