//! The target that `fuzz/` runs, and `cargo test` replays over the corpus there: both rings of a region, mapped twice as two processes would,
//! and an attacker that overwrites them. In no other build.
//!
//! Properties: without the attacker, each ring is a queue, and no sleeper is forgotten. With the attacker, the only consequence is an error.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::event::NamedEvent;
use crate::layout::{Direction, RECORD_HEADER, SMALLEST_REGION, record_size};
use crate::region::{Mapped, Region, Side};
use crate::ring::{Consumer, Corrupt, Producer};
use crate::sys::Access;

/// A ring of the smallest region.
const CAPACITY: usize = 4096;
const CPU: u32 = 1;

/// Pushes, pops, sleeps and scribbles as these bytes say.
///
/// # Panics
///
/// If a ring does what it must not, or the system gives no memory.
pub fn ring(data: &[u8]) {
    let mut input = Input(data);
    let (mut lanes, file) = lanes();
    while !input.0.is_empty() {
        let which = usize::from(input.byte() % 2);
        let lane = &mut lanes[which];
        let outcome = match input.byte() {
            0x00..=0x4F => lane.push(&mut input),
            0x50..=0x6F => lane.publish(),
            0x70..=0x9F => lane.pop(&mut input),
            0xA0..=0xAF => lane.release(),
            0xB0..=0xBF => lane.wait_for_data(),
            0xC0..=0xCF => lane.wait_for_room(&mut input),
            0xD0..=0xD7 => {
                lane.consumer.disarm();
                lane.data_awaited = false;
                Ok(())
            }
            _ => {
                scribble(&file, lane, &mut input);
                lanes.iter_mut().for_each(|lane| lane.sound = false);
                Ok(())
            }
        };
        if let Err(Corrupt(rule)) = outcome {
            assert!(!lanes[which].sound, "{rule}");
            return;
        }
    }
    for lane in &mut lanes {
        let drained = lane.drain();
        assert!(!lane.sound || drained.is_ok(), "{drained:?}");
    }
}

/// One direction, and a model of it.
struct Lane {
    direction: Direction,
    producer: Producer<Mapped>,
    consumer: Consumer<Mapped>,
    pushed: VecDeque<Vec<u8>>,
    /// Of these, how many are visible.
    published: usize,
    /// Bytes that the records in the ring take up, consumed and not released ones included.
    used: usize,
    consumed: usize,
    next: u8,
    /// Nobody has written over the region.
    sound: bool,
    data_awaited: bool,
    room_awaited: bool,
}

impl Lane {
    fn new(direction: Direction, producer: Producer<Mapped>, consumer: Consumer<Mapped>) -> Self {
        Self {
            direction,
            producer,
            consumer,
            pushed: VecDeque::new(),
            published: 0,
            used: 0,
            consumed: 0,
            next: 0,
            sound: true,
            data_awaited: false,
            room_awaited: false,
        }
    }

