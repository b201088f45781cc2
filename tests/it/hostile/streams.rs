//! Peers that abuse streams: they do not read the server's streams, and write their own without regard to credit.

use std::collections::HashMap;

use super::peers::{MOST_STREAMS, Visit};
use crate::raw::{
    RESPONSE, STREAM_CREDIT, call_to, reference, stream_credit, stream_end, stream_item,
};

/// Places of methods of `Log`, the server's fourth service.
pub(super) const ENDLESS: (u16, u16) = (3, 1);
const UPLOAD: (u16, u16) = (3, 2);
pub(super) const ECHO: (u16, u16) = (3, 5);
/// One that there is not: nobody reads its streams.
const NONE: (u16, u16) = (3, 999);
/// Calls whose answers may be unread at a time.
const IN_FLIGHT: u64 = 1000;

/// Has the server write, as much as it ever may, and takes nothing of it.
pub(super) async fn does_not_read(visit: &mut Visit) {
    for call in 0..IN_FLIGHT {
        visit.raw.send(&call_to(ENDLESS, call, "[0]", &[])).await;
    }
    for stream in 0..IN_FLIGHT {
        visit.raw.send(&stream_credit(stream, u32::MAX, u64::MAX)).await;
    }
    std::future::pending().await
}

/// Has streams made that wait for ever; reads what else there is.
pub(super) async fn gives_no_credit(visit: &mut Visit) {
    for call in 0..MOST_STREAMS as u64 {
        visit.raw.send(&call_to(ENDLESS, call, "[0]", &[])).await;
        while let Some(frame) = visit.raw.recv().await
            && frame.kind != RESPONSE
        {}
    }
    std::future::pending().await
}

/// More than the window that it has given itself.
pub(super) async fn gives_too_much_credit(visit: &mut Visit) {
    visit.raw.send(&call_to(ENDLESS, 1, "[0]", &[])).await;
    let window = 1 + visit.random.below(20) as u32;
    for items in [window, window, u32::MAX] {
        visit.raw.send(&stream_credit(0, items, 1 << 20)).await;
    }
    while visit.raw.recv().await.is_some() {}
}

/// Opens streams that nobody reads, and does not end them, though it is told that nobody does.
pub(super) async fn does_not_end(visit: &mut Visit) {
    let mut streams = (0..MOST_STREAMS as u64).collect::<Vec<_>>();
    for call in 0.. {
        let some = streams.split_off(streams.len().saturating_sub(64));
        if some.is_empty() {
            break;
        }
        visit.raw.send(&call_to(NONE, call, "[]", &some)).await;
        while let Some(frame) = visit.raw.recv().await
            && frame.kind != RESPONSE
        {}
    }
    std::future::pending().await
}

/// Fills the windows of streams whose reader sends them back: it goes on as fast as it is let, and it is let send one item of each.
pub(super) async fn fills_windows(visit: &mut Visit) {
    let size = [1, 100, 3000][visit.random.below(3) as usize];
    for call in 0..200 {
        visit.raw.send(&call_to(ECHO, call, &reference(0), &[call])).await;
    }
    // The last item of each; and how many have come back.
    let (mut last, mut back) = (HashMap::new(), 0);
    while let Some(frame) = visit.raw.recv().await {
        match frame.kind {
            RESPONSE => {
                visit.raw.send(&stream_credit(back, 1, 1)).await;
                back += 1;
            }
            STREAM_CREDIT => {
                let items = u32::from_le_bytes(frame.payload[..4].try_into().unwrap());
                let last = last.entry(frame.id).or_insert(0);
                for _ in 0..items {
                    *last += 1;
                    visit.raw.send(&padded_item(frame.id, *last, size)).await;
                }
            }
            _ => {}
        }
    }
}

/// An item of so many bytes.
pub(super) fn padded_item(stream: u64, number: u64, size: usize) -> Vec<u8> {
    let mut item = stream_item(stream, number);
    item.resize(item.len() + size - 1, b' ');
    // In front of the payload is its length; in front of the body, its own.
    let len = item.len() as u32 - 16;
    item[4..8].copy_from_slice(&len.to_le_bytes());
    item[16..20].copy_from_slice(&(size as u32).to_le_bytes());
    item
}

/// Does not wait to be asked.
pub(super) async fn writes_without_credit(visit: &mut Visit) {
    visit.raw.send(&call_to(UPLOAD, 1, &reference(0), &[7])).await;
    for number in 1.. {
        visit.raw.send(&stream_item(7, number)).await;
        if visit.raw.is_gone().await {
            break;
        }
    }
}

/// Items, ends and credit of streams that never were.
pub(super) async fn writes_to_unknown(visit: &mut Visit) {
    let stream = visit.random.next();
    let frames = [stream_item(stream, 1), stream_end(stream, 0), stream_credit(stream, 1, 1)];
    visit.raw.send(&frames[visit.random.below(3) as usize]).await;
    while visit.raw.recv().await.is_some() {}
}

/// Opens what is open, in one message or in two.
pub(super) async fn repeats_ids(visit: &mut Visit) {
    if visit.random.below(2) == 0 {
        visit.raw.send(&call_to(UPLOAD, 1, &reference(0), &[7, 7])).await;
    } else {
        for call in 1..3 {
            visit.raw.send(&call_to(UPLOAD, call, &reference(0), &[7])).await;
        }
    }
    while visit.raw.recv().await.is_some() {}
}
