//! The layout of a region: `docs/segment.md` as constants; rule ids in brackets cite it.
//!
//! Pure arithmetic: nothing here touches memory or the system.
//!
//! # Invariants
//!
//! - **L1** The geometry follows from the size of the file alone. A header that says otherwise is refused, so a peer
//!   can state the geometry but never choose it.
//! - **L2** Little-endian, fixed width, no `usize`.

/// One page: the header and all cursors. The rings start behind it, so their pages hold payload only.
pub(crate) const HEADER_SIZE: u64 = 4096;
/// `[seg.header.magic]`
pub(crate) const MAGIC: [u8; 8] = *b"witrpc\0m";
/// `[seg.header.version]` Raised by every change of this layout or of the rules of the rings.
pub(crate) const LAYOUT_VERSION: u32 = 2;
/// `[seg.header.events]` Both named events are FIFOs.
pub(crate) const EVENTS_FIFO: u32 = 1;
/// `[seg.header.events]` Both named events are raw_sync's.
pub(crate) const EVENTS_RAW_SYNC: u32 = 2;

/// Two cache lines: processors fetch lines in pairs, so neighbours closer than this still disturb each other.
pub(crate) const LINE: usize = 128;
/// Where the control lines start; what lies between them and the header fields is reserved for more fields.
const LINES_START: usize = 1024;

/// Of the tail line: what the producer publishes. `[seg.line.tail]`
pub(crate) const TAIL: usize = 0;
/// Of the tail line: the CPU that the producer last published from, plus one. `[seg.line.cpu]`
pub(crate) const PRODUCER_CPU: usize = 8;
/// Of the tail line, since the producer looks at it after every publish: the record whose publish must notify the consumer.
/// `[seg.line.ring_for]`
pub(crate) const RING_FOR: usize = 16;
/// Of the head line: what the consumer has released. `[seg.line.head]`
pub(crate) const HEAD: usize = 0;
/// Of the head line, since the consumer looks at it after every release: the head that a sleeping producer waits
/// for. `[seg.line.wake_at]`
pub(crate) const WAKE_AT: usize = 8;

/// `[seg.event]` Where the event that the client waits on lies, if events lie in the region; then the server's.
pub(crate) const CLIENT_EVENT: usize = LINES_START + 4 * LINE;
pub(crate) const SERVER_EVENT: usize = CLIENT_EVENT + EVENT_SIZE;
/// More than a mutex and a condition variable take anywhere.
pub(crate) const EVENT_SIZE: usize = 256;

/// `[seg.ring.capacity]` Capacities are multiples of a line, so that neither ring starts inside the other's.
const CAPACITY_UNIT: u64 = 128;
/// A ring below a page could not hold a handshake record in a quarter of it.
const SMALLEST_CAPACITY: u64 = 4096;
/// The smallest region: the header page and two of the smallest rings.
pub(crate) const SMALLEST_REGION: u64 = HEADER_SIZE + 2 * SMALLEST_CAPACITY;
/// 64 GiB: far above any use, and far below the range of the types of offsets and cursors.
pub(crate) const LARGEST_REGION: u64 = 64 << 30;

/// `[seg.ring.record]` Length (`u32`) and a reserved zero (`u32`).
pub(crate) const RECORD_HEADER: usize = 8;
/// `[seg.ring.max_record]` 64 KiB of payload amortise a publish and still stay in the first-level caches' reach,
/// and leave other messages a turn; 256 bytes more for the headers and seals of the layers above.
const LARGEST_RECORD: usize = (64 << 10) + 256;

/// The geometry of a region, which follows from its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes of the whole file, `SMALLEST_REGION ..= LARGEST_REGION`.
    pub(crate) region: u64,
    /// Bytes of each ring; a multiple of [`CAPACITY_UNIT`].
    pub(crate) capacity: u64,
}

