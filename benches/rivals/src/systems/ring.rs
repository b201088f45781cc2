//! Floors: two byte rings in a mapped file, without frames, ids or a runtime; polled by both sides, or with a futex that
//! both sleep on.
//!
//! A message is its length in eight bytes, and the bytes. Long ones are published in parts, so that one side copies in
//! while the other copies out, and are there as a whole before they are answered. Each side copies between the ring and
//! memory of its own, as an RPC does.

use std::fs::OpenOptions;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use anyhow::{Context, Result};
use memmap2::MmapRaw;
use rustix::thread::futex;

use crate::client::{InOrder, Pipe};
use crate::system::{Endpoint, Ready, System};

/// How the ends wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RingSystem {
    Spin,
    Futex,
}

/// Of one direction. A larger one is no faster: what is written next has left the cache by then.
const CAPACITY: usize = 512 << 10;
/// Long messages are published, and their room given back, in parts of this size: with larger ones the other side waits
/// longer for the first, and with smaller ones the cursors cost more.
const PART: usize = 16 << 10;
/// Cursors and futex words of both directions.
const HEADER: usize = 4096;

impl System for RingSystem {
    type Client = InOrder<Ends>;

    async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(at.path("ring"))?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, TOTAL as u64)?;
        let mut ends = Ends::new(MmapRaw::map_raw(&file)?, *self, [1, 0]);
        ready.tell("");
        let mut payload = Vec::new();
        loop {
            ends.read(&mut payload);
            match <[u8; 8]>::try_from(&*payload) {
                Ok(numbers) => ends.write(&sum(numbers).to_ne_bytes()),
                Err(_) => ends.write(&payload),
            }
        }
    }

    async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
        let file = OpenOptions::new().read(true).write(true).open(at.path("ring"))?;
        Ok(InOrder(Ends::new(MmapRaw::map_raw(&file).context("mapping")?, *self, [0, 1])))
    }
}

const TOTAL: usize = HEADER + 2 * CAPACITY;

fn sum(numbers: [u8; 8]) -> i32 {
    let both = u64::from_ne_bytes(numbers);
    ((both >> 32) as i32).wrapping_add(both as i32)
}

/// What a client or a server has: one direction to write, the other to read.
pub(crate) struct Ends {
    out: Writer,
    incoming: Reader,
    spare: Vec<u8>,
}

impl Ends {
    fn new(map: MmapRaw, waiting: RingSystem, directions: [usize; 2]) -> Self {
        let map = Arc::new(map);
        let [out, incoming] = directions.map(|direction| Direction::new(&map, direction, waiting));
        Self {
            out: Writer { ring: out, head: 0, tail: 0 },
            incoming: Reader { ring: incoming, tail: 0, head: 0 },
            spare: Vec::new(),
        }
    }

    fn write(&mut self, payload: &[u8]) {
        self.out.write(&(payload.len() as u64).to_ne_bytes());
        for part in payload.chunks(PART) {
            self.out.write(part);
            if part.len() == PART {
                self.out.publish();
            }
        }
        self.out.publish();
    }

    fn read(&mut self, payload: &mut Vec<u8>) {
        let mut length = [0; 8];
        self.incoming.read(&mut length);
        payload.resize(usize::try_from(u64::from_ne_bytes(length)).expect("64 bits"), 0);
        for part in payload.chunks_mut(PART) {
            self.incoming.read(part);
            self.incoming.release();
        }
    }
}

impl Pipe for Ends {
    async fn ask(&mut self, a: i32, b: i32) -> Result<()> {
        let both = u64::from(a as u32) << 32 | u64::from(b as u32);
        self.write(&both.to_ne_bytes());
        Ok(())
    }

    async fn answer(&mut self) -> Result<i32> {
        let mut answer = [0; 12];
        self.incoming.read(&mut answer);
        self.incoming.release();
        let [.., a, b, c, d] = answer;
        Ok(i32::from_ne_bytes([a, b, c, d]))
    }

    async fn echo(&mut self, payload: Vec<u8>) -> Result<Vec<u8>> {
        self.write(&payload);
        let mut answer = std::mem::replace(&mut self.spare, payload);
        self.read(&mut answer);
        Ok(answer)
    }
}

/// Places of words within a direction's part of the header; a pair of cache lines each, as CPUs fetch pairs.
const HEAD: usize = 0;
const TAIL: usize = 128;
/// Set by a reader, or a writer, that sleeps.
const READER_SLEEPS: usize = 256;
const WRITER_SLEEPS: usize = 384;
const WORDS: usize = 1024;

/// One ring, in a mapping that lives as long.
struct Direction {
    map: Arc<MmapRaw>,
    words: usize,
    bytes: usize,
    waiting: RingSystem,
}