    fn push(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        let (len, spare) = (input.len(1100), [0, 8, 2048, usize::MAX][input.below(4)]);
        let record: Vec<u8> =
            (0..=u8::MAX).cycle().skip(usize::from(self.next)).take(len).collect();
        let (head, body) = record.split_at(input.below(64).min(len));
        let fits = record_size(len).saturating_add(spare) <= CAPACITY.saturating_sub(self.used)
            && len <= self.producer.max_record();
        let has_room = self.producer.has_room(len, spare)?;
        let pushed = self.producer.try_push(head, body, spare)?;
        if self.sound {
            assert_eq!((has_room, pushed), (fits, fits), "{len} bytes with {spare}");
        }
        if pushed {
            self.next = self.next.wrapping_add(1);
            self.used += record_size(len);
            self.pushed.push_back(record);
        }
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "one of several that can fail")]
    fn publish(&mut self) -> Result<(), Corrupt> {
        let news = self.published < self.pushed.len();
        let notified = self.producer.publish(CPU);
        self.published = self.pushed.len();
        if self.sound {
            assert_eq!(
                notified,
                news && self.data_awaited,
                "a notification for a sleeper, and only for a sleeper"
            );
        }
        self.data_awaited &= !news;
        Ok(())
    }

    fn pop(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        let mut head = vec![0; input.below(40)];
        let Some(len) = self.consumer.peek(&mut head)? else {
            assert!(!self.sound || self.published == 0, "a record is not seen");
            return Ok(());
        };
        let shown = len.min(head.len());
        let cut = shown + input.below(256).min(len - shown);
        let mut record = head[..shown].to_vec();
        self.consumer.append_to(shown, cut - shown, &mut record);
        self.consumer.append_to(cut, len - cut, &mut record);
        assert_eq!(record.len(), len);
        self.consumer.consume();
        if self.sound {
            assert_eq!(self.pushed.pop_front(), Some(record));
            self.published -= 1;
            self.consumed += record_size(len);
        }
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "one of several that can fail")]
    fn release(&mut self) -> Result<(), Corrupt> {
        let notified = self.consumer.release();
        if self.sound {
            assert!(!notified || self.room_awaited, "a notification without a sleeper");
            self.used -= std::mem::take(&mut self.consumed);
        }
        self.room_awaited &= !notified;
        Ok(())
    }

    fn wait_for_data(&mut self) -> Result<(), Corrupt> {
        let there = self.consumer.arm()?;
        assert!(!self.sound || there == (self.published > 0));
        self.data_awaited |= !there;
        Ok(())
    }

    fn wait_for_room(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        self.publish()?;
        let (len, spare) =
            (input.len(self.producer.max_record() + 1), [0, 8, 2048][input.below(3)]);
        let there = self.producer.arm(len, spare)?;
        let fits = record_size(len) + spare <= CAPACITY.saturating_sub(self.used);
        assert!(!self.sound || there == fits, "{len} bytes with {spare}");
        self.room_awaited |= !there;
        Ok(())
    }

    /// Takes everything out; whoever waits for room must have been notified by then.
    fn drain(&mut self) -> Result<(), Corrupt> {
        self.publish()?;
        // As many records as a ring can hold.
        for _ in 0..=CAPACITY / RECORD_HEADER {
            if !self.consumer.is_ready()? {
                break;
            }
            self.pop(&mut Input(&[]))?;
        }
        self.release()?;
        assert!(!self.sound || !self.room_awaited && self.pushed.is_empty(), "it sleeps for ever");
        Ok(())
    }

    /// Where this direction's ring, and its words, lie in the region.
    fn place(&self, input: &mut Input<'_>) -> u64 {
        let [tail, head] = [self.direction.tail_line(), self.direction.head_line()]
            .map(|line| u64::try_from(line).unwrap_or(0));
        let ring = match self.direction {
            Direction::ToServer => SMALLEST_REGION - 8192,
            Direction::ToClient => SMALLEST_REGION - 4096,
        };
        match input.below(8) {
            0 => tail,
            1 => tail + 8,
            2 => tail + 12,
            3 => head,
            4 => head + 8,
            5 => ring + 8 * u64::from(input.byte()),
            _ => u64::from(input.u16()) % (SMALLEST_REGION - 8),
        }
    }
}

/// Writes over the region: any bytes, or a number near one that means something.
fn scribble(file: &File, lane: &Lane, input: &mut Input<'_>) {
    let place = lane.place(input);
    let bytes = match input.below(4) {
        0 => (u64::from(input.byte()) * 8).to_le_bytes(),
        1 => {
            let mut there = [0; 8];
            at(file, place).read_exact(&mut there).expect("within the region");
            let by = u64::from(input.u16());
            u64::from_le_bytes(there).wrapping_add(by).wrapping_sub(1 << 15).to_le_bytes()
        }
        2 => [u64::MAX, 1 << 63, 1 << 32, 4096, 1016, 1017, 0, u64::MAX - 7][input.below(8)]
            .to_le_bytes(),
        _ => input.array(),
    };
    let len = if input.byte() < 0x40 { 1 + input.below(8) } else { 8 };
    at(file, place).write_all(&bytes[..len]).expect("within the region");
}

/// The file, read and written from here on.
fn at(mut file: &File, place: u64) -> &File {
    file.seek(SeekFrom::Start(place)).expect("within the region");
    file
}

/// The two directions of a region whose file has no name any more.
fn lanes() -> ([Lane; 2], File) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("witrpc-fuzz-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let instance = [7; 16];
    let server =
        Region::create(&path, SMALLEST_REGION, &instance, NamedEvent::default(), Access::User)
            .expect("a region");
    let client = Region::attach(&path, &instance, Access::User).expect("the same region");
    let file = crate::sys::region_file::open_existing(&path, Access::User).expect("its file");
    crate::endpoint::remove(&path); // Where it does not go by itself.
    let (to_server, from_server) = client.split(Side::Client);
    let (to_client, from_client) = server.split(Side::Server);
    let lanes = [
        Lane::new(Direction::ToServer, to_server, from_client),
        Lane::new(Direction::ToClient, to_client, from_server),
    ];
    (lanes, file)
}

/// A fuzzer's bytes, read as decisions; past their end there are zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn len(&mut self, bound: usize) -> usize {
        usize::from(self.u16()) % bound
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_corpus_breaks_nothing() {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/ring");
        let mut inputs = 0;
        for entry in std::fs::read_dir(place).expect("the corpus of the workspace") {
            super::ring(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "the corpus is empty");
    }
}