impl Geometry {
    /// The geometry of a region of this size; `None` if the size is out of bounds. `[seg.ring.capacity]`
    pub(crate) const fn of(region: u64) -> Option<Self> {
        if region < SMALLEST_REGION || region > LARGEST_REGION {
            return None;
        }
        let half = (region - HEADER_SIZE) / 2;
        Some(Self { region, capacity: half - half % CAPACITY_UNIT })
    }

    /// Where the ring of this direction starts. `[seg.ring.start]`
    pub(crate) const fn ring(&self, direction: Direction) -> u64 {
        match direction {
            Direction::ToServer => HEADER_SIZE,
            Direction::ToClient => HEADER_SIZE + self.capacity,
        }
    }
}

/// Which of the two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToClient,
    ToServer,
}

impl Direction {
    /// Where this direction's tail line starts.
    pub(crate) const fn tail_line(self) -> usize {
        match self {
            Self::ToServer => LINES_START,
            Self::ToClient => LINES_START + 2 * LINE,
        }
    }

    /// Where this direction's head line starts.
    pub(crate) const fn head_line(self) -> usize {
        self.tail_line() + LINE
    }
}

/// The bytes that a record of `len` bytes takes in a ring. `[seg.ring.record]`
///
/// Saturates instead of wrapping; a saturated size fits no ring.
pub(crate) const fn record_size(len: usize) -> usize {
    len.saturating_add(RECORD_HEADER + 7) & !7
}

/// The longest record that a ring of this capacity takes. `[seg.ring.max_record]`
///
/// A quarter of the ring, so that the two sides can always overlap: one record being read, one lying ready, one
/// being written.
pub(crate) const fn max_record(capacity: usize) -> usize {
    let quarter = capacity / 4;
    (if quarter < LARGEST_RECORD { quarter } else { LARGEST_RECORD }) - RECORD_HEADER
}

/// Bytes of the header fields.
pub(crate) const HEADER_FIELDS: usize = 64;

/// Sixteen random bytes that name one connection: its files, and its region. `[seg.header.instance]`
pub(crate) type Instance = [u8; 16];

/// Writes the header fields. `[seg.header]`
pub(crate) fn encode_header(
    geometry: &Geometry,
    instance: &Instance,
    events: u32,
) -> [u8; HEADER_FIELDS] {
    let mut bytes = [0; HEADER_FIELDS];
    let (magic, rest) = bytes.split_at_mut(8);
    magic.copy_from_slice(&MAGIC);
    let (versions, rest) = rest.split_at_mut(8);
    versions[..4].copy_from_slice(&LAYOUT_VERSION.to_le_bytes());
    versions[4..].copy_from_slice(&events.to_le_bytes());
    let numbers = [
        geometry.region,
        geometry.capacity,
        geometry.ring(Direction::ToServer),
        geometry.ring(Direction::ToClient),
    ];
    for (field, number) in rest.chunks_exact_mut(8).zip(numbers) {
        field.copy_from_slice(&number.to_le_bytes());
    }
    bytes[48..].copy_from_slice(instance);
    bytes
}

/// Checks a private copy of the header fields against the size of the file and the expected instance. Returns the kind
/// of its named events, one of those above.
///
/// # Errors
///
/// The rule that the header breaks, in words.
pub(crate) fn check_header(
    bytes: &[u8; HEADER_FIELDS],
    file_size: u64,
    instance: &Instance,
) -> Result<u32, &'static str> {
    if bytes[..8] != MAGIC {
        return Err("it does not start with the magic of a witrpc region"); // [seg.header.magic]
    }
    if bytes[8..12] != LAYOUT_VERSION.to_le_bytes() {
        return Err("its layout version is not the one of this library"); // [seg.header.version]
    }
    let known = [EVENTS_FIFO, EVENTS_RAW_SYNC];
    let Some(events) = known.into_iter().find(|kind| bytes[12..16] == kind.to_le_bytes()) else {
        return Err("it uses a kind of named event that this library does not have"); // [seg.header.events]
    };
    let Some(geometry) = Geometry::of(file_size) else {
        return Err("the size of its file is out of bounds"); // [seg.header.size]
    };
    if bytes[..48] != encode_header(&geometry, instance, events)[..48] {
        return Err("its geometry does not follow from the size of its file"); // [seg.header.geometry], L1
    }
    if bytes[48..] != *instance {
        return Err("it belongs to another connection"); // [seg.header.instance]
    }
    Ok(events)
}

