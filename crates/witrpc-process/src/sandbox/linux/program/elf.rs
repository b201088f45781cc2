//! What a 64-bit ELF file says of its loader and its libraries. Nothing else is read.
//!
//! The layouts are those of the System V ABI, "Object files" and "Dynamic linking".

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// 64 bits, little-endian.
const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const HEADER: usize = 64;
const SEGMENT: usize = 56;
const ENTRY: usize = 16;
/// A program has about a dozen segments, and a dynamic section a few hundred entries.
const MOST_SEGMENTS: usize = 1024;
const MOST_ENTRIES: usize = 64 << 10;
/// `PATH_MAX`; several folders may be one text.
const LONGEST_TEXT: usize = 16 << 10;

const LOADED: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;
const NEEDED: u64 = 1;
const TEXTS: u64 = 5;
const FOLDERS_AT_FIRST: u64 = 15;
const FOLDERS: u64 = 29;

/// What is read of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Binary {
    pub(super) interpreter: Option<OsString>,
    /// The libraries, as they are named there.
    pub(super) needed: Vec<OsString>,
    /// Where they may be.
    pub(super) folders: Vec<OsString>,
}

#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    length: u64,
}

impl Binary {
    /// `None` if it is no such file.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).ok()?;
        if !header.starts_with(MAGIC) {
            return None;
        }
        let segments = segments(&file, &header)?;
        let of_kind = |kind| segments.iter().find(move |segment| segment.kind == kind);
        let interpreter = of_kind(INTERPRETER).and_then(|segment| text(&file, segment.offset));
        let mut binary = Self { interpreter, ..Self::default() };
        if let Some(dynamic) = of_kind(DYNAMIC) {
            binary.read_dynamic(&file, &segments, *dynamic);
        }
        Some(binary)
    }

    /// Reads as much of the dynamic section as makes sense.
    fn read_dynamic(&mut self, file: &File, segments: &[Segment], dynamic: Segment) {
        let length = usize::try_from(dynamic.length).unwrap_or(usize::MAX);
        let bytes = read(file, dynamic.offset, length.min(MOST_ENTRIES * ENTRY));
        let entries = bytes.chunks_exact(ENTRY).map(|entry| (word(entry, 0), word(entry, 8)));
        let entries: Vec<_> = entries.take_while(|(tag, _)| *tag != 0).collect();
        let texts = entries.iter().find(|(tag, _)| *tag == TEXTS);
        let texts = texts.and_then(|(_, address)| offset(segments, *address));
        let Some(texts) = texts else { return };
        let text_at = |at: u64| text(file, texts.checked_add(at)?);
        for (tag, value) in entries {
            match tag {
                NEEDED => self.needed.extend(text_at(value)),
                FOLDERS_AT_FIRST | FOLDERS => {
                    let list = text_at(value).unwrap_or_default();
                    self.folders.extend(split(&list, b":").map(ToOwned::to_owned));
                }
                _ => {}
            }
        }
    }
}

/// The parts of a list that are not empty.
pub(super) fn split<'a>(list: &'a OsStr, at: &'static [u8]) -> impl Iterator<Item = &'a OsStr> {
    let parts = list.as_bytes().split(|byte| at.contains(byte));
    parts.filter(|part| !part.is_empty()).map(OsStr::from_bytes)
}

fn segments(file: &File, header: &[u8; HEADER]) -> Option<Vec<Segment>> {
    let (size, count) = (half(header, 54), half(header, 56));
    if usize::from(size) != SEGMENT || usize::from(count) > MOST_SEGMENTS {
        return None;
    }
    let bytes = read(file, word(header, 32), SEGMENT * usize::from(count));
    let segment = |bytes: &[u8]| Segment {
        kind: u32::from_le_bytes(part(bytes, 0)),
        offset: word(bytes, 8),
        address: word(bytes, 16),
        length: word(bytes, 32),
    };
    Some(bytes.chunks_exact(SEGMENT).map(segment).collect())
}

/// Where in the file an address is.
fn offset(segments: &[Segment], address: u64) -> Option<u64> {
    segments.iter().filter(|segment| segment.kind == LOADED).find_map(|segment| {
        let within = address.checked_sub(segment.address).filter(|at| *at < segment.length)?;
        segment.offset.checked_add(within)
    })
}

/// A text that ends with a zero.
fn text(file: &File, at: u64) -> Option<OsString> {
    let mut bytes = read(file, at, LONGEST_TEXT);
    let end = bytes.iter().position(|byte| *byte == 0)?;
    bytes.truncate(end);
    (!bytes.is_empty()).then(|| OsString::from_vec(bytes))
}

/// As many bytes as there are, up to this number.
fn read(file: &File, at: u64, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; most];
    let mut filled = 0;
    while filled < most {
        let place = u64::try_from(filled).ok().and_then(|filled| at.checked_add(filled));
        let read = place.map_or(Ok(0), |place| file.read_at(&mut bytes[filled..], place));
        match read {
            Ok(0) | Err(_) => break,
            Ok(more) => filled += more,
        }
    }
    bytes.truncate(filled);
    bytes
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(part(bytes, at))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(part(bytes, at))
}
