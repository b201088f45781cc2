//! Every behaviour over every transport, runtime and serializer that is to have it.

/// Makes tests of `async fn name(fixture: Arc<Fixture>)`, one for each combination.
macro_rules! instantiate {
    ($($test:ident),* $(,)?) => {
        crate::instances::instance!(memory_json, memory, Json, MultiThread, $($test),*);
        crate::instances::instance!(memory_message_pack, memory, MessagePack, MultiThread, $($test),*);
        crate::instances::instance!(memory_postcard, memory, Postcard, CurrentThread, $($test),*);
        crate::instances::instance!(mmf_json, mmf, Json, MultiThread, $($test),*);
        crate::instances::instance!(mmf_json_current_thread, mmf, Json, CurrentThread, $($test),*);
        crate::instances::instance!(mmf_message_pack, mmf, MessagePack, CurrentThread, $($test),*);
        crate::instances::instance!(mmf_postcard, mmf, Postcard, MultiThread, $($test),*);
        crate::instances::instance!(mmf_smallest_json, mmf_smallest, Json, MultiThread, $($test),*);
    };
}

macro_rules! instance {
    ($name:ident, $transport:ident, $serializer:ident, $flavor:ident, $($test:ident),*) => {
        mod $name {
            $(#[test]
            fn $test() {
                use crate::fixture::{Fixture, Flavor, SerializerKind, run};
                let fixture = Fixture::$transport().with(SerializerKind::$serializer);
                run(Flavor::$flavor, fixture, super::$test);
            })*
        }
    };
}

pub(crate) use {instance, instantiate};
