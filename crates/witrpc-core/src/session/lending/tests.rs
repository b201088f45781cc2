use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{Borrowed, Lender, Out, prepare};
use crate::error::Error;
use crate::transport::{Arena, PeerArena, Piece};
use crate::values::content::Content;
use crate::values::loans::{LEAST_SHARE, Lent, LentSource, Share};
use crate::wire::fields::u64_len;
use crate::wire::message::LoanEntry;

/// An arena that is one allocation, of which nothing is handed out: its users slice it.
#[derive(Debug)]
struct Plain(Bytes);

impl Plain {
    fn new(len: u64) -> Arc<Self> {
        Arc::new(Self(Bytes::from(vec![7; u64_len(len)])))
    }

    fn at(&self, bytes: &[u8]) -> Option<u64> {
        let from = (bytes.as_ptr() as usize).checked_sub(self.0.as_ptr() as usize)?;
        (!bytes.is_empty() && from + bytes.len() <= self.0.len()).then_some(from as u64)
    }
}

impl Arena for Plain {
    fn capacity(&self) -> u64 {
        self.0.len() as u64
    }

    fn used(&self) -> u64 {
        0
    }

    fn allocate(&self, _len: usize) -> Option<Box<dyn Piece>> {
        None
    }

    fn locate(&self, bytes: &[u8]) -> Option<u64> {
        self.at(bytes)
    }

    fn on_free(&self, _freed: Box<dyn Fn() + Send + Sync>) {}
}

impl PeerArena for Plain {
    fn capacity(&self) -> u64 {
        self.0.len() as u64
    }

    fn copy(&self, offset: u64, len: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0[u64_len(offset)..][..len]);
    }

    fn in_place(
        self: Arc<Self>,
        _offset: u64,
        _len: usize,
        _guard: Arc<dyn Any + Send + Sync>,
    ) -> Option<Bytes> {
        None
    }

    fn is_trusted(&self) -> bool {
        false
    }

    fn locate(&self, bytes: &[u8]) -> Option<u64> {
        self.at(bytes)
    }
}

const CAPACITY: u64 = 4 * LEAST_SHARE;

fn content(blobs: Vec<Bytes>) -> Content {
    let mut content = Content::plain(Vec::new(), b"[0,1,2]");
    content.set_blobs(1, blobs);
    content
}

fn prepared(lender: &Lender, blobs: Vec<Bytes>) -> (Content, Vec<u8>, Vec<Bytes>, Vec<Lent>) {
    let mut content = content(blobs);
    prepare(&mut content, Some(lender), |_, _| None);
    let copy = content.copy();
    let (first, blobs, lent) = content.into_parts(0, 0, 0);
    (copy, first, blobs, lent)
}

#[test]
fn blobs_in_the_arena_cross_as_references_and_all_others_as_bytes() {
    let arena = Plain::new(CAPACITY);
    let lender = Lender::new(Arc::clone(&arena) as _);
    let (inside, outside) = (arena.0.slice(64..164), Bytes::from_static(b"elsewhere"));
    let blobs = vec![outside.clone(), inside, Bytes::new()];
    let mut whole = content(blobs.clone());
    let size = whole.size();
    prepare(&mut whole, Some(&lender), |_, _| None);
    assert_eq!(whole.size(), size - 100 + 36, "an entry in place of the bytes");
    assert_eq!(lender.budget.used(), LEAST_SHARE);
    let copy = whole.copy();
    assert_eq!(copy.size(), size, "a copy lends nothing");
    let sent = whole.copy_to_send();
    assert_eq!((sent.size(), whole.size()), (size - 64, size), "it has the loans");
    let (_, blobs, lent) = sent.into_parts(0, 0, 0);
    assert_eq!(blobs, [outside, Bytes::new(), Bytes::new()]);
    let entry = LoanEntry { blob: 1, of_receiver: false, loan: 0, offset: 64, len: 100 };
    assert_eq!(lent.iter().map(|lent| lent.entry).collect::<Vec<_>>(), [entry]);
    drop(lent);
    assert_eq!(lender.budget.used(), 0, "it was not sent");
}

#[test]
fn what_is_beyond_the_budget_is_copied() {
    let arena = Plain::new(CAPACITY);
    let lender = Lender::new(Arc::clone(&arena) as _);
    let blob = arena.0.slice(..u64_len(3 * LEAST_SHARE));
    let (_, _, blobs, lent) = prepared(&lender, vec![blob.clone(), blob.clone()]);
    assert_eq!(lent.len(), 1, "the two are more than the arena has");
    assert!(blobs[0].is_empty() && blobs[1] == blob);
}