impl Direction {
    fn new(map: &Arc<MmapRaw>, direction: usize, waiting: RingSystem) -> Self {
        let bytes = HEADER + direction * CAPACITY;
        Self { map: map.clone(), words: direction * WORDS, bytes, waiting }
    }

    fn cursor(&self, place: usize) -> &AtomicU64 {
        // SAFETY: the word lies within the header, is aligned, and is used as an atomic only, by both processes.
        unsafe {
            AtomicU64::from_ptr(self.map.as_mut_ptr().wrapping_add(self.words + place).cast())
        }
    }

    fn sleeps(&self, place: usize) -> &AtomicU32 {
        // SAFETY: as for the cursors.
        unsafe {
            AtomicU32::from_ptr(self.map.as_mut_ptr().wrapping_add(self.words + place).cast())
        }
    }

    /// The two parts of the ring that these bytes lie in.
    fn parts(&self, at: u64, len: usize) -> (*mut u8, usize, *mut u8) {
        let at = at as usize % CAPACITY;
        let start = self.map.as_mut_ptr().wrapping_add(self.bytes);
        let first = start.wrapping_add(at);
        (first, len.min(CAPACITY - at), start)
    }

    /// Waits until the cursor at `place` is such that `enough` is.
    fn wait(&self, place: usize, sleeps: usize, enough: impl Fn(u64) -> bool) -> u64 {
        loop {
            let value = self.cursor(place).load(Ordering::Acquire);
            if enough(value) {
                return value;
            }
            match self.waiting {
                RingSystem::Spin => std::hint::spin_loop(),
                RingSystem::Futex => self.sleep(place, sleeps, value),
            }
        }
    }

    fn sleep(&self, place: usize, sleeps: usize, seen: u64) {
        let word = self.sleeps(sleeps);
        word.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.cursor(place).load(Ordering::Relaxed) == seen {
            // It fails if the other side was faster, and may wake for no reason: the caller looks again.
            futex::wait(word, futex::Flags::empty(), 1, None).ok();
        }
        word.store(0, Ordering::Relaxed);
    }

    fn wake(&self, sleeps: usize) {
        if self.waiting == RingSystem::Futex {
            fence(Ordering::SeqCst);
            let word = self.sleeps(sleeps);
            if word.load(Ordering::Relaxed) == 1 {
                word.store(0, Ordering::Relaxed);
                futex::wake(word, futex::Flags::empty(), 1).expect("a word that is mapped");
            }
        }
    }
}

struct Writer {
    ring: Direction,
    head: u64,
    /// As last seen.
    tail: u64,
}

impl Writer {
    /// Copies in, after waiting for room. `bytes` is at most a part.
    fn write(&mut self, bytes: &[u8]) {
        let needed = (self.head + bytes.len() as u64).saturating_sub(CAPACITY as u64);
        if self.tail < needed {
            // What has been copied must be seen, or nobody would make room.
            self.publish();
            self.tail = self.ring.wait(TAIL, WRITER_SLEEPS, |tail| tail >= needed);
        }
        let (first, len, rest) = self.ring.parts(self.head, bytes.len());
        // SAFETY: the range is free, so the reader leaves it alone; it does not overlap memory of this process.
        unsafe { first.copy_from_nonoverlapping(bytes.as_ptr(), len) };
        let bytes = &bytes[len..];
        // SAFETY: as above.
        unsafe { rest.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.head += (len + bytes.len()) as u64;
    }

    fn publish(&mut self) {
        self.ring.cursor(HEAD).store(self.head, Ordering::Release);
        self.ring.wake(READER_SLEEPS);
    }
}

struct Reader {
    ring: Direction,
    tail: u64,
    /// As last seen.
    head: u64,
}

impl Reader {
    /// Copies out, after waiting for the bytes.
    fn read(&mut self, bytes: &mut [u8]) {
        let needed = self.tail + bytes.len() as u64;
        if self.head < needed {
            self.head = self.ring.wait(HEAD, READER_SLEEPS, |head| head >= needed);
        }
        let (first, len, rest) = self.ring.parts(self.tail, bytes.len());
        let (start, end) = bytes.split_at_mut(len);
        // SAFETY: the range has been published, so the writer leaves it alone; it does not overlap memory of this process.
        unsafe { start.as_mut_ptr().copy_from_nonoverlapping(first, len) };
        // SAFETY: as above.
        unsafe { end.as_mut_ptr().copy_from_nonoverlapping(rest, end.len()) };
        self.tail = needed;
    }

    fn release(&mut self) {
        self.ring.cursor(TAIL).store(self.tail, Ordering::Release);
        self.ring.wake(WRITER_SLEEPS);
    }
}
