//! Streams as arguments and results, under lints that generated code must pass.
#![deny(warnings, missing_docs, unreachable_pub, unnameable_types, unused, clippy::all)]
#![deny(elided_lifetimes_in_paths, missing_debug_implementations)]

use witrpc::__private::{ServiceClient, ServiceDescriptor};
use witrpc::Streaming;

/// A log.
#[witrpc::service]
pub trait Log {
    /// Follows.
    async fn tail(&self, from: u64) -> witrpc::Result<Streaming<String>>;
    /// Appends.
    async fn append(&self, lines: ::witrpc::Streaming<std::string::String>) -> witrpc::Result<u64>;
    /// Both, and within other types.
    #[witrpc(blocking, idempotent)]
    async fn both(
        &self,
        _: Vec<Streaming<u8>>,
        last: Option<Streaming<()>>,
    ) -> Result<(Streaming<u8>, u8), Failure>;
}

/// An error that has a stream.
#[derive(Debug, witrpc::serde::Serialize, witrpc::serde::Deserialize)]
#[serde(crate = "witrpc::serde")]
pub struct Failure(Option<Streaming<String>>);

impl From<witrpc::Error> for Failure {
    fn from(_: witrpc::Error) -> Self {
        Self(None)
    }
}

/// Generic.
#[witrpc::service(name = "Queue/text")]
pub trait Queue<V>
where
    V: witrpc::serde::Serialize + witrpc::serde::de::DeserializeOwned + Send + 'static,
{
    /// Takes.
    async fn take(&self) -> witrpc::Result<Streaming<V>>;
    /// Puts.
    async fn put(&self, values: Streaming<V>) -> witrpc::Result<()>;
}

struct Local;

impl Log for Local {
    async fn tail(&self, from: u64) -> witrpc::Result<Streaming<String>> {
        Ok(Streaming::iter((from..).map(|number| number.to_string())))
    }

    async fn append(&self, mut lines: Streaming<String>) -> witrpc::Result<u64> {
        let mut count = 0;
        while let Some(line) = lines.next().await {
            line?;
            count += 1;
        }
        Ok(count)
    }

    async fn both(
        &self,
        mut first: Vec<Streaming<u8>>,
        _last: Option<Streaming<()>>,
    ) -> Result<(Streaming<u8>, u8), Failure> {
        first.pop().map(|stream| (stream, 1)).ok_or(Failure(None))
    }
}

fn assert_log<T: Log>() {}
fn assert_spawnable<T: Send + 'static>(_: impl FnOnce(&LogClient) -> T) {}
fn assert_stream<T: Send + Sync + Unpin + 'static>() {}
fn descriptor<T: ServiceClient>() -> &'static ServiceDescriptor {
    T::descriptor()
}

fn main() {
    assert_log::<LogClient>();
    assert_log::<Local>();
    assert_stream::<Streaming<std::cell::Cell<u8>>>();
    assert_spawnable(|client| client.append(Streaming::iter([String::new()])));

    let texts: Vec<_> =
        descriptor::<LogClient>().methods.iter().map(|m| (m.signature, m.types)).collect();
    let both =
        "(Vec<Streaming<u8>>, Option<Streaming<()>>) -> Result<(Streaming<u8>, u8), Failure>";
    assert_eq!(texts[0].0, "tail(from: u64) -> Result<Streaming<String>>");
    assert_eq!(texts[1].1, "(Streaming<String>) -> Result<u64>");
    assert_eq!(texts[2].1, both);
    assert_eq!(descriptor::<QueueClient<u8>>().methods[0].types, "() -> Result<Streaming<V>>");
}
