//! What a server says about itself, and calls by name.

use std::sync::Arc;

use serde_json::json;
use witrpc::Error;

use crate::fixture::{Fixture, Security, SerializerKind};

crate::instances::instantiate![
    a_server_describes_itself,
    methods_are_called_by_name,
    who_lists_servers_sees_what_one_was_built_with,
];

async fn a_server_describes_itself(fixture: Arc<Fixture>) {
    let server = fixture
        .server_builder()
        .with_name("adder")
        .with_description("adds what it is given")
        .build()
        .unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let description = fixture.client().await.describe().await.unwrap();
    assert_eq!(description.name.as_deref(), Some("adder"));
    assert_eq!(description.description.as_deref(), Some("adds what it is given"));
    let names: Vec<_> = description.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["Calc", "Words"]);
    let calc = &description.services[0];
    assert_eq!(calc.docs, "What most tests call.");
    let make = calc.methods.iter().find(|method| method.name == "make").unwrap();
    assert_eq!(make.docs, "Text of this many bytes.");
    assert!(make.signature.starts_with("make(len: usize) -> "), "{}", make.signature);
}

async fn methods_are_called_by_name(fixture: Arc<Fixture>) {
    let _server = fixture.server().await;
    let client = fixture.client().await;
    let sum = client.call_dynamic("Calc.add", json!([2, 3])).await;
    if fixture.serializer != SerializerKind::Json {
        assert!(matches!(sum, Err(Error::Config { .. })), "{sum:?}");
        return;
    }
    assert_eq!(sum.unwrap(), json!(5));
    assert_eq!(client.call_dynamic("Calc.unit", json!([])).await.unwrap(), json!(null));
    assert_eq!(client.call_dynamic("Words.add", json!(["a", "b"])).await.unwrap(), json!("ab"));
    let fault = client.call_dynamic("Calc.divide", json!([1, 0])).await.unwrap_err();
    let text = fault.to_string();
    assert!(matches!(fault, Error::Fault { .. }), "{text}");
    assert!(text.contains("DivisionByZero") && text.contains("dividend"), "{text}");
    let text = client.call_dynamic("Calc.fails", json!(["no"])).await.unwrap_err().to_string();
    assert_eq!(text, "no");
    let odd = client.call_dynamic("Calc.add", json!(["a"])).await.unwrap_err();
    assert!(matches!(odd, Error::Deserialize { .. }), "{odd}");
    let odd = client.call_dynamic("Calc.add", json!({"a": 1})).await.unwrap_err();
    assert!(matches!(odd, Error::Serialize { .. }), "{odd}");
    let missing = client.call_dynamic("Calc.subtract", json!([])).await.unwrap_err();
    assert!(matches!(&missing, Error::NoSuchMethod { .. }), "{missing}");
    let missing = client.call_dynamic("Other.add", json!([])).await.unwrap_err();
    assert!(matches!(&missing, Error::NoSuchService { .. }), "{missing}");
    assert!(!missing.to_string().contains("introspection"), "{missing}");
    let odd = client.call_dynamic("add", json!([])).await.unwrap_err();
    assert!(matches!(odd, Error::Config { .. }), "{odd}");
}

async fn who_lists_servers_sees_what_one_was_built_with(fixture: Arc<Fixture>) {
    let Some(directory) = fixture.directory() else { return };
    let server = fixture.server().await;
    let _client = fixture.client().await;
    let [found] = &*witrpc::endpoints_in(directory).unwrap() else { panic!("there is one") };
    assert_eq!((&*found.name, found.process_id, found.clients), ("test", std::process::id(), 1));
    let program = std::env::current_exe().unwrap();
    assert_eq!(found.program.as_deref(), program.file_name().unwrap().to_str());
    assert_eq!(found.serializer.as_deref(), Some(fixture.serializer.name().trim_matches('"')));
    let encrypted = match fixture.security {
        Security::None | Security::Token => "none",
        Security::Encrypted | Security::EncryptedWithToken => "noise-aes-256-gcm",
    };
    assert_eq!(found.encryption.as_deref(), Some(encrypted));
    let authorization = match fixture.security {
        Security::None | Security::Encrypted => "none",
        Security::Token | Security::EncryptedWithToken => "token",
    };
    assert_eq!(found.authorization.as_deref(), Some(authorization));
    let later = &witrpc::endpoints_in(directory).unwrap()[0];
    assert!(later.age.unwrap() >= found.age.unwrap());
    server.stop_waiting_for_connection().await;
    assert_eq!(witrpc::endpoints_in(directory).unwrap(), []);
}
