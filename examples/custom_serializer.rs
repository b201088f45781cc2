//! A serializer of one's own: MessagePack with the names of fields, so that programs of different age understand each
//! other. Run it with
//!
//! ```text
//! cargo run --release --example custom_serializer
//! ```
//!
//! `with_message_pack` writes a structure as an array: small, but both sides must have the same fields. With names, a field may
//! be added on one side. Here the worker is newer than its host: its order and its quote have one field more.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use witrpc::prelude::*;
use witrpc::{Serializer, SerializerError};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// MessagePack with the names of fields.
struct NamedMessagePack;

impl Serializer for NamedMessagePack {
    fn name(&self) -> &'static str {
        "message-pack-named"
    }

    fn serialize<T: Serialize + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), SerializerError> {
        rmp_serde::encode::write_named(out, value).map_err(SerializerError::new)
    }

    fn deserialize<T: DeserializeOwned + 'static>(
        &self,
        mut bytes: &[u8],
    ) -> Result<T, SerializerError> {
        let value = rmp_serde::from_read(&mut bytes).map_err(SerializerError::new)?;
        // What is left over would mean that the two sides disagree about the type.
        if bytes.is_empty() { Ok(value) } else { Err(SerializerError::new("bytes are left over")) }
    }
}

/// What the host was built with.
mod old {
    use serde::{Deserialize, Serialize};

    #[witrpc::service]
    pub(crate) trait Shop {
        async fn price(&self, order: Order) -> witrpc::Result<Quote>;
    }

    #[derive(Serialize, Deserialize)]
    pub(crate) struct Order {
        pub(crate) article: String,
        pub(crate) pieces: u32,
    }

    #[derive(Debug, Serialize, Deserialize)]
    pub(crate) struct Quote {
        pub(crate) cents: u32,
    }
}

/// What the worker was built with, later.
mod new {
    use serde::{Deserialize, Serialize};

    #[witrpc::service]
    pub(crate) trait Shop {
        async fn price(&self, order: Order) -> witrpc::Result<Quote>;
    }

    #[derive(Serialize, Deserialize)]
    pub(crate) struct Order {
        #[serde(default)]
        pub(crate) express: bool,
        pub(crate) article: String,
        pub(crate) pieces: u32,
    }

    #[derive(Serialize, Deserialize)]
    pub(crate) struct Quote {
        pub(crate) days: u32,
        pub(crate) cents: u32,
    }

    pub(crate) struct Corner;

    impl Shop for Corner {
        async fn price(&self, order: Order) -> witrpc::Result<Quote> {
            let cents = order.pieces * if order.article == "tea" { 350 } else { 900 };
            let days = if order.express { 1 } else { 4 };
            Ok(Quote { days, cents })
        }
    }
}

#[tokio::main]
async fn main() -> Outcome {
    if Agent::is_announced() {
        let agent = Agent::from_env()?.with_service(new::ShopServer::new(new::Corner));
        return Ok(agent.with_server(|s| s.with_serializer(NamedMessagePack)).run().await?);
    }
    let order = || old::Order { article: "tea".to_owned(), pieces: 3 };
    let (mut named, mut plain) = (Vec::new(), Vec::new());
    NamedMessagePack.serialize(&order(), &mut named)?;
    rmp_serde::encode::write(&mut plain, &order())?;
    println!("an order has {} bytes with names, {} without", named.len(), plain.len());

    // Another serializer than the worker's is refused, and the error names both.
    let other = Worker::this_program().with_client(WitClientBuilder::with_json).spawn().await;
    println!("with_json: {}", other.err().ok_or("it was let in")?);

    let worker = Worker::this_program().with_client(|c| c.with_serializer(NamedMessagePack));
    let worker = worker.spawn().await?;
    let shop = worker.get_service::<old::ShopClient>();
    println!("the old host hears from the new worker: {:?}", shop.price(order()).await?);
    worker.shutdown(Duration::from_secs(2)).await;
    Ok(())
}
