//! The two records of the rendezvous, as bytes. `[seg.meet]`
//!
//! A client sends a [`JoinRequest`] through the server's door. The server sends an [`Answer`] through the client's pipe. Both are smaller
//! than `PIPE_BUF`, so each is written whole by one write. Nothing here touches the system.

use std::io;

use crate::layout::Instance;

/// `[seg.meet.version]` Raised by every change of the rendezvous.
pub(super) const RENDEZVOUS_VERSION: u32 = 2;
/// `[seg.meet.ask]`
pub(super) const JOIN_REQUEST_SIZE: usize = 64;
const JOIN_REQUEST_MAGIC: [u8; 8] = *b"witrpc\0a";
/// `[seg.meet.answer]`
pub(super) const ANSWER_SIZE: usize = 16;
const ANSWER_MAGIC: [u8; 4] = *b"wita";

/// What kind of client asks. `[seg.meet.kind]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Makes calls, and takes a slot.
    Client,
    /// Looks at the server, and takes no slot. No server admits one yet.
    Inspector,
    Other(u32),
}

impl Kind {
    const fn of(number: u32) -> Self {
        match number {
            1 => Self::Client,
            2 => Self::Inspector,
            other => Self::Other(other),
        }
    }

    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Client => 1,
            Self::Inspector => 2,
            Self::Other(number) => number,
        }
    }
}

/// A client's request to be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JoinRequest {
    pub(super) version: u32,
    /// As the client states it; used in messages only.
    pub(super) process_id: u32,
    /// Names the client's files.
    pub(super) nonce: Instance,
    /// `Other(0)` in requests of version 1, which have no kind.
    pub(super) kind: Kind,
}

impl JoinRequest {
    pub(super) fn encode(&self) -> [u8; JOIN_REQUEST_SIZE] {
        let mut bytes = [0; JOIN_REQUEST_SIZE];
        bytes[..8].copy_from_slice(&JOIN_REQUEST_MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.process_id.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.nonce);
        bytes[32..36].copy_from_slice(&self.kind.number().to_le_bytes());
        bytes
    }

    /// `None` if it is not a request. The reserved bytes are zero in every version: that is how a request that was put
    /// together from the pieces of two others is told from a whole one.
    pub(super) fn decode(bytes: &[u8; JOIN_REQUEST_SIZE]) -> Option<Self> {
        let (head, reserved) = bytes.split_at(36);
        if head[..8] != JOIN_REQUEST_MAGIC || reserved.iter().any(|byte| *byte != 0) {
            return None;
        }
        let mut nonce = Instance::default();
        nonce.copy_from_slice(&head[16..32]);
        let [version, process_id, kind] = [8, 12, 32].map(|at| number(head, at));
        Some(Self { version, process_id, nonce, kind: Kind::of(kind) })
    }
}

/// Splits the bytes that come through a door into asks. A process with write access can write anything, and in parts. Bytes that are
/// no request are skipped up to the next magic.
#[cfg(any(unix, test))]
#[derive(Debug, Default)]
pub(super) struct JoinRequests {
    /// Less than one request after [`next`](Self::next) has returned `None`.
    pending: Vec<u8>,
    /// Bytes skipped so far.
    skipped: usize,
}

#[cfg(any(unix, test))]
impl JoinRequests {
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next request, if a whole one has come.
    pub(super) fn next(&mut self) -> Option<JoinRequest> {
        loop {
            let start = (0..self.pending.len())
                .find(|start| {
                    let rest = &self.pending[*start..];
                    rest.starts_with(&JOIN_REQUEST_MAGIC) || JOIN_REQUEST_MAGIC.starts_with(rest)
                })
                .unwrap_or(self.pending.len());
            self.skip(start);
            let request = JoinRequest::decode(self.pending.first_chunk()?);
            if request.is_some() {
                self.pending.drain(..JOIN_REQUEST_SIZE);
                return request;
            }
            self.skip(1);
        }
    }

    /// How many bytes were skipped since this was last asked.
    pub(super) fn take_skipped(&mut self) -> usize {
        std::mem::take(&mut self.skipped)
    }

    fn skip(&mut self, bytes: usize) {
        self.pending.drain(..bytes);
        self.skipped += bytes;
    }
}

/// The server's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Admitted: the region is ready.
    ComeIn { layout_version: u32, process_id: u32 },
    /// The queue itself is full: ask again.
    Crowded { max_clients: u32 },
    /// The server could not make the region; the system's error number, or 0.
    Failed { system_error: u32 },
    /// The server admits no client of this kind.
    NoSuchKind { kind: u32 },
    /// The server has another version of the rendezvous.
    Refused { version: u32 },
    /// The server has stopped listening.
    Stopped,
    /// All slots are taken: the client is in the queue.
    Wait { max_clients: u32 },
}

impl Answer {
    /// That this went wrong.
    pub(super) fn failed(error: &io::Error) -> Self {
        let system_error = error.raw_os_error().and_then(|code| u32::try_from(code).ok());
        Self::Failed { system_error: system_error.unwrap_or(0) }
    }

