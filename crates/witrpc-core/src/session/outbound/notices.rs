//! Notices: credit for streams of the peer, their cancels, and acknowledgements of events.
//!
//! At most one notice waits for each stream and each subscription; later ones are merged into it. So a peer that sends and does not read
//! cannot make this side hold more.

use hashlink::LinkedHashMap;

#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
use crate::held::Held;
use crate::wire::fields::Put;
use crate::wire::frame::{Header, Kind};

/// The notices that wait for room in the ring, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Notices(LinkedHashMap<About, Notice>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum About {
    Stream(u64),
    Subscription(u32),
}

#[derive(Clone, Copy, Debug)]
enum Notice {
    /// Credit for items and bytes of a stream. [wire.stream.credit]
    Credit(u32, u64),
    /// [wire.stream.cancel]
    Cancel,
    /// An acknowledgement of values of an event. [wire.event.ack]
    Acknowledgement(u32),
}

impl Notices {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds credit for a stream.
    pub(super) fn credit(&mut self, id: u64, items: u32, bytes: u64) {
        if let Notice::Credit(more_items, more_bytes) =
            self.get(About::Stream(id), Notice::Credit(0, 0))
        {
            *more_items = more_items.saturating_add(items);
            *more_bytes = more_bytes.saturating_add(bytes);
        }
    }

    /// Adds a cancel of a stream, in place of credit.
    pub(super) fn cancel(&mut self, id: u64) {
        *self.get(About::Stream(id), Notice::Cancel) = Notice::Cancel;
    }

    /// Adds acknowledged values of an event.
    pub(super) fn acknowledge(&mut self, id: u32, values: u32) {
        if let Notice::Acknowledgement(more) =
            self.get(About::Subscription(id), Notice::Acknowledgement(0))
        {
            *more = more.saturating_add(values);
        }
    }

    /// The waiting notice, whose position in the order is kept; else `new`.
    fn get(&mut self, about: About, new: Notice) -> &mut Notice {
        // Not by `entry`, which moves an existing notice to the back.
        if !self.0.contains_key(&about) {
            self.0.insert(about, new);
        }
        let Some(notice) = self.0.get_mut(&about) else {
            unreachable!("it has just been put there")
        };
        notice
    }

    /// Drops the notice for a stream that the peer has ended.
    pub(super) fn forget_stream(&mut self, id: u64) {
        self.0.remove(&About::Stream(id));
    }

    /// Drops the notice for a subscription that this side has ended.
    pub(super) fn forget_subscription(&mut self, id: u32) {
        self.0.remove(&About::Subscription(id));
    }

    /// The frame of the oldest notice.
    pub(super) fn front(&self) -> Option<(Header, Vec<u8>)> {
        let (about, notice) = self.0.front()?;
        let mut payload = Vec::new();
        let (kind, id) = match (*about, *notice) {
            (About::Stream(id), Notice::Cancel) => (Kind::StreamCancel, id),
            (About::Stream(id), Notice::Credit(items, bytes)) => {
                payload.put_u32(items);
                payload.put_u64(bytes);
                (Kind::StreamCredit, id)
            }
            (About::Subscription(id), Notice::Acknowledgement(values)) => {
                (Kind::EventAck, u64::from(values) << 32 | u64::from(id))
            }
            _ => unreachable!("each notice is about its own"),
        };
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        Some((Header::whole(kind, id, len), payload))
    }

    /// Removes the oldest notice, which was sent.
    pub(super) fn pop(&mut self) {
        self.0.pop_front();
    }

    /// What waits.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub(super) fn held(&self) -> Held {
        Held::plain::<(About, Notice, [usize; 4])>(self.0.len())
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::Notices;
    use crate::wire::frame::Kind;

    fn all(mut notices: Notices) -> Vec<(Kind, u64, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some((header, payload)) = notices.front() {
            frames.push((header.kind, header.id, payload));
            notices.pop();
        }
        frames
    }

    /// Frozen vectors: what `docs/wire.md` shows.
    #[test]
    fn notices_are_frozen() {
        let mut notices = Notices::default();
        notices.credit(7, 256, 1 << 20);
        notices.acknowledge(9, 7);
        notices.cancel(8);
        let credit = vec![0, 1, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0];
        assert_eq!(
            all(notices),
            [
                (Kind::StreamCredit, 7, credit),
                (Kind::EventAck, 7 << 32 | 9, vec![]),
                (Kind::StreamCancel, 8, vec![]),
            ]
        );
    }

    #[test]
    fn one_notice_waits_for_each_however_much_it_comes_to() {
        let mut notices = Notices::default();
        for round in 0..1000 {
            notices.credit(1, 1, 10);
            notices.credit(2, 1, u64::MAX);
            notices.acknowledge(1, 1);
            notices.credit(u64::from(u32::MAX) + round, 1, 1);
            notices.forget_stream(u64::from(u32::MAX) + round);
        }
        assert_eq!(notices.0.len(), 3);
        notices.cancel(2);
        notices.credit(2, 1, 1);
        let frames = all(notices);
        let sum = [&1000_u32.to_le_bytes()[..], &10_000_u64.to_le_bytes()].concat();
        assert_eq!(frames[0], (Kind::StreamCredit, 1, sum));
        assert_eq!(frames[1], (Kind::StreamCancel, 2, vec![]));
        assert_eq!(frames[2], (Kind::EventAck, 1000 << 32 | 1, vec![]));
    }
}