fn ours(lender: &Lender, bytes: &Bytes) -> Lent {
    prepared(lender, vec![bytes.clone()]).3.pop().unwrap()
}

#[test]
fn a_loan_is_out_until_it_is_returned_and_only_once() {
    let arena = Plain::new(CAPACITY);
    let (lender, mut out) = (Lender::new(Arc::clone(&arena) as _), Out::default());
    let bytes = arena.0.slice(100..200);
    let mut lent = vec![ours(&lender, &bytes), ours(&lender, &bytes)];
    out.add(&mut lent);
    assert!(lent.is_empty() && out.0.len() == 2 && lender.budget.used() == 2 * LEAST_SHARE);
    let at = |loan, offset, len| LoanEntry { blob: 0, of_receiver: true, loan, offset, len };
    assert_eq!(out.bytes(&at(1, 100, 100)).unwrap(), bytes);
    assert_eq!(out.bytes(&at(1, 150, 50)).unwrap(), bytes.slice(50..));
    for (offset, len) in [(99, 2), (150, 51), (200, 1), (u64::MAX, 2), (150, u64::MAX)] {
        assert!(matches!(out.bytes(&at(1, offset, len)), Err(Error::Protocol(_))), "{offset}");
    }
    out.give_back(1).unwrap();
    assert!(out.give_back(1).is_err() && out.give_back(2).is_err());
    assert!(out.bytes(&at(1, 100, 1)).is_err());
    assert_eq!(lender.budget.used(), LEAST_SHARE);
    drop(out);
    assert_eq!(lender.budget.used(), 0);
}

struct Guard(#[expect(dead_code, reason = "only its drop counts")] Share);

#[test]
fn a_borrower_refuses_what_cannot_be() {
    let mut borrowed = Borrowed::new(Plain::new(CAPACITY));
    let budget = Arc::clone(borrowed.budget());
    let mut take = |loan, offset, len| {
        let entry = LoanEntry { blob: 0, of_receiver: false, loan, offset, len };
        borrowed.take(&entry, |share| Arc::new(Guard(share)))
    };
    for (offset, len) in [(CAPACITY, 1), (0, CAPACITY + 1), (u64::MAX, 2), (1, u64::MAX)] {
        assert!(take(0, offset, len).is_err(), "{offset} {len}");
    }
    assert_eq!(budget.used(), 0);
    let whole = take(0, 0, CAPACITY).unwrap();
    assert!(take(0, 0, 1).is_err(), "the same again");
    assert!(take(1, 0, 1).is_err(), "more than the arena has");
    drop(whole);
    borrowed.forget(0);
    let overlapping: Vec<_> = (0..4)
        .map(|loan| {
            let entry = LoanEntry { blob: 0, of_receiver: false, loan, offset: 8, len: 9 };
            borrowed.take(&entry, |share| Arc::new(Guard(share))).unwrap()
        })
        .collect();
    assert_eq!(budget.used(), CAPACITY);
    drop(overlapping);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_blob_that_goes_back_refers_to_a_loan_that_is_held_meanwhile() {
    let (arena, next) = (Plain::new(CAPACITY), AtomicU64::new(0));
    let mut borrowed = Borrowed::new(Arc::clone(&arena) as _);
    let mut take = |offset, len| {
        let loan = next.fetch_add(1, Ordering::Relaxed);
        let entry = LoanEntry { blob: 0, of_receiver: false, loan, offset, len };
        borrowed.take(&entry, |share| Arc::new(Guard(share))).unwrap()
    };
    let (short, long) = (take(1000, 10), take(900, 500));
    let found = borrowed.find(3, &arena.0.slice(1005..1050)).unwrap();
    let expected = LoanEntry { blob: 3, of_receiver: true, loan: 1, offset: 1005, len: 45 };
    assert_eq!(found.entry, expected, "the one that covers it");
    drop((short, long));
    assert_eq!(borrowed.budget().used(), LEAST_SHARE, "the message keeps it");
    assert!(matches!(found.source, LentSource::Peers(_)));
    drop(found);
    assert!(borrowed.find(3, &arena.0.slice(1005..1050)).is_none(), "it is going");
    assert!(borrowed.find(3, &Bytes::from_static(b"elsewhere")).is_none());
}
