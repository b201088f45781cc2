//! Peers that subscribe to events of the server's third service. The ordinary clients have these events raised.

use super::peers::Visit;
use crate::raw::{EVENT_ACK, SUBSCRIBE, UNSUBSCRIBE, WHOLE, call_to, frame};

const TICKER: u16 = 2;
/// Places of its events.
pub(super) const TICKED: u16 = 0;
pub(super) const SAID: u16 = 2;
/// The place of the method that raises the first.
const TICK: (u16, u16) = (TICKER, 0);
/// As many as there may be on a connection, and more: each of them is answered.
const MANY: u64 = 4096 + 100;
const UNBOUNDED: u64 = u64::MAX;

pub(super) fn subscribe(id: u64, event: u16, values: u32, bytes: u64) -> Vec<u8> {
    let mut payload = TICKER.to_le_bytes().to_vec();
    payload.extend_from_slice(&event.to_le_bytes());
    payload.extend_from_slice(&values.to_le_bytes());
    payload.extend_from_slice(&bytes.to_le_bytes());
    frame(SUBSCRIBE, WHOLE, id, &payload)
}

fn unsubscribe(id: u64) -> Vec<u8> {
    frame(UNSUBSCRIBE, WHOLE, id, &[])
}

/// Subscribes as often as it may, and takes nothing.
pub(super) async fn does_not_read(visit: &mut Visit) {
    let values = [1, 4096][visit.random.below(2) as usize];
    for id in 0..MANY {
        let event = [TICKED, SAID][(id % 2) as usize];
        visit.raw.send(&subscribe(id, event, values, UNBOUNDED)).await;
    }
    std::future::pending().await
}

/// Subscribes and unsubscribes, always anew, a few at a time; now and then it takes what there is.
pub(super) async fn comes_and_goes(visit: &mut Visit) {
    let some = 1 + visit.random.below(50);
    for round in 0.. {
        for id in round * some..(round + 1) * some {
            visit.raw.send(&subscribe(id, [TICKED, SAID][(id % 2) as usize], 8, UNBOUNDED)).await;
        }
        if visit.raw.is_gone().await {
            return;
        }
        if visit.random.below(20) == 0 {
            // What has come for it by now.
            visit.raw.take_all();
        }
        for id in round * some..(round + 1) * some {
            visit.raw.send(&unsubscribe(id)).await;
        }
    }
}

/// Has values raised, takes them, and says nothing of that.
pub(super) async fn does_not_acknowledge(visit: &mut Visit) {
    visit.raw.send(&subscribe(1, SAID, 1, UNBOUNDED)).await;
    // Only what others have not subscribed to in order to check it.
    let say = (TICK.0, 2);
    for call in 0.. {
        visit.raw.send(&call_to(say, call, "[2,1]", &[])).await;
        while let Some(frame) = visit.raw.recv().await
            && (frame.kind, frame.id) != (crate::raw::RESPONSE, call)
        {}
        if visit.raw.is_gone().await {
            return;
        }
    }
}

/// Has taken what nobody has sent.
pub(super) async fn acknowledges_too_much(visit: &mut Visit) {
    visit.raw.send(&subscribe(1, TICKED, 4096, UNBOUNDED)).await;
    let values = 1 + visit.random.below(u64::from(u32::MAX));
    visit.raw.send(&frame(EVENT_ACK, WHOLE, values << 32 | 1, &[])).await;
    while visit.raw.recv().await.is_some() {}
}
