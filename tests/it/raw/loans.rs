//! Loans, by a client whose bytes the test writes. [wire.loans]

use std::sync::Arc;

use witrpc::transport::memory::MemoryTransport;
use witrpc::{Load, WitServer};

use super::{
    ABORT_REQUEST, CREDIT, FIRST, Frame, Head, LOAN_RETURN, LOANS, MARKER, REQUEST, RESPONSE, Raw,
    WHOLE, frame,
};
use crate::contract::{CalcClient, CalcServer};
use crate::fixture::{Fixture, Flavor, block_on, eventually};
use crate::lending::{Painter, StudioServer};

/// What each side can lend.
const ARENA: u64 = 64 << 10;
/// The place of `Studio`, and those of its methods.
const STUDIO: u16 = 1;
const LOOK: u16 = 0;
const RENDER: u16 = 3;
const KEEP: u16 = 7;

/// An entry of an extension.
#[derive(Clone, Copy)]
struct Entry {
    blob: u32,
    whose: u32,
    loan: u64,
    offset: u64,
    len: u64,
}

const ENTRY: Entry = Entry { blob: 0, whose: 0, loan: 0, offset: 0, len: 4 };

impl Entry {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![1, 0, 32, 0];
        bytes.extend_from_slice(&self.blob.to_le_bytes());
        bytes.extend_from_slice(&self.whose.to_le_bytes());
        for number in [self.loan, self.offset, self.len] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        assert_eq!(bytes[..4], [1, 0, 32, 0]);
        let u32 = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64 = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        Self { blob: u32(4), whose: u32(8), loan: u64(12), offset: u64(20), len: u64(28) }
    }
}

/// A call whose argument is a list of blobs, and its payload.
fn payload(method: u16, lens: &[u64], entries: &[u8], more: u32) -> Vec<u8> {
    let references: Vec<_> =
        (0..lens.len()).map(|index| format!("\"blob:{MARKER:016x}:{index}\"")).collect();
    let body = match method {
        KEEP => format!("[{}]", references[0]),
        _ => format!("[[{}]]", references.join(",")),
    };
    let head = Head {
        selector: STUDIO,
        member: method,
        blob_count: lens.len() as u32 + more,
        extension_len: entries.len() as u16,
        ..Head::of(body.as_bytes())
    };
    let mut table = MARKER.to_le_bytes().to_vec();
    lens.iter().for_each(|len| table.extend_from_slice(&len.to_le_bytes()));
    head.with(&[body.as_bytes(), &table, entries].concat())
}

fn look(id: u64, lens: &[u64], entries: &[Entry]) -> Vec<u8> {
    let entries: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
    frame(REQUEST, WHOLE, id, &payload(LOOK, lens, &entries, 0))
}

fn returned(loan: u64) -> Vec<u8> {
    frame(LOAN_RETURN, WHOLE, loan, &[])
}

/// Runs a test with receivers that read in place, and with such that copy.
fn both(test: impl AsyncFn(&Fixture)) {
    let transport = || MemoryTransport::new().with_lending(ARENA);
    for transport in [transport(), transport().with_copied_loans()] {
        let fixture = Fixture::over(transport);
        block_on(Flavor::MultiThread, test(&fixture));
    }
}

async fn serve(fixture: &Fixture) -> (WitServer, Painter) {
    let painter = Painter::default();
    let server = fixture.bare_server_builder();
    let server = server.with_service(CalcServer::new(fixture.calculator.clone()));
    let server = server.with_service(StudioServer::new(painter.clone())).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    (server, painter)
}

impl Raw {
    async fn lender(fixture: &Fixture) -> Self {
        Self::client(fixture).await.opened(&[LOANS]).await
    }

    /// The next frame that is no credit.
    async fn next(&mut self) -> Frame {
        loop {
            let frame = self.recv().await.expect("the connection goes on");
            if frame.kind != CREDIT {
                return frame;
            }
        }
    }

    /// The next response and the loans that were returned, whichever comes first.
    async fn answer(&mut self, loans: usize) -> (Frame, Vec<u64>) {
        let (mut response, mut returned) = (None, Vec::new());
        while response.is_none() || returned.len() < loans {
            let frame = self.next().await;
            match frame.kind {
                LOAN_RETURN => returned.push(frame.id),
                RESPONSE => response = Some(frame),
                kind => panic!("{kind:#x}"),
            }
        }
        returned.sort_unstable();
        (response.unwrap(), returned)
    }
}

