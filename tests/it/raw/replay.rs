//! Records of an earlier, successful connection, sent again by a peer that knows no token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ACCEPT, GOODBYE, HELLO, REFUSE, Raw};
use crate::contract::CalcClient;
use crate::fixture::{Fixture, GUARD, eventually};

crate::instances::instance!(
    memory_token,
    memory,
    Json,
    Token,
    MultiThread,
    a_replay_authorizes_nobody
);
crate::instances::instance!(mmf_token, mmf, Json, Token, CurrentThread, a_replay_authorizes_nobody);
crate::instances::instance!(
    memory_sealed,
    memory,
    Json,
    EncryptedWithToken,
    CurrentThread,
    a_replay_authorizes_nobody
);
crate::instances::instance!(
    mmf_sealed,
    mmf,
    Json,
    EncryptedWithToken,
    MultiThread,
    a_replay_authorizes_nobody
);

const DEADLINE: Duration = Duration::from_millis(700);

async fn a_replay_authorizes_nobody(fixture: Arc<Fixture>) {
    let server = fixture.server_builder().with_handshake_timeout(DEADLINE).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let (client, found) = fixture.spied_client();
    client.connect(GUARD).await.unwrap();
    let calc = client.get_service::<CalcClient>();
    calc.open(1).await.unwrap();
    calc.open(1).await.unwrap();
    client.disconnect().await;
    drop((client, calc));
    eventually("it is gone", || server.client_count() == 0).await;
    let records = found.records();
    assert_eq!(records[0][0], HELLO);
    assert!(records.len() >= 4, "hello, confirm, two calls");

    let began = Instant::now(); // Before the server's clock for this client starts.
    let mut raw = Raw::client(&fixture).await;
    raw.send(&records[0]).await;
    // The first message is good, and is all that is: what comes back cannot be used without the token.
    assert_eq!(raw.recv().await.unwrap().kind, ACCEPT);
    assert_eq!(server.client_count(), 0, "an accepted hello is no client");
    let more = raw.recv().await;
    assert!(more.is_none_or(|frame| frame.kind == GOODBYE), "nothing else is due");
    assert!(began.elapsed() >= DEADLINE, "until the handshake deadline");
    assert_eq!(server.client_count(), 0);

    for last in 2..=records.len() {
        let mut raw = Raw::client(&fixture).await;
        for record in &records[..last] {
            raw.push(record).await;
        }
        raw.publish();
        while let Some(frame) = raw.recv().await {
            assert!([ACCEPT, REFUSE, GOODBYE].contains(&frame.kind), "{frame:?}");
        }
        assert_eq!(server.client_count(), 0);
    }
    assert_eq!(fixture.calculator.0.gate.available_permits(), 2, "no call was executed again");
    let client = fixture.client().await;
    assert_eq!(client.get_service::<CalcClient>().add(1, 1).await.unwrap(), 2);
}
