//! Descriptors of contracts: service, methods and events, as the macro generates them.

/// A contract: the name, methods and events of a service. The macro generates it.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "written by generated code only")]
pub struct ServiceDescriptor {
    /// The name of the service on the wire.
    pub name: &'static str,
    /// The trait's documentation.
    pub docs: &'static str,
    /// Its methods; a method is identified by its index here.
    pub methods: &'static [MethodDescriptor],
    /// Its events; an event is identified by its index here.
    pub events: &'static [EventDescriptor],
}

/// One method of a contract.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "written by generated code only")]
pub struct MethodDescriptor {
    /// Its name.
    pub name: &'static str,
    /// Its signature, for people.
    pub signature: &'static str,
    /// Its types in a normal form, which must be the same on both sides.
    pub types: &'static str,
    /// Its documentation.
    pub docs: &'static str,
    /// It blocks its thread, so it runs on the pool for blocking work.
    pub blocking: bool,
    /// Whether running it twice does no harm.
    pub idempotent: bool,
}

/// One event of a contract.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "written by generated code only")]
pub struct EventDescriptor {
    /// Its name.
    pub name: &'static str,
    /// Its name and type, for people.
    pub signature: &'static str,
    /// Its type in a normal form, which must be the same on both sides.
    pub types: &'static str,
    /// Its documentation.
    pub docs: &'static str,
}

impl EventDescriptor {
    /// The hash of the type that is compared at connect. [wire.signature]
    pub fn hash(&self) -> u64 {
        fnv1a(self.types.as_bytes())
    }
}

impl MethodDescriptor {
    /// The hash of the types that is compared at connect. [wire.signature]
    pub fn hash(&self) -> u64 {
        fnv1a(self.types.as_bytes())
    }
}

/// FNV-1a, 64 bit: stable, and sufficient to tell two texts apart.
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::fnv1a;

    /// Values published with the algorithm.
    #[test]
    fn hash_is_fnv1a() {
        assert_eq!(fnv1a(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_F739_67E8);
    }
}