#[test]
fn a_lender_can_be_played_by_hand() {
    both(async |fixture| {
        let (server, painter) = serve(fixture).await;
        let mut raw = Raw::lender(fixture).await;
        let arena = raw.channel.sender.arena().unwrap();
        let mut piece = arena.allocate(1000).unwrap();
        piece.bytes_mut().fill(2);
        let bytes = piece.freeze();
        let offset = arena.locate(&bytes).unwrap();
        // Two that overlap, and a blob that is empty.
        let entries = [
            Entry { blob: 0, loan: 7, offset, len: 1000, ..ENTRY },
            Entry { blob: 2, loan: 9, offset: offset + 500, len: 100, ..ENTRY },
        ];
        raw.send(&look(1, &[0, 0, 0], &entries)).await;
        let (response, returned_loans) = raw.answer(2).await;
        let (status, body) = response.message();
        let seen: Vec<(u64, u64)> = serde_json::from_slice(body).unwrap();
        assert_eq!(status, 0);
        assert_eq!(seen.iter().map(|seen| seen.1).collect::<Vec<_>>(), [2000, 0, 200]);
        assert_eq!(returned_loans, [7, 9]);
        // What the server lends has to be returned, and only once.
        let head = Head { selector: STUDIO, member: RENDER, ..Head::of(b"[100,3]") };
        raw.send(&frame(REQUEST, WHOLE, 2, &head.with(b"[100,3]"))).await;
        let (response, _) = raw.answer(0).await;
        let entry = Entry::decode(&response.payload[response.payload.len() - 36..]);
        assert_eq!((entry.blob, entry.whose, entry.len), (0, 0, 100));
        let mut there = Vec::new();
        let peers = raw.channel.receiver.arena().unwrap();
        peers.copy(entry.offset, 100, &mut there);
        assert_eq!(there, [3; 100]);
        assert!(server.load()[0].memory.lent >= 100);
        // It may be sent back before.
        let back = Entry { whose: 1, offset: entry.offset + 50, len: 10, ..entry };
        raw.send(&look(3, &[0], &[back])).await;
        let (response, _) = raw.answer(0).await;
        let seen: Vec<(u64, u64)> = serde_json::from_slice(response.message().1).unwrap();
        assert_eq!(seen[0].1, 30);
        raw.send(&returned(entry.loan)).await;
        eventually("it is back", || server.load()[0].memory.lent == 0).await;
        // Of a call that is aborted, what its first section has lent is returned.
        let entry = Entry { loan: 11, offset, len: 1000, ..ENTRY };
        let begun = payload(LOOK, &[0, 5], &entry.encode(), 0);
        raw.send(&frame(REQUEST, FIRST, 4, &begun)).await;
        raw.send(&frame(ABORT_REQUEST, WHOLE, 4, &[])).await;
        assert_eq!(raw.answer(1).await.1, [11]);
        // A handler that keeps it keeps the loan, if it reads in place.
        let kept = payload(KEEP, &[0], &Entry { loan: 12, ..entry }.encode(), 0);
        raw.send(&frame(REQUEST, WHOLE, 5, &kept)).await;
        raw.answer(0).await;
        assert_eq!(painter.kept(), 1);
        drop(raw);
        eventually("it has gone", || server.load().is_empty()).await;
        assert_eq!(painter.let_go(), [vec![2; 1000]], "it was not written to");
    });
}

