//! The peer: what it sends is the fuzzer's, and so is when it reads.

use std::collections::VecDeque;

use bytes::Bytes;
use witrpc_core::fuzz_support::Input;
use witrpc_core::limits::Limits;
use witrpc_core::session::window::Allowance;
use witrpc_core::transport::Channel;
use witrpc_core::values::content::{Content, Streams};
use witrpc_core::wire::fields::{Fields, len_u64, u32_len};
use witrpc_core::wire::frame::{HEADER_LEN, Header, Kind};
use witrpc_core::wire::message::StreamEntry;

/// Chunks of the longest messages that fit the transport.
const CHUNK: usize = 1000;

/// Kinds of frames that are no message.
const CONTROL: [u8; 15] =
    [0x12, 0x13, 0x14, 0x20, 0x21, 0x22, 0x23, 0x31, 0x32, 0x33, 0x34, 0x35, 0x0F, 0x42, 0x43];

pub(super) struct Peer {
    channel: Channel,
    /// What it has announced.
    pub(super) limits: Limits,
    /// Its own streams.
    streams: Vec<Written>,
    /// Chunks of messages that have begun.
    begun: Vec<VecDeque<Vec<u8>>>,
    /// The other side has said goodbye.
    goodbye: bool,
}

/// A stream of the peer's.
#[derive(Clone, Copy)]
struct Written {
    id: u64,
    /// The number of its next item.
    next: u64,
    /// What it may send, as far as it has read that.
    left: Allowance,
}

impl Peer {
    pub(super) const fn new(channel: Channel) -> Self {
        let limits = super::LIMITS;
        Self { channel, limits, streams: Vec::new(), begun: Vec::new(), goodbye: false }
    }

    /// A message of the handshake, whose body this writes.
    pub(super) fn say(&mut self, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) {
        let mut body = Vec::new();
        write(&mut body);
        let (section, _) = Content::plain(Vec::new(), &body).into_sections(0, 0, 0);
        self.frame(kind_code(kind), 0b11, 0, &section);
    }

    /// A subscription to this event of the first service.
    #[cfg(test)]
    pub(super) fn subscribe(&mut self, event: u8, values: u32) {
        let mut payload = vec![0, 0, event, 0];
        payload.extend_from_slice(&values.to_le_bytes());
        payload.extend_from_slice(&u64::MAX.to_le_bytes());
        self.frame(0x31, 0b11, 5, &payload);
    }

    /// A value of an event.
    #[cfg(test)]
    pub(super) fn value(&mut self, id: u64, number: u64, body: &[u8]) {
        let (section, _) = Content::plain(Vec::new(), body).into_sections(0, 0, number);
        self.frame(kind_code(Kind::Event), 0b11, id, &section);
    }

    /// A frame of a burst, the one of this number. Returns whether there was room for it.
    pub(super) fn burst(&mut self, kind: u8, number: usize) -> bool {
        // Of subscriptions: none that others of its frames are about.
        let (id, subscription) = (len_u64(number), 100 + len_u64(number));
        let mut window = vec![0, 0, kind >> 6 & 1, 0];
        window.extend_from_slice(&[1, 0, 0, 0]);
        window.extend_from_slice(&[0xFF; 8]);
        match (kind % 8, number % 2) {
            (0 | 1, _) => self.frame(0x21, 0b11, id, &[]),
            (2, _) | (3, 0) => self.frame(0x31, 0b11, subscription, &window),
            (3, _) => self.frame(0x32, 0b11, subscription - 1, &[]),
            (4, _) => self.frame(0x20, 0b11, 100, &[]),
            (5, _) => self.frame(0x33, 0b11, (1 << 32) | (id % 8), &[]),
            (6, _) => self.frame(0x43, 0b11, id % 8, &[]),
            _ => self.frame(0x12, 0b11, id % 8, &[]),
        }
    }

    /// Something about streams, of its own and of the other side's.
    fn stream(&mut self, input: &mut Input<'_>) {
        match input.below(9) {
            0 | 1 => self.announce(0x10, input),
            2 => self.announce(0x11, input),
            3 => {
                // A call that is answered by streams.
                let body = format!("[{}]", input.byte() % 4);
                self.whole(0x10, id(input), (0, 5, 0), body.as_bytes(), &[]);
            }
            4 => {
                let (items, bytes) = (input.number().to_le_bytes(), input.number().to_le_bytes());
                let payload = [&items[..4], &bytes[..]].concat();
                let stream = u64::from(input.byte() % 16);
                self.frame(0x42, 0b11, stream, &payload);
            }
            5 | 6 => self.items(input),
            8 => {
                self.frame(0x43, 0b11, u64::from(input.byte() % 16), &[]);
            }
            _ => {
                if !self.streams.is_empty() {
                    let stream = self.streams.swap_remove(input.below(self.streams.len()));
                    self.whole(0x41, stream.id, (u16::from(input.byte() % 4), 0, 0), b"", &[]);
                }
            }
        }
    }

