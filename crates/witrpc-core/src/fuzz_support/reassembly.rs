//! Target `reassembly`: messages cut anywhere, in any order, against a model of what `docs/wire.md` allows; and frames
//! that break its rules.
//!
//! What must hold: as long as the rules are kept, each message comes out as it went in; the frame that breaks one is
//! refused; and what is allocated follows what has arrived.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::error::Error;
use crate::fuzz_support::input::Input;
use crate::limits::{Limits, POOLS, Pool};
use crate::session::inbound::{Inbound, Incoming};
use crate::session::ledger::{Charge, Ledger};
use crate::testing::lock;
use crate::testing::{Message, Pipe, PipeReceiver};
use crate::values::content::Content;
use crate::wire::fields::{len_u64, u32_len};
use crate::wire::frame::{Header, Kind};
use crate::wire::message::{BLOB_COST, HEAD_LEN};

/// Feeds the frames that these bytes describe.
///
/// # Panics
///
/// If what comes out is not what the model expects.
pub fn reassembly(data: &[u8]) {
    let mut input = Input::new(data);
    let mut model = Model::new(&mut input);
    while !input.is_empty() && !model.over {
        model.act(&mut input);
        model.inbound.check();
        assert!(model.inbound.partial_count() <= u32_len(model.limits.max_in_flight) + 1);
    }
    let Model { inbound, held, ledger, .. } = model;
    drop((inbound, held));
    assert_eq!(Arc::strong_count(&ledger), 1, "something is still on the account");
}

/// A message under way.
struct Sending {
    message: Message,
    first: Vec<u8>,
    blobs: Vec<Bytes>,
    /// 0 is `first`, `n` is `blobs[n - 1]`.
    section: usize,
    offset: usize,
    charged_blobs: bool,
}

impl Sending {
    fn new(message: Message) -> Self {
        let mut content = Content::plain(Vec::new(), &message.body);
        content.set_blobs(message.marker, message.blobs.clone());
        let (first, blobs) = content.into_sections(message.selector, message.member, message.stamp);
        Self { message, first, blobs, section: 0, offset: 0, charged_blobs: false }
    }

    fn rest(&self) -> &[u8] {
        match self.section.checked_sub(1) {
            None => &self.first[self.offset..],
            Some(blob) => &self.blobs[blob][self.offset..],
        }
    }

    fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| len_u64(blob.len())).sum()
    }

    /// Steps over a chunk, and over what is empty behind it; returns whether it was the last.
    fn advance(&mut self, len: usize) -> bool {
        self.offset += len;
        while self.rest().is_empty() {
            if self.section == self.blobs.len() {
                return true;
            }
            self.section += 1;
            self.offset = 0;
        }
        false
    }
}

struct Model {
    limits: Limits,
    inbound: Inbound,
    pipe: Arc<Mutex<Pipe>>,
    ledger: Arc<Ledger>,
    sending: HashMap<(u8, u64), Sending>,
    /// Charges of messages that have come.
    held: Vec<Charge>,
    charged: [u64; POOLS],
    /// Whether every rule has been kept so far, so that the model knows what happens.
    sound: bool,
    over: bool,
}

/// Kinds of message in an open session.
const KINDS: [Kind; 3] = [Kind::Request, Kind::Response, Kind::Event];

