//! Target `frame`: whatever decodes, encodes to the very same bytes.

use std::sync::{Arc, Mutex};

use crate::contract::introspection;
use crate::contract::route::{Route, find_by_name};
use crate::error::Error;
use crate::limits::{Limits, POOLS};
use crate::session::inbound::{Inbound, Incoming};
use crate::session::ledger::Ledger;
use crate::testing::{Pipe, PipeReceiver};
use crate::wire::fields::{Put, len_u64, u64_len};
use crate::wire::frame::{HEADER_LEN, Header};
use crate::wire::handshake::Refusal;
use crate::wire::handshake::{Accept, Confirm, Hello, Terms, Welcome};
use crate::wire::message::{HEAD_LEN, Head};
use crate::wire::status::Status;
use crate::wire::status::status_error;

/// Decodes one thing, which the first byte chooses, from the rest.
///
/// # Panics
///
/// If something decodes that does not encode to the same bytes.
pub fn frame(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    match which % 9 {
        0 => header(data),
        1 => head(data),
        2 => hello(data),
        3 => body(data, Accept::decode(data).ok(), Accept::encode),
        4 => body(data, Confirm::decode(data).ok(), Confirm::encode),
        5 => welcome(data),
        6 => texts(data),
        7 => record(data, true),
        _ => record(data, false),
    }
}

fn header(data: &[u8]) {
    if let Some(bytes) = data.first_chunk::<HEADER_LEN>() {
        if let Ok(header) = Header::decode(bytes) {
            assert_eq!(header.encode(), *bytes);
        }
    }
}

fn head(data: &[u8]) {
    let Ok(head) = Head::decode(data) else { return assert!(data.len() < HEAD_LEN) };
    assert_eq!(head.encode(), data[..HEAD_LEN]);
    assert!(head.first_section_len() >= len_u64(HEAD_LEN));
}

fn body<T>(data: &[u8], decoded: Option<T>, encode: impl FnOnce(&T, &mut Vec<u8>)) {
    let Some(decoded) = decoded else { return };
    let mut bytes = Vec::new();
    encode(&decoded, &mut bytes);
    assert_eq!(bytes, data);
}

fn hello(data: &[u8]) {
    match Hello::decode(data) {
        Ok(Ok(hello)) => {
            let ours = ["json", "none", "none"].map(str::to_owned);
            let [serializer, cipher, authorization] = ours;
            let ours = Terms { serializer, cipher, authorization };
            assert_eq!(ours.accept(&hello.terms).is_ok(), ours == hello.terms);
            body(data, Some(hello), Hello::encode);
        }
        Ok(Err(Refusal::Incompatible(_))) | Err(_) => {}
        Ok(Err(refusal)) => panic!("{refusal:?}"),
    }
}

fn welcome(data: &[u8]) {
    let Ok(welcome) = Welcome::decode(data) else { return };
    if let Ok(route) = Route::find(&welcome.catalog, &introspection::DESCRIPTOR) {
        assert!(usize::from(route.service) < welcome.catalog.services.len());
    }
    if let Some(service) = welcome.catalog.services.first() {
        if let Some(method) = service.methods.first() {
            let found = find_by_name(&welcome.catalog, &service.name, &method.name);
            assert_eq!(found.ok(), Some((0, 0)));
        }
    }
    body(data, Some(welcome), Welcome::encode);
}

/// What people read: of any length, and no UTF-8.
fn texts(data: &[u8]) {
    let Some((code, text)) = data.split_first() else { return };
    let code = u16::from(*code);
    match Refusal::decode(code, text) {
        Error::Unauthorized(_) => assert_eq!(code, 2),
        Error::Incompatible(_) => assert_ne!(code, 2),
        error => panic!("{error:?}"),
    }
    if let Some(status) = Status::from_code(code) {
        assert_eq!(status.code(), code);
        let is_value = matches!(status, Status::Ok | Status::Fault);
        assert_eq!(
            status_error(status, text, "json", || "Calc.add".to_owned()).is_none(),
            is_value
        );
    }
}

/// One record, as the first of a connection or of an open session.
fn record(data: &[u8], open: bool) {
    let mut pipe = Pipe::default();
    pipe.push(data.to_vec());
    let receiver = PipeReceiver { pipe: Arc::new(Mutex::new(pipe)), current: None };
    let ledger = Ledger::new([1; POOLS]);
    let mut inbound =
        Inbound::new(Box::new(receiver), Limits::default(), Arc::clone(&ledger), !open);
    if open {
        inbound.open();
    }
    let Ok(incoming) = inbound.receive() else { return };
    let incoming = incoming.expect("there is a record");
    let header = Header::decode(data.first_chunk().expect("a whole header")).expect("it was taken");
    assert_eq!(data.len(), HEADER_LEN + u64_len(header.len.into()));
    let payload = &data[HEADER_LEN..];
    match incoming {
        Incoming::Subscribe { id, service, event, window } => {
            assert_eq!(id, header.id);
            let mut again = Vec::new();
            again.put_u16(service);
            again.put_u16(event);
            again.put_u32(window.values);
            again.put_u64(window.bytes);
            assert_eq!(again, payload);
        }
        Incoming::EventAck { id, values } => {
            assert_eq!(u64::from(values) << 32 | u64::from(id), header.id);
        }
        Incoming::EventLag { id, number } => {
            assert_eq!((id, &number.to_le_bytes()[..]), (header.id, payload));
        }
        Incoming::Goodbye(text) | Incoming::EventEnd { reason: text, .. } => {
            // Cut to 4096 bytes, of which each may become an escape of six: \u{7f}.
            assert!(text.len() <= 6 * 4096);
            assert!(!text.contains(char::is_control));
        }
        _ => {}
    }
    inbound.check();
}
