//! Which values can be sent: types of every shape, and blobs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use witrpc::{Blob, Error};

use crate::fixture::{Fixture, GUARD, SerializerKind};

crate::instances::instantiate![
    options_cross,
    numbers_cross,
    structures_cross,
    large_texts_cross,
    types_that_differ_are_an_error,
    blobs_cross_anywhere,
    empty_and_many_blobs_cross,
    sixteen_mebibytes_cross_as_bytes,
    blobs_count_as_size,
    twenty_arguments_cross,
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Shape {
    Unit,
    Newtype(i8),
    Tuple(u8, String),
    Struct { name: String, inner: Option<Box<Self>> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair<A, B> {
    first: A,
    second: B,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker;

type Nested = BTreeMap<String, Vec<Option<Pair<Shape, (u16, char)>>>>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    title: String,
    pages: Vec<Blob>,
    cover: Option<Blob>,
    notes: HashMap<String, Blob>,
}

/// Everything comes back as it went.
#[witrpc::service]
pub(crate) trait Mirror {
    async fn option(&self, value: Option<u32>) -> witrpc::Result<Option<u32>>;
    async fn options(
        &self,
        a: Option<String>,
        b: Option<Option<bool>>,
        c: Option<()>,
    ) -> witrpc::Result<(Option<String>, Option<Option<bool>>, Option<()>)>;
    async fn numbers(
        &self,
        a: u64,
        b: i64,
        c: i128,
        d: u128,
    ) -> witrpc::Result<(u64, i64, i128, u128)>;
    async fn float(&self, value: f64) -> witrpc::Result<f64>;
    async fn shapes(&self, value: Vec<Shape>) -> witrpc::Result<Vec<Shape>>;
    async fn nested(&self, value: Nested) -> witrpc::Result<Nested>;
    async fn keyed(&self, value: HashMap<u32, Marker>) -> witrpc::Result<HashMap<u32, Marker>>;
    async fn array(&self, value: [Pair<(), (i32,)>; 3]) -> witrpc::Result<[Pair<(), (i32,)>; 3]>;
    async fn text(&self, value: String) -> witrpc::Result<String>;
    async fn blob(&self, value: Blob) -> witrpc::Result<Blob>;
    async fn document(&self, value: Document, extra: Blob) -> Result<Document, BlobError>;
    async fn number_of_blobs(&self, value: Vec<Blob>) -> witrpc::Result<usize>;
    async fn many(
        &self,
        a: u8,
        b: u8,
        c: u8,
        d: u8,
        e: u8,
        f: u8,
        g: u8,
        h: u8,
        i: u8,
        j: u8,
        k: u8,
        l: u8,
        m: u8,
        n: u8,
        o: u8,
        p: u8,
        q: u8,
        r: u8,
        s: u8,
        t: u8,
    ) -> witrpc::Result<Vec<u8>>;
}

/// An error that carries a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum BlobError {
    Rejected(Blob),
    Remote(String),
}

impl From<Error> for BlobError {
    fn from(error: Error) -> Self {
        Self::Remote(error.to_string())
    }
}

struct Glass;

#[rustfmt::skip]
impl Mirror for Glass {
    async fn option(&self, value: Option<u32>) -> witrpc::Result<Option<u32>> { Ok(value) }
    async fn options(&self, a: Option<String>, b: Option<Option<bool>>, c: Option<()>)
        -> witrpc::Result<(Option<String>, Option<Option<bool>>, Option<()>)> { Ok((a, b, c)) }
    async fn numbers(&self, a: u64, b: i64, c: i128, d: u128) -> witrpc::Result<(u64, i64, i128, u128)> { Ok((a, b, c, d)) }
    async fn float(&self, value: f64) -> witrpc::Result<f64> { Ok(value) }
    async fn shapes(&self, value: Vec<Shape>) -> witrpc::Result<Vec<Shape>> { Ok(value) }
    async fn nested(&self, value: Nested) -> witrpc::Result<Nested> { Ok(value) }
    async fn keyed(&self, value: HashMap<u32, Marker>) -> witrpc::Result<HashMap<u32, Marker>> { Ok(value) }
    async fn array(&self, value: [Pair<(), (i32,)>; 3]) -> witrpc::Result<[Pair<(), (i32,)>; 3]> { Ok(value) }
    async fn text(&self, value: String) -> witrpc::Result<String> { Ok(value) }
    async fn blob(&self, value: Blob) -> witrpc::Result<Blob> { Ok(value) }
    async fn document(&self, value: Document, extra: Blob) -> Result<Document, BlobError> {
        if extra.is_empty() { Ok(value) } else { Err(BlobError::Rejected(extra)) }
    }
    async fn number_of_blobs(&self, value: Vec<Blob>) -> witrpc::Result<usize> { Ok(value.len()) }
    async fn many(
        &self,
        a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8, j: u8,
        k: u8, l: u8, m: u8, n: u8, o: u8, p: u8, q: u8, r: u8, s: u8, t: u8,
    ) -> witrpc::Result<Vec<u8>> {
        Ok(vec![a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t])
    }
}

async fn connected(fixture: &Fixture) -> (witrpc::WitServer, witrpc::WitClient, MirrorClient) {
    let server =
        fixture.bare_server_builder().with_service(MirrorServer::new(Glass)).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client().await;
    let mirror = client.get_service();
    (server, client, mirror)
}

async fn options_cross(fixture: Arc<Fixture>) {
    let (_server, _client, mirror) = connected(&fixture).await;
    assert_eq!(mirror.option(None).await.unwrap(), None);
    assert_eq!(mirror.option(Some(7)).await.unwrap(), Some(7));
    let full = (Some("a".to_owned()), Some(Some(true)), None);
    assert_eq!(mirror.options(full.0.clone(), full.1, full.2).await.unwrap(), full);
    assert_eq!(mirror.options(None, None, None).await.unwrap(), (None, None, None));
}

async fn numbers_cross(fixture: Arc<Fixture>) {
    let (_server, _client, mirror) = connected(&fixture).await;
    let extremes = (u64::MAX, i64::MIN, i128::MIN, u128::MAX);
    let back = mirror.numbers(extremes.0, extremes.1, extremes.2, extremes.3).await.unwrap();
    assert_eq!(back, extremes);
    for value in [0.0, -0.0, f64::MIN_POSITIVE, f64::MAX, 1.0 / 3.0] {
        assert_eq!(mirror.float(value).await.unwrap().to_bits(), value.to_bits());
    }
    // JSON has neither; there it is an error where it is sent, and not another number.
    for value in [f64::NAN, f64::INFINITY] {
        let back = mirror.float(value).await;
        if fixture.serializer == SerializerKind::Json {
            assert!(matches!(back, Err(Error::Serialize { .. })), "{back:?}");
        } else {
            assert_eq!(back.unwrap().to_bits(), value.to_bits());
        }
    }
}

async fn structures_cross(fixture: Arc<Fixture>) {
    let (_server, _client, mirror) = connected(&fixture).await;
    let deep = Shape::Struct { name: "deep".into(), inner: Some(Box::new(Shape::Unit)) };
    let shapes = vec![Shape::Unit, Shape::Newtype(-1), Shape::Tuple(255, "é".into()), deep];
    assert_eq!(mirror.shapes(shapes.clone()).await.unwrap(), shapes);
    let pair = Pair { first: Shape::Newtype(3), second: (65535, '\u{1F980}') };
    let nested = Nested::from([("a".into(), vec![Some(pair), None]), (String::new(), vec![])]);
    assert_eq!(mirror.nested(nested.clone()).await.unwrap(), nested);
    let keyed = HashMap::from([(0, Marker), (u32::MAX, Marker)]);
    assert_eq!(mirror.keyed(keyed.clone()).await.unwrap(), keyed);
    let array = [1, 2, 3].map(|n| Pair { first: (), second: (n,) });
    assert_eq!(mirror.array(array.clone()).await.unwrap(), array);
}

async fn large_texts_cross(fixture: Arc<Fixture>) {
    let (_server, _client, mirror) = connected(&fixture).await;
    for len in [0, 1, 1000, 4072, 4096, 32_768, 100_000, 1 << 20] {
        let text = "\u{e9}\\\"\n".repeat(len / 5 + 1);
        assert!(mirror.text(text.clone()).await.unwrap() == text, "{len}");
    }
}

/// `Mirror` with other types behind the same names: the signatures agree, the types do not.
mod other {
    use super::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Shape {
        pub(crate) other: String,
    }

    #[witrpc::service(name = "Mirror")]
    pub(crate) trait Mirror {
        async fn shapes(&self, value: Vec<Shape>) -> witrpc::Result<Vec<Shape>>;
    }
}

async fn types_that_differ_are_an_error(fixture: Arc<Fixture>) {
    let (_server, client, mirror) = connected(&fixture).await;
    let odd: other::MirrorClient = client.get_service();
    let value = vec![other::Shape { other: "\u{7f}".repeat(40) }];
    let error = odd.shapes(value).await.unwrap_err();
    assert!(matches!(&error, Error::Deserialize { .. }), "{error}");
    assert!(error.to_string().contains("Mirror.shapes"), "{error}");
    // The connection goes on.
    assert_eq!(mirror.option(Some(1)).await.unwrap(), Some(1));
}

async fn blobs_cross_anywhere(fixture: Arc<Fixture>) {
    let (_server, _client, mirror) = connected(&fixture).await;
    let document = Document {
        title: "t".into(),
        pages: vec![Blob::from_static(b"one"), Blob::new(), vec![0xFF; 70_000].into()],
        cover: Some(vec![0; 3].into()),
        notes: HashMap::from([("n".to_owned(), Blob::from_static(b"note"))]),
    };
    assert_eq!(mirror.document(document.clone(), Blob::new()).await, Ok(document.clone()));
    let rejected = Blob::from(vec![7; 100_000]);
    let error = mirror.document(document, rejected.clone()).await;
    assert_eq!(error, Err(BlobError::Rejected(rejected)));
}

async fn empty_and_many_blobs_cross(fixture: Arc<Fixture>) {
    let (_server, _client, mirror) = connected(&fixture).await;
    assert_eq!(mirror.blob(Blob::new()).await.unwrap(), Blob::new());
    assert_eq!(mirror.number_of_blobs(vec![]).await.unwrap(), 0);
    assert_eq!(mirror.number_of_blobs(vec![Blob::new(); 1000]).await.unwrap(), 1000);
    let some: Vec<_> = (0..3000_u32).map(|n| Blob::from(vec![n as u8; (n % 7) as usize])).collect();
    assert_eq!(mirror.number_of_blobs(some).await.unwrap(), 3000);
}

async fn sixteen_mebibytes_cross_as_bytes(fixture: Arc<Fixture>) {
    let (_server, client, mirror) = connected(&fixture).await;
    let bytes: Vec<u8> = (0..16_u32 << 20).map(|n| (n ^ (n >> 8)) as u8).collect();
    let blob = Blob::from(bytes);
    let crossing = tokio::spawn(mirror.blob(blob.clone()));
    // As bytes, and not as text four times as long: that is all that is ever queued.
    let queued = client.load().queued_bytes;
    assert!(queued <= (16 << 20) + 1024, "{queued}");
    assert!(crossing.await.unwrap().unwrap() == blob);
}

async fn blobs_count_as_size(fixture: Arc<Fixture>) {
    let server = fixture
        .bare_server_builder()
        .with_service(MirrorServer::new(Glass))
        .with_max_message_size(10_000)
        .build()
        .unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client().await;
    let mirror: MirrorClient = client.get_service();
    // With the 64 bytes that a blob counts beside its own, and its reference in the body.
    assert_eq!(mirror.blob(vec![1; 9_900].into()).await.unwrap().len(), 9_900);
    let error = mirror.blob(vec![1; 9_940].into()).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 10_000, .. }), "{error}");
    // So many empty ones are not nothing.
    let error = mirror.number_of_blobs(vec![Blob::new(); 160]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 10_000, .. }), "{error}");
    let error = mirror.blob(vec![1; 10_000].into()).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 10_000, .. }), "{error}");
}

async fn twenty_arguments_cross(fixture: Arc<Fixture>) {
    let (_server, _client, mirror) = connected(&fixture).await;
    let back = mirror.many(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19);
    assert_eq!(back.await.unwrap(), (0..20).collect::<Vec<u8>>());
}

/// A blob outside a message is bytes, whatever the format.
#[test]
fn a_blob_in_a_file_is_bytes() {
    fn there_and_back<T: Serialize + DeserializeOwned>(value: &T) -> Vec<T> {
        let json = serde_json::to_vec(value).unwrap();
        let pack = rmp_serde::to_vec(value).unwrap();
        let card = postcard::to_stdvec(value).unwrap();
        vec![
            serde_json::from_slice(&json).unwrap(),
            rmp_serde::from_slice(&pack).unwrap(),
            postcard::from_bytes(&card).unwrap(),
        ]
    }
    let blob = Blob::from(vec![0, 1, 254, 255]);
    assert_eq!(there_and_back(&blob), vec![blob; 3]);
    assert!(GUARD.as_secs() > 0);
}
