//! Target `lending`: a server whose client lends, borrows, returns and refers to what it likes, also to what it does not have.
//!
//! What must hold: no panic; no side's loans are more than its arena has; the server returns each loan once, and only what was lent; what
//! it lends is within the arena, and under a number that is not out; bytes that a program keeps stay as they are; and once the
//! client is gone and the program keeps nothing, all memory is back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use witrpc_core::contract::descriptor::{MethodDescriptor, ServiceDescriptor};
use witrpc_core::fuzz_support::Input;
use witrpc_core::limits::Limits;
use witrpc_core::testing::lock;
use witrpc_core::transport::{Channel, ClientTransport};
use witrpc_core::values::content::Content;
use witrpc_core::wire::catalog::Catalog;
use witrpc_core::wire::fields::{len_u64, u32_len};
use witrpc_core::wire::frame::{HEADER_LEN, Header, Kind};
use witrpc_core::wire::handshake::{Confirm, Hello, LOANS, NONCE_LEN, Proof, Terms, WIRE_VERSION};
use witrpc_core::wire::message::{HEAD_LEN, Head, LoanEntry, read_extension};
use witrpc_core::{Blob, Error};

use crate::builder::WitServerBuilder;
use crate::calls::arguments::arguments1;
use crate::calls::outcome::outcome;
use crate::context::CallContext;
use crate::events::remote_subscriber::{Attached, EventSubscriber};
use crate::fuzz_support::{client_is_gone, rounds};
use crate::server::WitServer;
use crate::serving::service::{self, Dispatch, Request, Service};
use crate::transport::memory::MemoryTransport;

/// What each side can lend: room for eight loans of the least size.
const ARENA: u64 = 32 << 10;
/// What the client writes into memory that it lends.
const PATTERN: u8 = 0x5A;
/// Loans from this number on are what they say.
const HONEST: u64 = 1000;
/// Blobs that the program keeps.
const KEPT: usize = 12;

/// Runs a server as these bytes say.
///
/// # Panics
///
/// If it does what it must not.
pub fn lending(data: &[u8]) {
    let mut input = Input::new(data);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (server, program, mut client) = open(&mut input).await;
        while !input.is_empty() {
            act(&mut input, &program, &mut client).await;
            check(&server, &program);
        }
        client.read(usize::MAX);
        drop(client);
        lock(&program.kept).clear();
        client_is_gone(&server).await;
    });
}

async fn open(input: &mut Input<'_>) -> (WitServer, Program, Client) {
    let transport = MemoryTransport::new().with_capacity(16 << 10).with_lending(ARENA);
    let is_copied = input.byte() % 2 == 1;
    let transport = if is_copied { transport.with_copied_loans() } else { transport };
    let program = Program::default();
    let server = WitServerBuilder::new()
        .with_transport(transport.clone())
        .with_service(program.clone())
        .with_max_message_size(4000)
        .build()
        .expect("settings that are fine");
    server.start_waiting_for_connection().await.expect("a transport of its own");
    let soon = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    let channel = transport.connect(soon.into()).await.expect("it listens");
    let (lent, has) = (BTreeMap::new(), BTreeMap::new());
    let mut client = Client { channel, lent, has, has_invented: false, ended: false };
    client.greet();
    rounds(20).await;
    (server, program, client)
}

async fn act(input: &mut Input<'_>, program: &Program, client: &mut Client) {
    match input.byte() {
        0x00..=0x2F => rounds(1 + input.below(8)).await,
        0x30..=0x3F => {
            let mut kept = lock(&program.kept);
            let left = input.below(KEPT + 1).min(kept.len());
            kept.truncate(left);
        }
        0x40..=0x6F => client.lend(input),
        0x70..=0xA7 => client.call(input),
        0xA8..=0xC7 => client.give_back(input),
        0xC8..=0xE7 => client.read(1 + input.below(16)),
        0xE8..=0xEF => {
            let id = u64::from(input.byte() % 8);
            client.frame(if input.byte() % 2 == 0 { 0x12 } else { 0x13 }, 0b11, id, &[]);
        }
        _ => {
            client.has_invented = true;
            client.frame(input.byte(), input.byte() % 4, u64::from(input.byte()), input.piece());
        }
    }
}

/// What the server lends and has borrowed is within the arenas; and what was lent honestly has not changed.
fn check(server: &WitServer, program: &Program) {
    for load in server.load() {
        assert!(load.memory.lent <= ARENA && load.memory.borrowed <= ARENA, "{load:?}");
    }
    for (blob, first) in &*lock(&program.kept) {
        assert_eq!(blob.iter().map(|byte| u64::from(*byte)).sum::<u64>(), *first);
    }
}

