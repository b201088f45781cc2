#[witrpc::service]
trait Methods {
    fn not_async(&self) -> witrpc::Result<()>;
    async fn no_receiver() -> witrpc::Result<()>;
    async fn by_value(self) -> witrpc::Result<()>;
    async fn by_mut(&mut self) -> witrpc::Result<()>;
    async fn by_arc(self: std::sync::Arc<Self>) -> witrpc::Result<()>;
    async fn by_lifetime(&'static self) -> witrpc::Result<()>;
    async fn generic<T>(&self, value: T) -> witrpc::Result<()>;
    async fn lifetime<'a>(&self) -> witrpc::Result<()>;
    async fn constrained(&self) -> witrpc::Result<()>
    where
        u8: Copy;
    async unsafe fn not_safe(&self) -> witrpc::Result<()>;
    async extern "C" fn foreign(&self) -> witrpc::Result<()>;
    const fn constant(&self) -> witrpc::Result<()>;
    async fn with_timeout(&self) -> witrpc::Result<()>;
}

fn main() {}
