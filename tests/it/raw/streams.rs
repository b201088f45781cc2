//! Streams, read by a client whose bytes the test writes.

use std::sync::Arc;

use witrpc::{Load, WitServer};

use super::{
    CREDIT, Frame, ITEM_CREDIT, PING, PONG, RESPONSE, Raw, STREAM_CANCEL, STREAM_END, STREAM_ITEM,
    WHOLE, call, call_with_streams, frame, reference, stream_credit, stream_end, stream_item,
};
use crate::fixture::{Fixture, eventually};
use crate::streams::{Book, LogServer};

raw![
    a_stream_can_be_read_by_hand,
    a_stream_can_be_written_by_hand,
    credit_that_nobody_can_have_ends_the_connection,
    more_streams_than_may_be_open_end_the_connection,
];

/// Places of `Log`'s methods.
const ENDLESS: u16 = 1;
const UPLOAD: u16 = 2;

async fn serve(fixture: &Fixture) -> WitServer {
    let log = LogServer::new(Book::default());
    let server = fixture.bare_server_builder().with_service(log).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    server
}

impl Raw {
    /// The next frame that is no credit for messages.
    async fn recv_other(&mut self) -> Frame {
        loop {
            let frame = self.recv().await.expect("the connection goes on");
            if ![CREDIT, ITEM_CREDIT].contains(&frame.kind) {
                return frame;
            }
        }
    }

    /// Expects these items of a stream.
    async fn items(&mut self, id: u64, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            let item = self.recv_other().await;
            assert_eq!((item.kind, item.flags, item.id), (STREAM_ITEM, WHOLE, id));
            assert_eq!(item.payload[16..24], number.to_le_bytes());
            assert_eq!(item.payload[24..], *(number - 1).to_string().as_bytes());
        }
    }

    /// Nothing more is on its way.
    async fn is_silent(&mut self) {
        self.send(&frame(PING, WHOLE, 77, &[])).await;
        assert_eq!(self.recv_other().await.kind, PONG);
    }
}

async fn a_stream_can_be_read_by_hand(fixture: Arc<Fixture>) {
    let server = serve(&fixture).await;
    let mut raw = Raw::open_client(&fixture).await;
    raw.send(&call(1, ENDLESS, "[7]")).await;
    let answer = raw.recv_other().await;
    assert_eq!((answer.kind, answer.id), (RESPONSE, 1));
    // One stream, in place 0 of the table: stream 0, with the window that its producer wants.
    assert_eq!(answer.payload[..12], [27, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let body = &answer.payload[24..answer.payload.len() - 20];
    let (marker, table) = answer.payload[24 + body.len()..].split_at(8);
    let marker = u64::from_le_bytes(marker.try_into().unwrap());
    assert_eq!(body, format!("\"stream:{marker:016x}:0\"").as_bytes());
    assert_eq!(table, [0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0]);
    raw.is_silent().await;
    raw.send(&stream_credit(0, 3, 1000)).await;
    raw.items(0, 1..=3).await;
    raw.is_silent().await;
    raw.send(&stream_credit(0, 2, 2)).await;
    raw.items(0, 4..=5).await;
    raw.is_silent().await;
    // Another, whose bytes are used up by one item.
    raw.send(&call(2, ENDLESS, "[0]")).await;
    assert_eq!(raw.recv_other().await.payload[24 + 27 + 8], 1, "its id");
    raw.send(&stream_credit(1, 3, 1)).await;
    raw.items(1, 1..=1).await;
    raw.is_silent().await;
    raw.send(&stream_credit(1, 0, 1)).await;
    raw.items(1, 2..=2).await;
    for id in [0, 1] {
        raw.send(&frame(STREAM_CANCEL, WHOLE, id, &[])).await;
        let end = raw.recv_other().await;
        assert_eq!((end.kind, end.id, end.message()), (STREAM_END, id, (3, &b""[..])));
        // What crossed the end means nothing.
        raw.send(&stream_credit(id, 1, 1)).await;
        raw.send(&frame(STREAM_CANCEL, WHOLE, id, &[])).await;
        raw.is_silent().await;
    }
    eventually("nothing is held", || server.load() == [Load::default()]).await;
}

async fn a_stream_can_be_written_by_hand(fixture: Arc<Fixture>) {
    let server = serve(&fixture).await;
    let mut raw = Raw::open_client(&fixture).await;
    // Ids need not be those that the library would choose. The second stream is of no interest to the method.
    raw.send(&call_with_streams(1, UPLOAD, &reference(0), &[900, 7])).await;
    let mut credit = None;
    let mut cancel = false;
    while credit.is_none() || !cancel {
        let frame = raw.recv_other().await;
        match frame.kind {
            STREAM_CANCEL => {
                assert_eq!(frame.id, 7);
                cancel = true;
            }
            _ => credit = Some(frame),
        }
    }
    let credit = credit.unwrap();
    assert_eq!(credit.id, 900);
    assert_eq!(credit.payload, [0, 1, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0]);
    assert_eq!(server.load()[0].streams, 2);
    raw.send(&stream_item(900, 1)).await;
    raw.send(&stream_item(900, 2)).await;
    raw.send(&stream_end(7, 3)).await;
    raw.send(&stream_end(900, 0)).await;
    let answer = raw.recv_other().await;
    assert_eq!((answer.kind, answer.message()), (RESPONSE, (0, &b"14"[..])));
    eventually("nothing is held", || server.load() == [Load::default()]).await;
}

async fn credit_that_nobody_can_have_ends_the_connection(fixture: Arc<Fixture>) {
    let server = serve(&fixture).await;
    for credits in [
        &[(0, 1)][..],
        &[(1, 0)],
        &[(8, 1000)],
        &[(7, 1000), (8, 0)],
        &[(7, 1000), (0, 1001)],
        &[(7, 1000), (u32::MAX, u64::MAX)],
    ] {
        let mut raw = Raw::open_client(&fixture).await;
        raw.send(&call(1, ENDLESS, "[7]")).await;
        assert_eq!(raw.recv_other().await.kind, RESPONSE);
        for (items, bytes) in credits {
            raw.push(&stream_credit(0, *items, *bytes)).await;
        }
        raw.publish();
        let farewell = raw.farewell().await.unwrap();
        assert!(farewell.contains("than was sent"), "{credits:?}: {farewell}");
        eventually("it is gone", || server.client_count() == 0).await;
    }
}

async fn more_streams_than_may_be_open_end_the_connection(fixture: Arc<Fixture>) {
    let server = serve(&fixture).await;
    let mut raw = Raw::open_client(&fixture).await;
    // Of a method that does not exist, so that nobody reads them: but they stay open until this side ends them.
    for call in 0..66 {
        let streams: Vec<u64> = (call * 1000..(call + 1) * 1000).collect();
        raw.send(&call_with_streams(call, 999, "", &streams)).await;
    }
    let farewell = raw.farewell().await.unwrap();
    assert!(farewell.contains("more open streams than allowed"), "{farewell}");
    eventually("it is gone", || server.client_count() == 0).await;
}