#[test]
fn a_loan_that_breaks_a_rule_ends_its_own_connection_only() {
    let whole = Entry { len: ARENA, ..ENTRY };
    let entry = |entry: Entry| vec![look(1, &[0], &[entry])];
    let raw_entry = |bytes: &[u8]| vec![frame(REQUEST, WHOLE, 1, &payload(LOOK, &[0], bytes, 0))];
    // The first is kept, so it is not returned.
    let kept = |then: Entry| {
        let kept = payload(KEEP, &[0], &whole.encode(), 0);
        vec![frame(REQUEST, WHOLE, 1, &kept), look(2, &[0], &[then])]
    };
    let offences: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("outside of the arena", entry(Entry { offset: ARENA - 3, ..ENTRY })),
        ("outside of the arena", entry(Entry { len: ARENA + 1, ..ENTRY })),
        ("outside of the arena", entry(Entry { offset: u64::MAX, ..ENTRY })),
        ("outside of the arena", entry(Entry { len: u64::MAX, offset: 1, ..ENTRY })),
        ("refers to a loan that it does not have", entry(Entry { whose: 1, ..ENTRY })),
        ("malformed loan", entry(Entry { whose: 2, ..ENTRY })),
        ("malformed loan", entry(Entry { len: 0, ..ENTRY })),
        ("malformed loan", entry(Entry { blob: 1, ..ENTRY })),
        ("malformed loan", entry(Entry { blob: u32::MAX, ..ENTRY })),
        ("malformed loan", vec![look(1, &[0, 0], &[Entry { blob: 1, ..ENTRY }, ENTRY])]),
        ("malformed loan", vec![look(1, &[0], &[ENTRY, Entry { loan: 1, ..ENTRY }])]),
        ("malformed message extension", raw_entry(&ENTRY.encode()[..35])),
        ("malformed loan", raw_entry(&[&[1, 0, 0, 0][..]].concat())),
        ("returns a loan that it does not have", vec![returned(0)]),
        ("more is lent", vec![look(1, &[0, 0], &[whole, Entry { blob: 1, loan: 1, ..ENTRY }])]),
    ];
    let in_place: Vec<(&str, Vec<Vec<u8>>)> =
        vec![("lent again", kept(ENTRY)), ("more is lent", kept(Entry { loan: 1, ..ENTRY }))];
    let transport = || MemoryTransport::new().with_lending(ARENA);
    let both: Vec<_> = offences.iter().chain(&in_place).collect();
    let modes = [(transport(), both), (transport().with_copied_loans(), offences.iter().collect())];
    for (transport, offences) in modes {
        let fixture = Fixture::over(transport);
        block_on(Flavor::MultiThread, async {
            let (server, painter) = serve(&fixture).await;
            let client = fixture.client().await;
            for (rule, records) in offences {
                let mut raw = Raw::lender(&fixture).await;
                for record in records {
                    raw.push(record).await;
                }
                raw.publish();
                let farewell = raw.farewell().await.expect(rule);
                assert!(farewell.contains(rule), "{rule}: {farewell}");
                assert_eq!(client.get_service::<CalcClient>().add(2, 2).await.unwrap(), 4);
                painter.let_go();
                eventually(rule, || server.load() == [Load::default()]).await;
            }
        });
    }
    // A blob that is not empty needs its bytes to be complete.
    both_refuse(&[
        frame(REQUEST, FIRST, 1, &payload(LOOK, &[3], &ENTRY.encode(), 0)),
        frame(REQUEST, super::LAST, 1, b"abc"),
    ]);
}

fn both_refuse(records: &[Vec<u8>]) {
    both(async |fixture| {
        let (_server, _painter) = serve(fixture).await;
        let mut raw = Raw::lender(fixture).await;
        for record in records {
            raw.send(record).await;
        }
        assert!(raw.farewell().await.unwrap().contains("malformed loan"));
    });
}

#[test]
fn a_connection_without_an_arena_takes_no_loan() {
    let refuses = async |fixture: &Fixture, features: &[&str]| {
        let (_server, _painter) = serve(fixture).await;
        let mut raw = Raw::client(fixture).await.opened(features).await;
        raw.send(&look(1, &[0], &[ENTRY])).await;
        let farewell = raw.farewell().await.unwrap();
        assert!(farewell.contains("no arena"), "{farewell}");
    };
    block_on(Flavor::MultiThread, async {
        refuses(&Fixture::memory(), &[LOANS]).await;
        let lending = || Fixture::over(MemoryTransport::new().with_lending(ARENA));
        refuses(&lending(), &[]).await;
        // To a client that does not know loans, nothing is lent.
        let fixture = Arc::new(lending());
        let (_server, _painter) = serve(&fixture).await;
        let mut raw = Raw::client(&fixture).await.opened(&[]).await;
        let head = Head { selector: STUDIO, member: RENDER, ..Head::of(b"[3,7]") };
        raw.send(&frame(REQUEST, WHOLE, 1, &head.with(b"[3,7]"))).await;
        let first = raw.next().await;
        assert_eq!(first.payload[6..8], [0, 0], "an extension");
        assert_eq!(raw.next().await.payload, [7; 3]);
    });
}