const _: () = {
    assert!(Direction::ToClient.head_line() + LINE <= CLIENT_EVENT);
    assert!((SERVER_EVENT + EVENT_SIZE) as u64 <= HEADER_SIZE);
    assert!(CLIENT_EVENT % LINE == 0 && EVENT_SIZE % LINE == 0);
    assert!(LINES_START % LINE == 0 && HEADER_FIELDS <= LINES_START);
    assert!(HEADER_SIZE % CAPACITY_UNIT == 0);
    assert!(record_size(max_record(4096)) <= 4096 / 4 && SMALLEST_CAPACITY == 4096);
};

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANCE: Instance = [7; 16];

    #[test]
    fn every_size_gives_two_disjoint_rings_inside_the_region() {
        for size in (SMALLEST_REGION..SMALLEST_REGION + 1000).chain([1 << 20, LARGEST_REGION]) {
            let geometry = Geometry::of(size).unwrap();
            assert_eq!(geometry.capacity % CAPACITY_UNIT, 0);
            assert!(geometry.capacity >= SMALLEST_CAPACITY);
            assert_eq!(geometry.ring(Direction::ToServer), HEADER_SIZE);
            assert_eq!(geometry.ring(Direction::ToClient), HEADER_SIZE + geometry.capacity);
            assert!(geometry.ring(Direction::ToClient) + geometry.capacity <= size);
        }
        assert_eq!(Geometry::of(SMALLEST_REGION - 1), None);
        assert_eq!(Geometry::of(LARGEST_REGION + 1), None);
    }

    #[test]
    fn a_header_is_what_the_tables_say() {
        let geometry = Geometry::of(1 << 20).unwrap();
        let bytes = encode_header(&geometry, &INSTANCE, EVENTS_FIFO);
        assert_eq!(bytes[..8], *b"witrpc\0m");
        assert_eq!(bytes[8..16], [2, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[16..24], (1_u64 << 20).to_le_bytes());
        assert_eq!(bytes[24..32], 522_240_u64.to_le_bytes());
        assert_eq!(bytes[32..40], 4096_u64.to_le_bytes());
        assert_eq!(bytes[40..48], 526_336_u64.to_le_bytes());
        assert_eq!(bytes[48..], [7; 16]);
        assert_eq!(check_header(&bytes, 1 << 20, &INSTANCE), Ok(EVENTS_FIFO));
        let bytes = encode_header(&geometry, &INSTANCE, EVENTS_RAW_SYNC);
        assert_eq!(bytes[8..16], [2, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(check_header(&bytes, 1 << 20, &INSTANCE), Ok(EVENTS_RAW_SYNC));
    }

    #[test]
    fn a_header_with_any_byte_changed_is_refused() {
        let bytes = encode_header(&Geometry::of(1 << 20).unwrap(), &INSTANCE, EVENTS_FIFO);
        for at in 0..HEADER_FIELDS {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert!(check_header(&changed, 1 << 20, &INSTANCE).is_err(), "byte {at}");
        }
        for version in [1, 3_u8] {
            let mut other = bytes;
            other[8] = version;
            let fault = check_header(&other, 1 << 20, &INSTANCE).unwrap_err();
            assert!(fault.contains("layout version"), "{fault}");
        }
        assert!(check_header(&bytes, (1 << 20) + 4096, &INSTANCE).is_err());
        assert!(check_header(&bytes, 100, &INSTANCE).is_err());
    }

    #[test]
    fn records_are_whole_words_and_never_wrap() {
        assert_eq!([0, 1, 8, 9].map(record_size), [8, 16, 16, 24]);
        assert!(record_size(usize::MAX) > usize::MAX - 8);
        assert_eq!(max_record(4096), 1016);
        assert_eq!(max_record(1 << 30), (64 << 10) + 248);
    }
}
