use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::sys::memory_file;

const SIZE: u64 = 64 << 10;

/// A file for an arena.
fn file(size: u64) -> File {
    let file = memory_file::make("arena").unwrap();
    file.set_len(size).unwrap();
    file
}

/// Of one side, and of the other.
fn arenas(size: u64, trusted: Option<TrustedPeer>) -> (Arc<dyn Arena>, Arc<dyn PeerArena>) {
    let file = file(size);
    let own = Lendable::map(&file, size, |_| Ok(true)).unwrap().arena(None).unwrap();
    (own, Readable::map(&file, size).unwrap().arena(trusted))
}

fn own(size: u64) -> Arc<dyn Arena> {
    arenas(size, None).0
}

/// A piece with these contents.
fn piece(arena: &Arc<dyn Arena>, contents: &[u8]) -> Box<dyn Piece> {
    let mut piece = arena.allocate(contents.len()).unwrap();
    piece.bytes_mut().copy_from_slice(contents);
    piece
}

#[test]
fn a_piece_is_aligned_and_comes_back_when_its_last_clone_is_gone() {
    let arena = own(SIZE);
    let freed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&freed);
    arena.on_free(Box::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    arena.on_free(Box::new(|| panic!("only the first counts")));
    assert_eq!((arena.capacity(), arena.used()), (SIZE, 0));
    let first = piece(&arena, b"first");
    let second = piece(&arena, &[7; 65]);
    assert_eq!(arena.used(), 64 + 128);
    for piece in [&first, &second] {
        assert_eq!(piece.bytes().as_ptr().addr() % PIECE_ALIGNMENT, 0);
    }
    drop(first);
    assert_eq!((arena.used(), freed.load(Ordering::SeqCst)), (128, 1));
    let whole = second.freeze();
    let slice = whole.slice(60..);
    let clone = slice.clone();
    drop(whole);
    drop(slice);
    assert_eq!((arena.used(), freed.load(Ordering::SeqCst)), (128, 1));
    assert_eq!(clone, [7; 5][..]);
    assert_eq!(arena.locate(&clone), Some(64 + 60));
    drop(clone);
    assert_eq!((arena.used(), freed.load(Ordering::SeqCst)), (0, 2));
}

#[test]
fn what_is_called_when_a_piece_comes_back_may_use_the_arena() {
    let arena = own(4096);
    let again = Arc::new(Mutex::new(None));
    let (arenas, pieces) = (Arc::downgrade(&arena), Arc::clone(&again));
    arena.on_free(Box::new(move || {
        // Only while the arena is there, and for the first that comes back.
        let Some(arena) = arenas.upgrade() else { return };
        pieces.lock().unwrap().get_or_insert_with(|| arena.allocate(4096).unwrap());
    }));
    drop(arena.allocate(4096).unwrap());
    assert_eq!(arena.used(), 4096);
    let piece = again.lock().unwrap().take();
    drop(piece);
}

#[test]
fn what_one_side_lends_the_other_reads_by_copying() {
    let (own, peers) = arenas(SIZE, None);
    assert!(!peers.is_trusted());
    assert_eq!(peers.capacity(), SIZE);
    let _before = piece(&own, b"x");
    let lent = piece(&own, b"hello").freeze();
    let offset = own.locate(&lent).unwrap();
    assert_eq!(offset, 64);
    let mut out = b"> ".to_vec();
    peers.copy(offset + 1, 4, &mut out);
    peers.copy(offset, 0, &mut out);
    assert_eq!(out, b"> ello");
    assert!(Arc::clone(&peers).in_place(offset, 5, Arc::new(())).is_none());
    assert_eq!((own.locate(&out), peers.locate(&out)), (None, None));
    assert_eq!((own.locate(&lent[..0]), peers.locate(&lent[..0])), (None, None));
    // The two are mapped at different addresses.
    assert_eq!(peers.locate(&lent), None);
}