impl Model {
    fn new(input: &mut Input<'_>) -> Self {
        let sizes = [2000, 100, 70_000, 1];
        let max_message_size = sizes[input.below(4)];
        let max_buffered = max_message_size * [2, 1, 8, 3][input.below(4)];
        let max_in_flight = [4, 1, 2, 100][input.below(4)];
        let limits = Limits { max_message_size, max_buffered, max_in_flight };
        let ledger = Ledger::new(Pool::ALL.map(|pool| limits.credit_batch(pool)));
        let pipe = Arc::<Mutex<Pipe>>::default();
        let receiver = PipeReceiver { pipe: Arc::clone(&pipe), current: None };
        let mut inbound = Inbound::new(Box::new(receiver), limits, Arc::clone(&ledger), false);
        inbound.open();
        Self {
            limits,
            inbound,
            pipe,
            ledger,
            sending: HashMap::new(),
            held: Vec::new(),
            charged: [0; POOLS],
            sound: true,
            over: false,
        }
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            0x00..=0x4F => self.begin(input),
            0x50..=0xAF => self.go_on(input),
            0xB0..=0xBF => self.abort(input),
            0xC0..=0xCF => {
                if !self.held.is_empty() {
                    self.held.swap_remove(input.below(self.held.len()));
                }
            }
            0xD0..=0xDF => {
                for pool in Pool::ALL {
                    let _due = self.ledger.take_due(pool);
                }
            }
            0xE0..=0xEF => self.any_frame(input),
            _ => self.any_record(input),
        }
    }

    /// The first chunk of a message, whose id may be in use.
    fn begin(&mut self, input: &mut Input<'_>) {
        let (kind, id) = (input.below(3), input.below(8));
        let sizes = [10, 0, 300, 1000, 3000, 70_000];
        let size = |input: &mut Input<'_>| {
            let most = sizes[input.below(6)];
            input.len(most + 1)
        };
        let body = vec![input.byte(); size(input)];
        let count = [0, 1, 2, 3, 30][input.below(5)];
        let blobs: Vec<_> = (0..count).map(|at| Bytes::from(vec![at; size(input)])).collect();
        let message = Message {
            selector: input.u16(),
            member: input.u16(),
            stamp: input.number(),
            body,
            marker: 5,
            blobs,
        };
        let key = (u8::try_from(kind).unwrap_or(0), u64::from(u8::try_from(id).unwrap_or(0)));
        let sending = Sending::new(message);
        let len = HEAD_LEN + input.len(sending.first.len() - HEAD_LEN + 1);
        if self.sending.contains_key(&key) {
            self.refused(key, &sending.first[..len], (true, false));
            return;
        }
        self.send(key, sending, len, input);
    }

    /// The next chunk of a message.
    fn go_on(&mut self, input: &mut Input<'_>) {
        let mut keys: Vec<_> = self.sending.keys().copied().collect();
        keys.sort_unstable();
        let Some(key) = keys.get(input.below(keys.len().max(1))).copied() else { return };
        let Some(sending) = self.sending.remove(&key) else { return };
        // Ordinarily all that the section has left.
        let len = sending.rest().len() - input.len(sending.rest().len());
        self.send(key, sending, len, input);
    }

    /// Sends a chunk, as it should be or with one mistake.
    fn send(&mut self, key: (u8, u64), mut sending: Sending, len: usize, input: &mut Input<'_>) {
        let first = sending.section == 0 && sending.offset == 0;
        let chunk = sending.rest()[..len].to_vec();
        let last = sending.advance(len);
        match input.byte() {
            0xE0..=0xE7 => return self.refused(key, &chunk, (first, !last)),
            0xE8..=0xEF if !first => return self.refused(key, &chunk, (true, last)),
            0xF0..=0xF7 if first => return self.refused(key, &chunk, (false, last)),
            0xF8..=0xFB if !first => return self.refused(key, &[], (first, last)),
            // A byte of the next section, or one too many.
            0xFC..=0xFF if sending.offset == 0 || last => {
                return self.refused(key, &[&chunk[..], &[0]].concat(), (first, last));
            }
            _ => {}
        }
        let pool = KINDS[usize::from(key.0)].pool();
        let breaks_a_rule = self.sound && !self.charge(pool, &mut sending, first, last);
        let outcome = self.feed(key, &chunk, (first, last));
        self.over = outcome.is_err();
        if self.sound {
            assert_eq!(outcome.is_err(), breaks_a_rule, "{outcome:?}");
        }
        match outcome {
            Ok(Some(Incoming::Part)) if !last => drop(self.sending.insert(key, sending)),
            Ok(Some(incoming)) if self.sound => self.arrived(key, &sending.message, incoming),
            _ => {}
        }
    }

    /// Puts on the account what this chunk declares; returns whether everything is within the limits.
    fn charge(&mut self, pool: Pool, sending: &mut Sending, first: bool, last: bool) -> bool {
        let entries = len_u64(sending.blobs.len()) * BLOB_COST;
        let (body, blobs) = (len_u64(sending.message.body.len()) + entries, sending.blob_bytes());
        let mut fine = true;
        if first {
            self.charged[pool as usize] += body;
            fine &= body <= self.limits.max_message_size;
        }
        if (last || sending.section > 0) && !std::mem::replace(&mut sending.charged_blobs, true) {
            self.charged[pool as usize] += blobs;
            fine &= body + blobs <= self.limits.max_message_size;
        }
        let charged = self.charged[pool as usize] - self.ledger.returned(pool);
        fine &= charged <= self.limits.credit(pool);
        fine && (last || self.sending.len() <= u32_len(self.limits.max_in_flight))
    }

    fn arrived(&mut self, key: (u8, u64), sent: &Message, incoming: Incoming) {
        let (kind, got, head, content, charge) = match incoming {
            Incoming::Request { id, head, content, charge, .. } => (0, id, head, content, charge),
            Incoming::Response { id, head, content, charge } => (1, id, head, content, charge),
            Incoming::Event { id, head, content, charge } => (2, id, head, content, charge),
            other => panic!("{other:?}"),
        };
        assert_eq!((kind, got), key);
        assert_eq!(Message::arrived(&head, &content), *sent);
        self.held.push(charge);
    }

    fn abort(&mut self, input: &mut Input<'_>) {
        let (kind, id) = (input.below(2), u64::from(input.byte() % 8));
        let code = [0x13, 0x14][kind];
        let begun = self.sending.remove(&(u8::from(kind == 1), id)).is_some();
        let outcome = self.feed_raw(code, 0b11, id, &[]);
        self.over = outcome.is_err();
        if !self.sound {
            return;
        }
        match outcome {
            Ok(Some(Incoming::Aborted { id: aborted, request, .. })) => {
                assert!(begun && aborted == id && request == (kind == 0));
            }
            Err(Error::Protocol(_)) => assert!(!begun),
            other => panic!("{other:?}"),
        }
    }

    /// A chunk that must not be taken.
    fn refused(&mut self, key: (u8, u64), chunk: &[u8], flags: (bool, bool)) {
        let outcome = self.feed(key, chunk, flags);
        assert!(!self.sound || matches!(outcome, Err(Error::Protocol(_))), "{outcome:?}");
        self.over = true;
    }

    /// A frame of any kind, with any payload: from here on the model does not know what to expect.
    fn any_frame(&mut self, input: &mut Input<'_>) {
        let code = [0x10, 0x11, 0x30, 0x13, 0x14, 0x12, 0x31, 0x34, 0x20, 0x01][input.below(10)];
        let (flags, id) = (input.byte() % 4, u64::from(input.byte() % 8));
        let mut payload = Vec::new();
        if flags & 1 != 0 {
            let (body, blobs) = (input.number(), input.number());
            payload.extend_from_slice(&body.to_le_bytes());
            payload.extend_from_slice(&blobs.to_le_bytes());
            payload.extend_from_slice(&[0; 8]);
        }
        payload.extend_from_slice(input.piece());
        self.sound = false;
        self.over = self.feed_raw(code, flags, id, &payload).is_err();
    }

    fn any_record(&mut self, input: &mut Input<'_>) {
        lock(&self.pipe).push(input.piece().to_vec());
        self.sound = false;
        self.over = self.next().is_err();
    }

    fn feed(
        &mut self,
        (kind, id): (u8, u64),
        chunk: &[u8],
        (first, last): (bool, bool),
    ) -> Result<Option<Incoming>, Error> {
        let len = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let header = Header { first, last, ..Header::whole(KINDS[usize::from(kind)], id, len) };
        lock(&self.pipe).push([&header.encode(), chunk].concat());
        self.next()
    }

    fn feed_raw(
        &mut self,
        code: u8,
        flags: u8,
        id: u64,
        payload: &[u8],
    ) -> Result<Option<Incoming>, Error> {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut head = Header::whole(Kind::Ping, id, len).encode();
        (head[0], head[1]) = (code, flags);
        lock(&self.pipe).push([&head, payload].concat());
        self.next()
    }

    fn next(&mut self) -> Result<Option<Incoming>, Error> {
        let outcome = self.inbound.receive();
        assert!(matches!(outcome, Ok(Some(_)) | Err(Error::Protocol(_))), "{outcome:?}");
        outcome
    }
}
