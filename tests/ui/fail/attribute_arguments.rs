#[witrpc::service(nmae = "Calc", "Calc", name = 5, crate = "witrpc")]
trait Unknown {}

#[witrpc::service(name)]
trait NoValue {}

#[witrpc::service(name = "Calc" crate = ::witrpc)]
trait NoComma {}

#[witrpc::service(name = "")]
trait EmptyName {}

#[witrpc::service(name = "ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé")]
trait LongName {}

#[witrpc::service(name = "two\nlines")]
trait ControlCharacter {}

#[witrpc::service]
trait Store<K, const N: usize> {}

fn main() {}