    pub(super) fn encode(self) -> [u8; ANSWER_SIZE] {
        let (kind, value, process_id) = match self {
            Self::ComeIn { layout_version, process_id } => (1_u32, layout_version, process_id),
            Self::Wait { max_clients } => (2, max_clients, 0),
            Self::Stopped => (3, 0, 0),
            Self::Refused { version } => (4, version, 0),
            Self::Failed { system_error } => (5, system_error, 0),
            Self::Crowded { max_clients } => (6, max_clients, 0),
            Self::NoSuchKind { kind } => (7, kind, 0),
        };
        let mut bytes = [0; ANSWER_SIZE];
        bytes[..4].copy_from_slice(&ANSWER_MAGIC);
        bytes[4..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..12].copy_from_slice(&value.to_le_bytes());
        bytes[12..].copy_from_slice(&process_id.to_le_bytes());
        bytes
    }

    /// `None` if it is not an answer.
    pub(super) fn decode(bytes: &[u8; ANSWER_SIZE]) -> Option<Self> {
        if bytes[..4] != ANSWER_MAGIC {
            return None;
        }
        let [kind, value, process_id] = [4, 8, 12].map(|at| number(bytes, at));
        Some(match kind {
            1 => Self::ComeIn { layout_version: value, process_id },
            2 => Self::Wait { max_clients: value },
            3 => Self::Stopped,
            4 => Self::Refused { version: value },
            5 => Self::Failed { system_error: value },
            6 => Self::Crowded { max_clients: value },
            7 => Self::NoSuchKind { kind: value },
            _ => return None,
        })
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(seed: u8) -> JoinRequest {
        let kind = Kind::Client;
        JoinRequest { version: RENDEZVOUS_VERSION, process_id: 77, nonce: [seed; 16], kind }
    }

    fn all(requests: &mut JoinRequests) -> Vec<JoinRequest> {
        std::iter::from_fn(|| requests.next()).collect()
    }

    /// A frozen vector: what `docs/segment.md` says.
    #[test]
    fn a_join_request_is_what_the_table_says() {
        for (kind, number) in [(Kind::Client, 1), (Kind::Inspector, 2), (Kind::Other(9), 9)] {
            let request =
                JoinRequest { version: 2, process_id: 0x0201, nonce: *b"0123456789abcdef", kind };
            let bytes = request.encode();
            assert_eq!(bytes[..32], *b"witrpc\0a\x02\0\0\0\x01\x02\0\x000123456789abcdef");
            assert_eq!(bytes[32..36], [number, 0, 0, 0]);
            assert_eq!(bytes[36..], [0; 28]);
            assert_eq!(JoinRequest::decode(&bytes), Some(request));
        }
    }

    /// Or it could not be refused by its version.
    #[test]
    fn a_join_request_of_version_1_is_one() {
        let mut bytes = [0; JOIN_REQUEST_SIZE];
        bytes[..32].copy_from_slice(b"witrpc\0a\x01\0\0\0\x01\x02\0\x000123456789abcdef");
        let request = JoinRequest::decode(&bytes).unwrap();
        assert_eq!((request.version, request.kind), (1, Kind::Other(0)));
        for reserved in 36..JOIN_REQUEST_SIZE {
            let mut torn = bytes;
            torn[reserved] = 1;
            assert_eq!(JoinRequest::decode(&torn), None);
        }
    }

    #[test]
    fn answers_survive_their_bytes() {
        for answer in [
            Answer::ComeIn { layout_version: 1, process_id: 9 },
            Answer::Wait { max_clients: 3 },
            Answer::Stopped,
            Answer::Refused { version: 2 },
            Answer::Failed { system_error: 28 },
            Answer::Crowded { max_clients: 4 },
            Answer::NoSuchKind { kind: 2 },
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
        let bytes = Answer::Wait { max_clients: 3 }.encode();
        assert_eq!(bytes, *b"wita\x02\0\0\0\x03\0\0\0\0\0\0\0");
        for at in 0..8 {
            let mut changed = bytes;
            changed[at] ^= 0x40;
            assert_eq!(Answer::decode(&changed), None);
        }
    }

    #[test]
    fn join_requests_are_found_however_they_are_cut() {
        let bytes = [request(1).encode(), request(2).encode()].concat();
        for cut in 0..=bytes.len() {
            let mut requests = JoinRequests::default();
            requests.extend(&bytes[..cut]);
            let mut found = all(&mut requests);
            requests.extend(&bytes[cut..]);
            found.extend(all(&mut requests));
            assert_eq!(found, [request(1), request(2)]);
            assert_eq!(requests.take_skipped(), 0);
        }
    }

    #[test]
    fn a_join_request_after_any_torn_one_or_garbage_is_found() {
        // Whatever the nonces: it is the kind that tells.
        for seeds in [[9, 3], [0, 0], [0, 3]] {
            let [torn, whole] = seeds.map(|seed| request(seed).encode());
            for kept in 0..JOIN_REQUEST_SIZE {
                let mut requests = JoinRequests::default();
                requests.extend(&torn[..kept]);
                assert_eq!(all(&mut requests), []);
                requests.extend(&whole);
                assert_eq!(
                    all(&mut requests),
                    [request(seeds[1])],
                    "after {kept} bytes of another"
                );
            }
        }
        let whole = request(3).encode();
        for garbage in [
            &b"hello"[..],
            b"witr",
            b"witrpc\0",
            b"w",
            &[0xff; 200],
            &[0; 64],
            b"witrpc\0awitrpc\0a",
        ] {
            let mut requests = JoinRequests::default();
            requests.extend(garbage);
            requests.extend(&whole);
            requests.extend(garbage);
            assert_eq!(all(&mut requests), [request(3)], "{garbage:?}");
            assert!(requests.take_skipped() >= garbage.len());
            assert!(requests.pending.len() < JOIN_REQUEST_SIZE);
        }
    }
}