    /// A call, or an answer, that has some streams.
    fn announce(&mut self, kind: u8, input: &mut Input<'_>) {
        let first = self.streams.iter().map(|stream| stream.id + 1).max().unwrap_or(0);
        let streams: Vec<_> = (first..).take(1 + input.below(7)).collect();
        let reference = |place| format!("\"stream:0000000000000005:{place}\"");
        let places: Vec<_> = (0..streams.len()).map(reference).collect();
        let arguments = format!("[[{}]]", places.join(","));
        // The only argument of a call is in brackets of its own.
        let (fields, body) = match kind {
            0x10 => ((0, 6, 0), &arguments[..]),
            _ => ((0, 0, 0), &arguments[1..arguments.len() - 1]),
        };
        if self.whole(kind, id(input), fields, body.as_bytes(), &streams) {
            let written = |id| Written { id, next: 1, left: Allowance::default() };
            self.streams.extend(streams.into_iter().map(written));
        }
    }

    /// Items of a stream, as long as there is room, and sometimes no longer than there is credit.
    fn items(&mut self, input: &mut Input<'_>) {
        if self.streams.is_empty() {
            return;
        }
        let at = input.below(self.streams.len());
        let body = match input.below(4) {
            0 => Vec::new(),
            1 => b"[]".to_vec(),
            // Some numbers, each a digit and a comma.
            count => format!("[{}7]", "7,".repeat([50, 450][count - 2])).into_bytes(),
        };
        let (count, honest) = (input.byte(), input.byte() < 0xC0);
        for _ in 0..=count {
            let Written { id, next, left } = self.streams[at];
            if honest && !left.is_left() || !self.whole(0x40, id, (0, 0, next), &body, &[]) {
                return;
            }
            self.streams[at].left.spend(len_u64(body.len()));
            self.streams[at].next += 1;
        }
    }

    /// A message in one frame.
    fn whole(
        &mut self,
        code: u8,
        id: u64,
        (selector, member, stamp): (u16, u16, u64),
        body: &[u8],
        streams: &[u64],
    ) -> bool {
        let mut content = Content::plain(Vec::new(), body);
        if !streams.is_empty() {
            content.set_blobs(5, Vec::new());
            let entry = |id: &u64| StreamEntry { id: *id, window: 0 };
            content.set_streams(Streams::Table(streams.iter().map(entry).collect()));
        }
        let (section, _) = content.into_sections(selector, member, stamp);
        self.frame(code, 0b11, id, &section)
    }