/// The client: what it sends is the fuzzer's.
struct Client {
    channel: Channel,
    /// What it has lent honestly and the server has, or may have: by loan.
    lent: BTreeMap<u64, (u64, Bytes)>,
    /// What the server has lent to it.
    has: BTreeMap<u64, LoanEntry>,
    /// It has sent frames of which it does not know what they lend.
    has_invented: bool,
    /// The server has said goodbye.
    ended: bool,
}

impl Client {
    fn greet(&mut self) {
        let [serializer, cipher, authorization] = ["json", "none", "none"].map(str::to_owned);
        let hello = Hello {
            version: WIRE_VERSION,
            clock: 0,
            nonce: [0; NONCE_LEN],
            terms: Terms { serializer, cipher, authorization },
            features: vec![LOANS.to_owned()],
            key: Vec::new(),
        };
        let mut body = Vec::new();
        hello.encode(&mut body);
        self.message(0x01, 0, (0, 0), &body, 0, &[]);
        let confirm = Confirm {
            limits: Limits::default(),
            clock_offset: 0,
            proof: Proof::default(),
            catalog: Catalog::default(),
        };
        body.clear();
        confirm.encode(&mut body);
        self.message(0x03, 0, (0, 0), &body, 0, &[]);
    }

    fn frame(&mut self, code: u8, flags: u8, id: u64, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut head = Header::whole(Kind::Ping, id, len).encode();
        (head[0], head[1]) = (code, flags);
        let record = [&head, payload].concat();
        if record.len() <= self.channel.sender.max_record() {
            // What does not fit is not sent.
            if self.channel.sender.try_push(&record, &[], 0).is_ok_and(|pushed| pushed) {
                drop(self.channel.sender.publish());
            }
        }
    }

    /// A message in one frame, with empty blobs.
    fn message(
        &mut self,
        code: u8,
        id: u64,
        (selector, member): (u16, u16),
        body: &[u8],
        blobs: usize,
        loans: &[LoanEntry],
    ) {
        let mut content = Content::plain(Vec::new(), body);
        content.set_blobs(5, vec![Bytes::new(); blobs]);
        let (mut first, _) = content.into_sections(selector, member, 0);
        let extension = first.len();
        loans.iter().for_each(|loan| loan.encode(&mut first));
        let len = u16::try_from(first.len() - extension).expect("few loans");
        first[6..8].copy_from_slice(&len.to_le_bytes());
        self.frame(code, 0b11, id, &first);
    }

    /// A call whose loans are what they say.
    fn lend(&mut self, input: &mut Input<'_>) {
        let Ok(arena) = self.channel.sender.arena() else { return };
        let len = 1 + input.len(8000);
        let Some(mut piece) = arena.allocate(len) else { return };
        piece.bytes_mut().fill(PATTERN);
        let bytes = piece.freeze();
        let Some(offset) = arena.locate(&bytes) else { unreachable!("it is there") };
        let loan = self.lent.last_key_value().map_or(HONEST, |(loan, _)| loan + 1);
        let entry = LoanEntry { blob: 0, of_receiver: false, loan, offset, len: len_u64(len) };
        self.lent.insert(loan, (len_u64(len), bytes));
        let member = u16::from(input.byte() % 4);
        self.request(input, member, &[entry]);
    }

    /// A call whose loans may be anything.
    fn call(&mut self, input: &mut Input<'_>) {
        let member = u16::from(input.byte() % 5);
        let count = input.below(4);
        let loans: Vec<_> = (0..count).map(|at| self.any_loan(input, at)).collect();
        self.request(input, member, &loans);
    }

    fn any_loan(&self, input: &mut Input<'_>, at: usize) -> LoanEntry {
        let blob = u32::try_from(at).unwrap_or(0) + u32::from(input.byte() == 0xFF);
        let of_receiver = input.byte() % 2 == 1;
        let own = self.has.values().nth(input.below(4)).filter(|_| of_receiver);
        let (offset, len) = match (own, input.byte()) {
            (Some(own), 0..=0x7F) => (own.offset, own.len),
            (Some(own), 0x80..=0xBF) => (own.offset + 1, own.len.saturating_sub(1).max(1)),
            (_, 0..=0xDF) => (u64::from(input.u16()), 1 + u64::from(input.u16() % 5000)),
            _ => (input.number(), input.number()),
        };
        let loan = own.map_or_else(|| u64::from(input.byte() % 16), |own| own.loan);
        LoanEntry { blob, of_receiver, loan, offset, len: len.max(1) }
    }

