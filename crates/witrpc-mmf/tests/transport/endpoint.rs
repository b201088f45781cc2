//! How a client and its server meet, part, wait and are kept apart, over the public interface.

use std::{path::Path, time::Duration};

use tokio::time::Instant;
use witrpc_core::transport::Wake;
use witrpc_core::{Error, WaitStrategy};
use witrpc_mmf::{ClientSlots, Door, MemoryMappedFile, NamedEvent, connect};

use crate::common::{Endpoint, Peer, far, listening, soon, within};
use crate::fake::{FakeClient, FakeServer};

#[tokio::test]
async fn records_cross_both_ways_and_nothing_is_left_behind() {
    let endpoint = Endpoint::new(|file| file.with_wait_strategy(WaitStrategy::Park));
    let mut door = endpoint.open().await;
    let (mut client, mut server) = endpoint.pair(&mut door).await;
    assert_eq!(client.0.peer_process_id, Some(std::process::id()));
    assert_eq!(server.0.peer_process_id, Some(std::process::id()));
    assert_eq!(server.0.wait_strategy, WaitStrategy::Park);
    assert!((client.0.clock)() <= (server.0.clock)());
    let here = if cfg!(unix) { 5 } else { 2 };
    assert_eq!(
        endpoint.files().len(),
        here,
        "lock, door, and three of the connection; or lock and region"
    );
    client.send(b"hello").await;
    assert_eq!(within(server.recv()).await.unwrap(), b"hello");
    server.first_frame();
    assert_eq!(endpoint.lasting(), listening(&["test"]), "a connection has no files of its own");
    server.send(b"welcome").await;
    assert_eq!(within(client.recv()).await.unwrap(), b"welcome");
    drop(door);
    assert_eq!(endpoint.lasting(), [""; 0], "an endpoint that was closed has none either");
    client.send(b"still there").await;
    assert_eq!(within(server.recv()).await.unwrap(), b"still there");
    client.send(b"last words").await;
    drop(client);
    assert_eq!(within(server.recv()).await.unwrap(), b"last words");
    server.is_gone().await;
    drop(server);
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost_on_the_smallest_rings() {
    const COUNT: usize = 30_000;
    let endpoint = Endpoint::new(|file| file.with_size(12_288));
    let mut door = endpoint.open().await;
    let (mut client, mut server) = endpoint.pair(&mut door).await;
    let record = |number: usize| (number as u64).to_le_bytes().repeat(number % 120);
    let echo = tokio::spawn(async move {
        while let Some(record) = server.recv().await {
            server.send(&record).await;
        }
    });
    let (mut sent, mut received) = (0, 0);
    while received < COUNT {
        while sent < COUNT && client.0.sender.try_push(&record(sent), &[], 0).unwrap() {
            sent += 1;
        }
        client.0.sender.publish().unwrap();
        while let Some(found) = client.pop() {
            assert_eq!(found, record(received));
            received += 1;
        }
        let room = sent == COUNT || client.0.sender.arm(record(sent).len(), 0).unwrap();
        let sleep = !client.0.receiver.arm().unwrap() && (sent == COUNT || !room);
        if sleep && received < COUNT {
            assert_eq!(within(client.wake()).await, Wake::Rung);
        }
    }
    drop(client);
    within(echo).await.unwrap();
}

#[tokio::test]
async fn without_a_server_a_client_waits_until_its_deadline() {
    let endpoint = Endpoint::new(|file| file);
    let start = Instant::now();
    let error = connect(&endpoint.file, soon()).await.unwrap_err();
    let Error::NotRunning { endpoint: name, place, running, waited } = error else {
        panic!("{error}")
    };
    assert_eq!((&*name, Path::new(&place)), ("test", endpoint.directory.path()));
    assert_eq!(running, "none");
    assert!(waited <= start.elapsed() && waited.as_millis() >= 100);
    assert_eq!(endpoint.files(), [""; 0]);
    let missing = endpoint.file.clone().with_directory(endpoint.directory.path().join("none"));
    assert!(matches!(connect(&missing, soon()).await, Err(Error::NotRunning { .. })));
    let left = FakeServer::leave_what_a_killed_one_leaves(endpoint.directory.path());
    assert!(matches!(connect(&endpoint.file, soon()).await, Err(Error::NotRunning { .. })));
    assert_eq!(endpoint.files(), [left]);
}

#[tokio::test]
async fn a_server_that_listens_but_does_not_accept_is_not_responding() {
    let endpoint = Endpoint::new(|file| file);
    let door = endpoint.open().await;
    for deadline in [soon(), Instant::now()] {
        let error = connect(&endpoint.file, deadline).await.unwrap_err();
        let Error::NotResponding { endpoint: name, place, process_id, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((&**name, Path::new(place)), ("test", endpoint.directory.path()));
        assert_eq!(*process_id, Some(std::process::id()));
        let text = error.to_string();
        assert!(text.contains(&format!("process {} listens", std::process::id())), "{text}");
        assert_eq!(endpoint.lasting(), listening(&["test"]));
    }
    drop(door);
}

#[tokio::test]
async fn one_attempt_is_enough_for_a_server_that_is_there_and_waits_for_none() {
    let endpoint = Endpoint::new(|file| file);
    let at_once = || connect(&endpoint.file, Instant::now());
    assert!(matches!(within(at_once()).await, Err(Error::NotRunning { .. })));
    let mut door = endpoint.open().await;
    let (client, server) = within(async { tokio::join!(at_once(), door.accept()) }).await;
    let (client, _server) = (client.unwrap(), server.unwrap());
    let busy = tokio::select! {
        busy = within(at_once()) => busy.unwrap_err(),
        _ = door.accept() => panic!("there is no place"),
    };
    assert!(matches!(busy, Error::Busy { max_clients: 1, .. }), "{busy}");
    drop((client, door));
    assert!(matches!(within(at_once()).await, Err(Error::NotRunning { .. })));
}

#[tokio::test]
async fn who_finds_no_server_hears_of_those_that_are_there() {
    let endpoint = Endpoint::new(|file| file);
    let mut doors = Vec::new();
    for (number, expected) in [
        (1, "\"s1\""),
        (2, "\"s1\", \"s2\""),
        (9, "\"s7\", \"s8\", and 1 more"),
        (10, "and 2 more"),
    ] {
        while doors.len() < number {
            let other = MemoryMappedFile::new(format!("s{}", doors.len() + 1));
            let other = other.with_directory(endpoint.directory.path());
            doors.push(Door::open(&other, &ClientSlots::of(&other)).await.unwrap());
        }
        let error = connect(&endpoint.file, Instant::now()).await.unwrap_err().to_string();
        assert!(error.contains(&format!("{expected})")), "{error}");
        assert!(error.contains(endpoint.directory.path().to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn a_client_that_came_first_gets_in_when_the_server_starts() {
    let endpoint = Endpoint::new(|file| file);
    let file = endpoint.file.clone();
    let client = tokio::spawn(async move { connect(&file, far()).await });
    tokio::task::yield_now().await; // Its join request found no room.
    let mut door = endpoint.open().await;
    let server = within(door.accept()).await.unwrap();
    drop((within(client).await.unwrap().unwrap(), server));
}

#[tokio::test]
async fn a_name_belongs_to_one_live_server() {
    let endpoint = Endpoint::new(|file| file);
    let door = endpoint.open().await;
    let second = Door::open(&endpoint.file, &endpoint.slots).await.unwrap_err();
    let Error::NameInUse { endpoint: name, process_id, .. } = &second else { panic!("{second}") };
    assert_eq!((&**name, *process_id), ("test", Some(std::process::id())));
    let holder = format!("in use by process {}, ", std::process::id());
    assert!(second.to_string().contains(&holder), "{second}");
    let other = MemoryMappedFile::new("other").with_directory(endpoint.directory.path());
    let other = Door::open(&other, &ClientSlots::of(&other)).await.unwrap();
    assert_eq!(endpoint.files(), listening(&["other", "test"]));
    drop(door);
    let door = endpoint.open().await;
    drop((other, door));
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test]
async fn when_all_places_are_taken_a_client_hears_how_many_there_are() {
    let endpoint = Endpoint::new(|file| file.with_max_clients(2));
    let mut door = endpoint.open().await;
    let first = endpoint.pair(&mut door).await;
    let _second = endpoint.pair(&mut door).await;
    let busy = tokio::select! {
        busy = connect(&endpoint.file, soon()) => busy.unwrap_err(),
        _ = door.accept() => panic!("there is no place"),
    };
    let Error::Busy { max_clients: 2, .. } = busy else { panic!("{busy}") };
    // Where the system tells of its going, and not its files, that takes a moment.
    let turn = tokio::time::timeout(Duration::from_millis(50), door.accept()).await;
    assert!(turn.is_err(), "there is no place");
    drop(first);
    let _third = endpoint.pair(&mut door).await;
}

#[tokio::test]
async fn clients_get_in_in_the_order_of_asking() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let mut taken = endpoint.pair(&mut door).await;
    taken.1.first_frame();
    let mut waiting = Vec::new();
    for number in 0_u8..5 {
        let file = endpoint.file.clone();
        waiting.push(tokio::spawn(async move {
            let mut client = Peer(connect(&file, far()).await.unwrap());
            client.send(&[number]).await;
            client
        }));
        // It has asked once its pipe is there, and been heard once that is answered: then the next may. Where it has no
        // file, it is as soon as it can.
        while cfg!(unix) && endpoint.files().len() < 3 + usize::from(number) {
            tokio::task::yield_now().await;
        }
        let turn = tokio::time::timeout(Duration::from_millis(50), door.accept()).await;
        assert!(turn.is_err(), "there is no place");
    }
    let gone = waiting.remove(2); // Who has gone is passed over.
    gone.abort();
    assert!(gone.await.is_err());
    drop(taken);
    for number in [0, 1, 3, 4] {
        let mut server = Peer(within(door.accept()).await.unwrap());
        assert_eq!(within(server.recv()).await.unwrap(), [number]);
        server.first_frame();
    }
    assert_eq!(endpoint.lasting(), listening(&["test"]));
}

#[tokio::test]
async fn places_outlast_a_stop_and_a_waiting_client_outlasts_a_restart() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let (client, server) = endpoint.pair(&mut door).await;
    let file = endpoint.file.clone();
    let waiting = tokio::spawn(async move { connect(&file, far()).await });
    let turn = tokio::time::timeout(Duration::from_millis(50), door.accept()).await;
    assert!(turn.is_err(), "there is no place");
    drop(door);
    let mut door = endpoint.open().await;
    let turn = tokio::time::timeout(Duration::from_millis(50), door.accept()).await;
    assert!(turn.is_err(), "the place is still taken");
    drop((client, server));
    let accepted = within(door.accept()).await.unwrap();
    drop((within(waiting).await.unwrap().unwrap(), accepted, door));
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test]
async fn a_connection_that_ends_before_its_first_frame_leaves_nothing() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let (client, server) = endpoint.pair(&mut door).await;
    drop(server);
    let mut client = client;
    client.is_gone().await;
    assert_eq!(endpoint.lasting(), listening(&["test"]));
    drop(client);
    let (client, mut server) = endpoint.pair(&mut door).await;
    drop(client);
    server.is_gone().await;
    drop(server);
    assert_eq!(endpoint.lasting(), listening(&["test"]));
}

/// What a server says to who asks so, and is not let in.
async fn refusal(version: u8, kind: u8) -> [u8; 16] {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let head = [b"witrpc\0a", &[version, 0, 0, 0][..], &[0; 4]].concat();
    let ask = [&head[..], &[0xef; 16], &[kind], &[0; 31]].concat();
    let client = FakeClient::ask(endpoint.directory.path(), &ask);
    let answer = tokio::select! {
        answer = within(client.answer()) => answer,
        _ = door.accept() => panic!("it is refused"),
    };
    drop(endpoint.pair(&mut door).await); // It has taken no place.
    answer
}

#[tokio::test]
async fn a_server_of_another_protocol_version_refuses_with_both_versions() {
    for (version, kind) in [(1, 0), (3, 0xff), (0x63, 1)] {
        let answer = refusal(version, kind).await;
        assert_eq!(answer, *b"wita\x04\0\0\0\x02\0\0\0\0\0\0\0", "version {version}");
    }
}

/// An inspector, too, as long as no server lets one in.
#[tokio::test]
async fn a_kind_of_client_that_the_server_does_not_know_is_refused_by_its_number() {
    for kind in [0, 2, 0xff] {
        let mut expected = *b"wita\x07\0\0\0?\0\0\0\0\0\0\0";
        expected[8] = kind;
        assert_eq!(refusal(2, kind).await, expected);
    }
}

#[tokio::test]
async fn answers_that_do_not_fit_are_errors_that_say_so() {
    for (answer, expected) in [
        (
            *b"wita\x04\0\0\0\x07\0\0\0\0\0\0\0",
            "version 7 of the rendezvous protocol and this client version 2",
        ),
        (
            *b"wita\x04\0\0\0\x01\0\0\0\0\0\0\0",
            "version 1 of the rendezvous protocol and this client version 2",
        ),
        (
            *b"wita\x01\0\0\0\x01\0\0\0\0\0\0\0",
            "version 1 of the region layout and this client version 2",
        ),
        (*b"wita\x07\0\0\0\x01\0\0\0\0\0\0\0", "accepts no clients of kind 1"),
        (*b"wita\x01\0\0\0\x63\0\0\0\0\0\0\0", "version 99 of the region layout"),
        (*b"wita\x05\0\0\0\x1c\0\0\0\0\0\0\0", "could not create the files of a connection"),
        (*b"nonsense answer.", "a malformed answer to the join request"),
    ] {
        let endpoint = Endpoint::new(|file| file);
        let server = FakeServer::start(endpoint.directory.path());
        let file = endpoint.file.clone();
        let client = tokio::spawn(async move { connect(&file, far()).await });
        let mut caller = within(server.ask()).await;
        caller.answer(&answer).await;
        let error = within(client).await.unwrap().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        caller.die();
        assert_eq!(endpoint.files(), [""; 0]);
    }
}

#[tokio::test]
async fn a_server_that_dies_before_or_after_its_first_word_is_given_up_for_the_next() {
    let endpoint = Endpoint::new(|file| file);
    for word in [None, Some(*b"wita\x02\0\0\0\x01\0\0\0\0\0\0\0")] {
        let server = FakeServer::start(endpoint.directory.path());
        let file = endpoint.file.clone();
        let client = tokio::spawn(async move { connect(&file, far()).await });
        let mut caller = within(server.ask()).await;
        if let Some(word) = word {
            caller.answer(&word).await;
        }
        caller.die();
        let mut door = endpoint.open().await;
        let accepted = within(door.accept()).await.unwrap();
        drop((within(client).await.unwrap().unwrap(), accepted, door));
        assert_eq!(endpoint.files(), [""; 0]);
    }
}

#[tokio::test]
async fn a_region_that_is_not_what_it_should_be_is_refused() {
    let endpoint = Endpoint::new(|file| file);
    let server = FakeServer::start(endpoint.directory.path());
    let file = endpoint.file.clone();
    let client = tokio::spawn(async move { connect(&file, far()).await });
    let mut caller = within(server.ask()).await;
    caller.make_files(&vec![0; 1 << 20]);
    caller.answer(b"wita\x01\0\0\0\x02\0\0\0\0\0\0\0").await;
    let error = within(client).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("does not start with the magic"), "{error}");
}

#[tokio::test]
async fn a_sweep_leaves_a_live_server_and_its_clients_alone() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let (mut client, mut server) = endpoint.pair(&mut door).await;
    let before = endpoint.files();
    let other = MemoryMappedFile::new("other").with_directory(endpoint.directory.path());
    drop(Door::open(&other, &ClientSlots::of(&other)).await.unwrap());
    assert_eq!(endpoint.files(), before);
    drop(door);
    drop(Door::open(&other, &ClientSlots::of(&other)).await.unwrap());
    client.send(b"still").await;
    assert_eq!(within(server.recv()).await.unwrap(), b"still");
}

#[tokio::test]
async fn size_and_number_of_clients_are_the_servers_choice_and_the_wait_strategy_each_sides_own() {
    let endpoint = Endpoint::new(|file| file.with_size(1 << 17).with_max_clients(2));
    let mut door = endpoint.open().await;
    let own = MemoryMappedFile::new("test").with_directory(endpoint.directory.path());
    let own = own.with_size(1 << 30).with_max_clients(7).with_wait_strategy(WaitStrategy::Park);
    for _ in 0..2 {
        let (client, server) =
            within(async { tokio::join!(connect(&own, far()), door.accept()) }).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        assert_eq!(client.sender.capacity(), server.sender.capacity());
        assert!(client.sender.capacity() < 1 << 16);
        assert_eq!(
            (client.wait_strategy, server.wait_strategy),
            (WaitStrategy::Park, WaitStrategy::default())
        );
    }
    let elsewhere = own.with_directory(endpoint.directory.path().join("elsewhere"));
    assert!(matches!(connect(&elsewhere, soon()).await, Err(Error::NotRunning { .. })));
    if cfg!(unix) {
        let shared = endpoint.file.clone().with_group(54_321);
        let error = connect(&shared, soon()).await.unwrap_err().to_string();
        assert!(error.contains("with_group"), "{error}");
    }
}

/// Whose kind of event cannot be trusted with every server, a client says that it trusts this one.
#[tokio::test]
async fn events_of_raw_sync_are_used_if_both_sides_say_so() {
    let endpoint = Endpoint::new(|file| file.with_named_event(NamedEvent::RawSync));
    let mut door = endpoint.open().await;
    let (mut client, mut server) = endpoint.pair(&mut door).await;
    for number in 0_u32..200 {
        client.send(&number.to_le_bytes()).await;
        assert_eq!(within(server.recv()).await.unwrap(), number.to_le_bytes());
        server.send(&[1; 100]).await;
        assert_eq!(within(client.recv()).await.unwrap(), [1; 100]);
    }
    drop(server);
    client.is_gone().await;
    drop(client);
    let default = MemoryMappedFile::new("test").with_directory(endpoint.directory.path());
    let (client, server) =
        within(async { tokio::join!(connect(&default, far()), door.accept()) }).await;
    drop(server.unwrap());
    if cfg!(unix) {
        let error = client.unwrap_err().to_string();
        assert!(error.contains("with_named_event = Fifo"), "{error}");
    } else {
        drop(client.unwrap());
    }
    drop(door);
    assert_eq!(endpoint.files(), [""; 0]);
}

#[test]
fn a_runtime_without_io_is_an_error_that_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let endpoint = Endpoint::new(|file| file);
    let error = runtime.block_on(Door::open(&endpoint.file, &endpoint.slots)).unwrap_err();
    assert!(error.to_string().contains("enable_all"), "{error}");
    assert_eq!(endpoint.files(), [""; 0]);
}