#[test]
fn a_side_that_trusts_its_peer_reads_in_place() {
    let (own, peers) = arenas(SIZE, trusted());
    assert!(peers.is_trusted());
    let lent = piece(&own, b"hello").freeze();
    let offset = own.locate(&lent).unwrap();
    let guard = Arc::new(());
    let there = Arc::clone(&peers).in_place(offset, 5, Arc::clone(&guard) as _).unwrap();
    assert_eq!(there, b"hello"[..]);
    assert_eq!(peers.locate(&there[2..]), Some(offset + 2));
    let part = there.slice(3..);
    // They outlive whoever made them.
    drop((peers, there));
    assert_eq!((&part[..], Arc::strong_count(&guard)), (&b"lo"[..], 2));
    drop(part);
    assert_eq!(Arc::strong_count(&guard), 1);
}

#[test]
fn memory_that_others_can_write_is_lent_only_by_a_side_that_trusts_them() {
    let file = file(SIZE);
    let open = || Lendable::map(&file, SIZE, |_| Ok(false)).unwrap();
    assert!(open().arena(None).is_none());
    assert!(open().arena(trusted()).is_some());
}

#[test]
fn ranges_that_leave_the_arena_are_refused() {
    let (own, peers) = arenas(SIZE, trusted());
    for (offset, len) in [(0, 65_537), (1, 65_536), (SIZE, 1), (u64::MAX, 1), (1, usize::MAX)] {
        let copy = || peers.copy(offset, len, &mut Vec::new());
        assert!(catch_unwind(AssertUnwindSafe(copy)).is_err(), "{offset} {len}");
        let in_place = || Arc::clone(&peers).in_place(offset, len, Arc::new(()));
        assert!(catch_unwind(AssertUnwindSafe(in_place)).is_err(), "{offset} {len}");
    }
    for len in [65_537, usize::MAX, usize::MAX / 2 + 1] {
        assert!(own.allocate(len).is_none());
    }
    peers.copy(SIZE, 0, &mut Vec::new());
}

#[test]
fn copies_that_bypass_the_caches_are_copies() {
    let (own, peers) = arenas(SIZE, None);
    let contents: Vec<u8> = (0..=250).cycle().take(60_000).collect();
    let lent = piece(&own, &contents).freeze();
    let mut out = Vec::with_capacity(32 << 20);
    peers.copy(own.locate(&lent).unwrap(), contents.len(), &mut out);
    assert!(out == contents);
}

#[test]
fn an_arena_gives_all_that_it_has() {
    // Of each of these sizes as many as there is room for, and the whole.
    for frame in [64, 1920 * 1080 * 4, 1 << 20, 640 * 480 * 3, 4096 * 9 + 64] {
        let size = 3 * frame as u64;
        let arena = own(size.next_multiple_of(4096));
        let frames: Vec<_> = (0..3).map(|_| arena.allocate(frame).unwrap()).collect();
        if arena.capacity() == size {
            assert!(arena.allocate(0).is_none());
        }
        drop(frames);
        let whole = usize::try_from(arena.capacity()).unwrap();
        let all = arena.allocate(whole).unwrap();
        assert_eq!((arena.used(), all.bytes().len()), (arena.capacity(), whole));
        assert!(arena.allocate(0).is_none());
        drop(all);
        assert_eq!(arena.allocate(0).unwrap().bytes(), b"");
    }
}

#[test]
fn a_piece_is_given_if_and_only_if_so_many_bytes_are_free_in_a_row() {
    const UNITS: usize = 256;
    let arena = own(UNITS as u64 * UNIT);
    let mut taken = [false; UNITS];
    let mut pieces: Vec<(Box<dyn Piece>, Range<usize>)> = Vec::new();
    let mut random = Random(20_261_201);
    for _ in 0..20_000 {
        if random.below(2) == 0 && !pieces.is_empty() {
            let (piece, units) = pieces.swap_remove(random.below(pieces.len()));
            drop(piece);
            taken[units].fill(false);
            continue;
        }
        let units = 1 + random.below(40);
        let longest = taken.split(|taken| *taken).map(<[bool]>::len).max().unwrap();
        let piece = arena.allocate(units * PIECE_ALIGNMENT - random.below(PIECE_ALIGNMENT));
        assert_eq!(piece.is_some(), units <= longest);
        if let Some(piece) = piece {
            let at = usize::try_from(arena.locate(piece.bytes()).unwrap()).unwrap();
            let range = at / PIECE_ALIGNMENT..at / PIECE_ALIGNMENT + units;
            assert!(taken[range.clone()].iter().all(|taken| !taken) && at % PIECE_ALIGNMENT == 0);
            taken[range.clone()].fill(true);
            pieces.push((piece, range));
        }
        let used = taken.iter().filter(|taken| **taken).count();
        assert_eq!(arena.used(), (used * PIECE_ALIGNMENT) as u64);
    }
}