    fn request(&mut self, input: &mut Input<'_>, member: u16, loans: &[LoanEntry]) {
        let id = u64::from(input.byte() % 8);
        let references: Vec<_> =
            (0..loans.len()).map(|at| format!("\"blob:0000000000000005:{at}\"")).collect();
        let body = match member {
            3 => format!("[{}]", input.u16() % 9000),
            _ => format!("[[{}]]", references.join(",")),
        };
        self.message(0x10, id, (0, member), body.as_bytes(), loans.len(), loans);
    }

    /// Returns something that it has, or does not have.
    fn give_back(&mut self, input: &mut Input<'_>) {
        let own = self.has.keys().nth(input.below(4)).copied();
        let loan = own.filter(|_| input.byte() < 0xE0).unwrap_or_else(|| input.number());
        self.has.remove(&loan);
        self.frame(0x50, 0b11, loan, &[]);
    }

    /// Reads up to so many records.
    fn read(&mut self, count: usize) {
        for _ in 0..count {
            let mut head = [0; HEADER_LEN];
            let Ok(Some(len)) = self.channel.receiver.peek(&mut head) else { break };
            let header = Header::decode(&head).expect("a frame of ours");
            let mut payload = Vec::new();
            self.channel.receiver.append_to(HEADER_LEN, len - HEADER_LEN, &mut payload);
            self.channel.receiver.consume();
            assert!(!self.ended, "a frame behind a goodbye");
            self.ended = header.kind == Kind::Goodbye;
            match header.kind {
                Kind::LoanReturn if header.id >= HONEST => {
                    let lent = self.lent.remove(&header.id);
                    assert!(lent.is_some() || self.has_invented, "it was returned twice");
                }
                Kind::Response if header.first => self.look_at(&payload),
                _ => {}
            }
        }
        drop(self.channel.receiver.release());
    }

    /// The first section of a response, which is one frame.
    fn look_at(&mut self, payload: &[u8]) {
        let head = Head::decode(payload).expect("a head of ours");
        let from =
            u32_len(head.body_len) + HEAD_LEN + usize::try_from(head.tables_len()).unwrap_or(0);
        let extension = &payload[from..][..usize::from(head.extension_len)];
        for loan in read_extension(extension).expect("an extension of ours") {
            if loan.of_receiver {
                continue; // Of what we have lent.
            }
            assert!(loan.offset + loan.len <= ARENA, "{loan:?}");
            assert!(self.has.insert(loan.loan, loan).is_none(), "{loan:?} is out");
        }
    }
}

/// A service that does everything with blobs.
#[derive(Clone, Default)]
struct Program {
    /// With the sums of their bytes.
    kept: Arc<Mutex<Vec<(Blob, u64)>>>,
}

static DESCRIPTOR: ServiceDescriptor = ServiceDescriptor {
    name: "Program",
    docs: "",
    methods: &[method("look"), method("keep"), method("echo"), method("render"), method("hang")],
    events: &[],
};

const fn method(name: &'static str) -> MethodDescriptor {
    let (signature, types) = ("", "");
    MethodDescriptor { name, signature, types, docs: "", blocking: false, idempotent: false }
}

fn sum(blob: &Blob) -> u64 {
    blob.iter().map(|byte| u64::from(*byte)).sum()
}

impl Service for Program {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &DESCRIPTOR
    }

    fn call(&self, method: usize, request: Request) -> Dispatch {
        let kept = Arc::clone(&self.kept);
        match method {
            0 => service::answer(
                request,
                arguments1(),
                outcome(),
                |(blobs,): (Vec<Blob>,)| async move {
                    Ok::<_, Error>(blobs.iter().map(sum).sum::<u64>())
                },
            ),
            1 => service::answer(
                request,
                arguments1(),
                outcome(),
                |(blobs,): (Vec<Blob>,)| async move {
                    let mut kept = lock(&kept);
                    let room = KEPT - kept.len().min(KEPT);
                    kept.extend(blobs.into_iter().take(room).map(|blob| {
                        let sum = sum(&blob);
                        (blob, sum)
                    }));
                    Ok::<_, Error>(())
                },
            ),
            2 => service::answer(
                request,
                arguments1(),
                outcome(),
                |(blobs,): (Vec<Blob>,)| async move { Ok::<_, Error>(blobs) },
            ),
            3 => service::answer(request, arguments1(), outcome(), |(len,): (usize,)| async move {
                let mut loan = CallContext::current().try_lend(len)?;
                loan.fill(3);
                Ok::<_, Error>(loan.freeze())
            }),
            _ => service::answer(
                request,
                arguments1(),
                outcome(),
                |(_blobs,): (Vec<Blob>,)| async move {
                    rounds(5).await;
                    Ok::<_, Error>(())
                },
            ),
        }
    }

    fn subscribe(&self, _event: usize, subscriber: EventSubscriber) -> Attached {
        crate::events::remote_subscriber::unknown_event(subscriber)
    }
}
