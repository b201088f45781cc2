//! The cache of glibc's loader: which file a library's name stands for. The format is that of glibc 2.2 and later, `sysdeps/generic/dl-cache.h`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// It has about a hundred bytes for each library.
pub(super) const LARGEST: u64 = 64 << 20;
/// An older format may be in front.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;

/// The names and paths of a cache; those of all processors. Empty if it is none.
pub(super) fn parse(file: &[u8]) -> Vec<(OsString, PathBuf)> {
    let begin = file.windows(MAGIC.len()).position(|window| window == MAGIC);
    let Some(cache) = begin.and_then(|at| file.get(at..)) else { return Vec::new() };
    let count = number(cache, MAGIC.len()).unwrap_or_default();
    let entries = cache.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY).take(count);
    let entry = |entry: &[u8]| {
        let name = text(cache, number(entry, 4)?)?;
        let path = text(cache, number(entry, 8)?)?;
        Some((name.to_owned(), PathBuf::from(path)))
    };
    entries.filter_map(entry).collect()
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

fn text(cache: &[u8], at: usize) -> Option<&OsStr> {
    let text = cache.get(at..)?.split(|byte| *byte == 0).next()?;
    (!text.is_empty()).then(|| OsStr::from_bytes(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(u32, u32)], texts: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
        bytes.resize(HEADER, 0);
        let begin = u32::try_from(HEADER + ENTRY * entries.len()).unwrap();
        for (name, path) in entries {
            bytes.extend([0; 4]);
            bytes.extend((begin + name).to_le_bytes());
            bytes.extend((begin + path).to_le_bytes());
            bytes.extend([0; 12]);
        }
        bytes.extend(texts);
        bytes
    }

    #[test]
    fn names_and_paths_are_read() {
        let bytes = cache(&[(0, 7), (7, 14)], b"liba.so/liba.so/lib/b\0");
        // Nothing that ends there.
        assert_eq!(parse(&bytes[..bytes.len() - 1]).len(), 2);
        let bytes = cache(&[(0, 5), (5, 12)], b"a.so\0/lib/a\0/lib/b\0");
        let expected = [("a.so", "/lib/a"), ("/lib/a", "/lib/b")];
        let expected: Vec<_> =
            expected.iter().map(|(name, path)| ((*name).into(), (*path).into())).collect();
        assert_eq!(parse(&bytes), expected);
        // Behind the older format.
        assert_eq!(parse(&[b"ld.so-1.7.0\0....", &bytes[..]].concat()), expected);
    }

    #[test]
    fn what_is_no_cache_has_nothing() {
        let bytes = cache(&[(0, 5), (u32::MAX - 200, 5)], b"a.so\0/lib/a\0");
        assert_eq!(parse(&bytes).len(), 1);
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length]).len() <= 1);
        }
        let mut many = bytes;
        many[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&[0xff; 4]);
        assert!(parse(&many).len() < 5);
    }
}