    /// Something that a peer could do.
    pub(super) fn act(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            0x00..=0x4F => self.message(input),
            0x50..=0x7F => self.go_on(input),
            0x80..=0xBF => self.control(input),
            0xC0..=0xDF => self.read(1 + input.below(16)),
            0xE0..=0xEF => {
                let (code, flags, id) = (input.byte(), input.byte() % 4, id(input));
                self.frame(code, flags, id, input.piece());
            }
            0xF0..=0xFB => self.stream(input),
            _ => drop(self.push(input.piece(), &[])),
        }
    }

    /// The first frame of a request, a response or an event.
    fn message(&mut self, input: &mut Input<'_>) {
        let (code, id) = ([0x10, 0x10, 0x11, 0x30, 0x40, 0x41][input.below(6)], id(input));
        let (selector, member) = (u16::from(input.byte() % 4), u16::from(input.byte() % 8));
        let stamp = if code == 0x11 { 0 } else { input.number() };
        let sizes = [4, 0, 100, 1100, 4000];
        let size = |input: &mut Input<'_>| {
            let most = sizes[input.below(5)];
            input.len(most + 1)
        };
        let body = match input.below(4) {
            0 => b"[]".to_vec(),
            1 => vec![b' '; size(input)],
            2 => input.take(8).to_vec(),
            _ => b"[1,2,3]".to_vec(),
        };
        let mut content = Content::plain(Vec::new(), &body);
        let blobs = [0, 0, 1, 3][input.below(4)];
        content.set_blobs(5, (0..blobs).map(|_| Bytes::from(vec![9; size(input)])).collect());
        // Streams of the peer's, of which nobody here knows more than what the message says.
        let entry = |id| StreamEntry { id, window: u32::from(input.byte()) };
        let streams = [0, 0, 0, 2][usize::from(selector)];
        content.set_streams(Streams::Table((id % 8..).take(streams).map(entry).collect()));
        let (first, blobs) = content.into_sections(selector, member, stamp);
        let sections = std::iter::once(Bytes::from(first)).chain(blobs);
        let most = [CHUNK, CHUNK, 100, 30][input.below(4)];
        let payloads: Vec<_> = sections
            .flat_map(|section| section.chunks(most).map(<[u8]>::to_vec).collect::<Vec<_>>())
            .collect();
        let last = payloads.len() - 1;
        let chunks = payloads.iter().enumerate().map(|(at, payload)| {
            let flags = u8::from(at == 0) | u8::from(at == last) << 1;
            record(code, flags, id, payload)
        });
        self.begun.push(chunks.collect());
        let at = self.begun.len() - 1;
        self.send(at, if input.byte() < 0x80 { usize::MAX } else { 1 });
    }

    fn go_on(&mut self, input: &mut Input<'_>) {
        if !self.begun.is_empty() {
            let at = input.below(self.begun.len());
            self.send(at, 1 + input.below(4));
        }
    }

    fn send(&mut self, at: usize, chunks: usize) {
        for _ in 0..chunks {
            let Some(record) = self.begun[at].pop_front() else { break };
            if !self.push(&record, &[]) {
                self.begun[at].push_front(record);
                break;
            }
        }
        if self.begun[at].is_empty() {
            self.begun.swap_remove(at);
        }
    }

    fn control(&mut self, input: &mut Input<'_>) {
        let code = CONTROL[input.below(CONTROL.len())];
        let mut payload = Vec::new();
        let id = match code {
            0x20 | 0x21 => input.number(),
            0x33 => (id(input) % 8) | (u64::from(input.byte()) << 32),
            0x31 => {
                payload.extend_from_slice(&u16::from(input.byte() % 3).to_le_bytes());
                payload.extend_from_slice(&u16::from(input.byte() % 4).to_le_bytes());
                payload.extend_from_slice(&input.number().to_le_bytes()[..4]);
                payload.extend_from_slice(&input.number().to_le_bytes());
                id(input) % 8
            }
            0x35 => {
                payload.extend_from_slice(&input.number().to_le_bytes());
                id(input) % 8
            }
            0x42 => {
                payload.extend_from_slice(&u32::from(input.byte()).to_le_bytes());
                payload.extend_from_slice(&input.number().to_le_bytes());
                id(input) % 8
            }
            _ => id(input),
        };
        self.frame(code, 0b11, id, &payload);
    }

    /// Reads up to so many records.
    pub(super) fn read(&mut self, count: usize) {
        for _ in 0..count {
            let mut head = [0; HEADER_LEN];
            let Ok(Some(len)) = self.channel.receiver.peek(&mut head) else { break };
            let header = Header::decode(&head).expect("a frame of ours");
            assert_eq!(len, HEADER_LEN + u32_len(header.len));
            assert!(!self.goodbye, "a frame behind a goodbye");
            self.goodbye = header.kind == Kind::Goodbye;
            if header.kind == Kind::StreamCredit {
                self.take_credit(header.id);
            }
            self.channel.receiver.consume();
        }
        drop(self.channel.receiver.release());
    }

    /// Takes note of credit for a stream, in the current record.
    fn take_credit(&mut self, stream: u64) {
        let mut payload = Vec::new();
        self.channel.receiver.append_to(HEADER_LEN, 12, &mut payload);
        let mut fields = Fields::new(&payload);
        let items = fields.u32("items").expect("they are there");
        let bytes = fields.u64("bytes").expect("they are there");
        for written in self.streams.iter_mut().filter(|written| written.id == stream) {
            written.left.add(items, bytes);
        }
    }

    fn frame(&mut self, code: u8, flags: u8, id: u64, payload: &[u8]) -> bool {
        self.push(&record(code, flags, id, payload), &[])
    }

    fn push(&mut self, head: &[u8], body: &[u8]) -> bool {
        let sender = &mut self.channel.sender;
        let pushed = sender.try_push(head, body, 0).is_ok_and(|pushed| pushed);
        drop(sender.publish());
        if !pushed {
            drop(sender.arm(head.len().min(sender.max_record()), 0));
        }
        pushed
    }
}

/// What peers announce, honest and not.
pub(super) fn limits(input: &mut Input<'_>) -> Limits {
    match input.below(4) {
        0 => super::LIMITS,
        1 => Limits { max_message_size: 1, max_buffered: 1, max_in_flight: 1 },
        2 => Limits {
            max_message_size: (1 << 31) - 1,
            max_buffered: u64::MAX,
            max_in_flight: u32::MAX,
        },
        _ => Limits { max_message_size: 2000, max_buffered: 2000, max_in_flight: 2 },
    }
}

/// An id of a call: a slot and its generation.
fn id(input: &mut Input<'_>) -> u64 {
    let byte = u64::from(input.byte());
    byte & 7 | (byte >> 3 & 7) << 32
}

fn record(code: u8, flags: u8, id: u64, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut head = Header::whole(Kind::Ping, id, len).encode();
    (head[0], head[1]) = (code, flags);
    [&head, payload].concat()
}

fn kind_code(kind: Kind) -> u8 {
    Header::whole(kind, 0, 0).encode()[0]
}
