#[witrpc::service]
trait Types {
    async fn text(&self, text: &str) -> witrpc::Result<()>;
    async fn slice(&self, items: &[std::string::String]) -> witrpc::Result<()>;
    async fn path(&self, path: &std::path::Path) -> witrpc::Result<()>;
    async fn nested(&self, items: Vec<(u8, Option<&'static mut u32>)>) -> witrpc::Result<()>;
    async fn borrowed(&self, text: std::borrow::Cow<'_, str>) -> witrpc::Result<()>;
    async fn opaque(&self, items: impl Iterator<Item = u8>) -> witrpc::Result<()>;
    async fn object(&self, error: Box<dyn std::error::Error>) -> witrpc::Result<()>;
    async fn this(&self, other: Self, others: [Vec<Self>; 2]) -> witrpc::Result<()>;
    async fn inferred(&self, items: Vec<_>) -> witrpc::Result<()>;
    async fn pointer(&self, items: *const u8) -> witrpc::Result<()>;
    async fn function(&self, callback: fn(u8) -> u8) -> witrpc::Result<()>;
}

fn main() {}