/// No two pieces that live at a time share a byte: by where they are, and by what is in them, on both sides.
#[test]
fn pieces_of_two_threads_never_overlap() {
    const ROUNDS: usize = if cfg!(debug_assertions) { 20_000 } else { 200_000 };
    let (own, peers) = arenas(SIZE, None);
    let live = Mutex::new(BTreeMap::<u64, u64>::new());
    let thread = |seed: u64| {
        let (own, peers, live) = (&own, &peers, &live);
        move || {
            let mut random = Random(seed);
            let mut pieces: Vec<(Bytes, u8)> = Vec::new();
            for _ in 0..ROUNDS {
                if random.below(2) == 0 || pieces.len() > 40 {
                    if pieces.is_empty() {
                        continue;
                    }
                    let (bytes, tag) = pieces.swap_remove(random.below(pieces.len()));
                    let offset = own.locate(&bytes).unwrap();
                    let mut copy = Vec::new();
                    peers.copy(offset, bytes.len(), &mut copy);
                    assert!(bytes.iter().chain(&copy).all(|byte| *byte == tag));
                    // First, as another thread may have it at once.
                    live.lock().unwrap().remove(&offset).unwrap();
                    drop(bytes);
                } else if let Some(mut piece) = own.allocate(1 + random.below(3000)) {
                    let tag = u8::try_from(random.below(256)).unwrap();
                    piece.bytes_mut().fill(tag);
                    let bytes = piece.freeze();
                    let offset = own.locate(&bytes).unwrap();
                    let end = offset + bytes.len() as u64;
                    let mut live = live.lock().unwrap();
                    let before = live.range(..end).next_back();
                    assert!(before.is_none_or(|(_, end)| *end <= offset));
                    live.insert(offset, end);
                    pieces.push((bytes, tag));
                }
            }
            for (bytes, _) in pieces {
                live.lock().unwrap().remove(&own.locate(&bytes).unwrap()).unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(thread(1));
        scope.spawn(thread(2));
    });
    assert_eq!(own.used(), 0);
    assert!(own.allocate(usize::try_from(SIZE).unwrap()).is_some());
}

#[test]
fn in_a_forked_child_nothing_is_taken_given_back_or_written() {
    let file = file(SIZE);
    let mut parents = OwnArena::new(Mapping::of_file(&file, SIZE, Rights::Write).unwrap());
    let mut piece = parents.allocate(5).unwrap();
    piece.bytes_mut().copy_from_slice(b"hello");
    drop(piece);
    // As it looks to a child.
    Arc::get_mut(&mut parents.0).unwrap().owner = Owner::of_parent();
    let taken = parents.0.take(5).unwrap();
    let (memory, owner) = (Arc::clone(&parents.0), Owner::of_parent());
    let mut inherited = Box::new(OwnPiece { memory, owner, taken, len: 5, copy: None });
    assert!(parents.allocate(5).is_none());
    assert_eq!(inherited.bytes(), b"hello");
    inherited.bytes_mut()[0] = b'j';
    assert_eq!((inherited.bytes(), parents.locate(inherited.bytes())), (&b"jello"[..], None));
    assert_eq!(inherited.freeze(), b"jello"[..]);
    assert_eq!(parents.used(), 64);
    let mut bytes = Vec::new();
    let parents = Readable::map(&file, SIZE).unwrap().arena(None);
    parents.copy(0, 5, &mut bytes);
    assert_eq!(bytes, b"hello");
}

/// Numbers that look random, and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}
