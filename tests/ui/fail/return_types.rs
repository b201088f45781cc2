#[witrpc::service]
trait Returns {
    async fn nothing(&self);
    async fn unit(&self) -> ();
    async fn tuple(&self) -> (u8, u8);
    async fn reference(&self) -> &str;
    async fn opaque(&self) -> impl Send;
    async fn inner_reference(&self) -> witrpc::Result<&str>;
    async fn inner_opaque(&self) -> witrpc::Result<impl Send>;
    async fn inner_object(&self) -> Result<(), Box<dyn std::error::Error>>;
    async fn inner_self(&self) -> witrpc::Result<Self>;
}

fn main() {}
