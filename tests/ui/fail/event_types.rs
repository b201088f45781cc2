#[witrpc::service]
trait Shapes {
    #[event]
    fn nothing(&self);
    #[event]
    fn owned(&self) -> Event<u8>;
    #[event]
    fn mutable(&self) -> &mut Event<u8>;
    #[event]
    fn lifetime(&self) -> &'static Event<u8>;
    #[event]
    fn no_type(&self) -> &Event;
    #[event]
    fn two_types(&self) -> &Event<u8, u8>;
    #[event]
    fn other(&self) -> &Vec<u8>;
    #[event]
    fn result(&self) -> witrpc::Result<u8>;
}

#[witrpc::service]
trait Types {
    #[event]
    fn reference(&self) -> &Event<&str>;
    #[event]
    fn nested(&self) -> &witrpc::Event<Vec<(u8, &'static [u8])>>;
    #[event]
    fn opaque(&self) -> &Event<impl Send>;
    #[event]
    fn object(&self) -> &Event<Box<dyn std::error::Error>>;
    #[event]
    fn inferred(&self) -> &Event<_>;
    #[event]
    fn this(&self) -> &Event<Self>;
}

fn main() {}
