//! The record of a live server, behind the mark of its lock file. `[seg.file.record]`

/// The record's bytes: its texts, and three numbers of [`DIGITS`].
pub(super) const RECORD_LEN: usize =
    PROCESS.len() + CLIENTS.len() + OF.len() + END.len() + 3 * DIGITS;

const PROCESS: &str = "process ";
const CLIENTS: &str = ", clients ";
const OF: &str = " of ";
const END: &str = "\n";
/// Any `u32`: the record never changes its size, so that it can be rewritten in place.
const DIGITS: usize = 10;

/// A server's process, and how many of its slots are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) process_id: u32,
    pub(super) clients: u32,
    pub(super) max_clients: u32,
}

impl Record {
    pub(super) fn encode(&self) -> String {
        let Self { process_id, clients, max_clients } = self;
        format!("{PROCESS}{process_id:010}{CLIENTS}{clients:010}{OF}{max_clients:010}{END}")
    }

    /// `None` if these are not exactly the bytes of a record.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_prefix(PROCESS)?;
        let (process_id, text) = number(text)?;
        let (clients, text) = number(text.strip_prefix(CLIENTS)?)?;
        let (max_clients, text) = number(text.strip_prefix(OF)?)?;
        (text == END).then_some(Self { process_id, clients, max_clients })
    }
}

fn number(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(DIGITS)?;
    let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frozen vector: what `docs/segment.md` shows.
    #[test]
    fn record_is_frozen() {
        let record = Record { process_id: 4711, clients: 2, max_clients: 8 };
        let text = "process 0000004711, clients 0000000002 of 0000000008\n";
        assert_eq!(record.encode(), text);
        assert_eq!(text.len(), RECORD_LEN);
        assert_eq!(Record::decode(text.as_bytes()), Some(record));
    }

    #[test]
    fn every_number_fits_and_nothing_else_is_a_record() {
        let record = Record { process_id: u32::MAX, clients: 0, max_clients: u32::MAX };
        let text = record.encode();
        assert_eq!(Record::decode(text.as_bytes()), Some(record));
        for cut in 0..text.len() {
            assert_eq!(Record::decode(&text.as_bytes()[..cut]), None);
            let mut odd = text.clone().into_bytes();
            odd[cut] = b'x';
            assert_eq!(Record::decode(&odd), None);
        }
        assert_eq!(Record::decode(format!("{text}\n").as_bytes()), None);
        assert_eq!(Record::decode(text.replace('4', "9").as_bytes()), None, "beyond 32 bits");
    }
}
