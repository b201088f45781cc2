#[witrpc::service]
trait Events {
    #[event]
    async fn is_async(&self) -> &Event<u8>;
    #[event]
    fn arguments(&self, a: u8, b: Vec<u8>) -> &Event<u8>;
    #[event]
    fn variadic(&self, rest: ...) -> &Event<u8>;
    #[event]
    fn no_receiver() -> &Event<u8>;
    #[event]
    fn by_mut(&mut self) -> &Event<u8>;
    #[event]
    fn generic<T>(&self) -> &Event<T>;
    #[event]
    fn constrained(&self) -> &Event<u8>
    where
        u8: Copy;
    #[event]
    fn body(&self) -> &Event<u8> {
        &self.body
    }
    #[event(once)]
    fn options(&self) -> &Event<u8>;
    #[event]
    #[witrpc(blocking)]
    fn method_options(&self) -> &Event<u8>;
    #[event]
    #[cfg(all())]
    fn configured(&self) -> &Event<u8>;
    #[event]
    const fn constant(&self) -> &Event<u8>;
    #[event]
    unsafe fn not_safe(&self) -> &Event<u8>;
    #[event]
    extern "C" fn foreign(&self) -> &Event<u8>;
    #[event]
    fn with_timeout(&self) -> &Event<u8>;
    fn unmarked(&self) -> &witrpc::Event<u8>;
}

fn main() {}
