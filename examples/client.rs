//! A client of the `server` example. Start that first, or within five seconds:
//!
//! ```text
//! cargo run --release --example server
//! cargo run --release --example client
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use witrpc::prelude::*;

/// What this client calls of the server's contract.
#[witrpc::service]
pub(crate) trait Texts {
    async fn count_words(&self, text: String) -> witrpc::Result<usize>;
    async fn repeat(&self, text: String, times: usize) -> witrpc::Result<String>;
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client =
        WitClientBuilder::new().with_memory_mapped_file("MySharedMap").with_json().build()?;
    client.connect(Duration::from_secs(5)).await?;
    let texts = client.get_service::<TextsClient>();

    let text = "the quick brown fox".to_owned();
    println!("count_words({text:?}) = {}", texts.count_words(text.clone()).await?);
    println!("repeat(\"ab\", 3)       = {}", texts.repeat("ab".to_owned(), 3).await?);
    println!("repeat(\"ab\", 1000000) = {:?}", texts.repeat("ab".to_owned(), 1_000_000).await);
    println!("ping                  = {:?}", client.ping().await?);

    client.disconnect().await;
    Ok(())
}
