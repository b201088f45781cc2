//! Runs each behaviour of the suite over every transport, runtime and serializer that must have it.

/// Makes tests of `async fn name(fixture: Arc<Fixture>)`, one for each combination.
macro_rules! instantiate {
    ($($test:ident),* $(,)?) => {
        crate::instances::instance!(memory_json, memory, Json, None, MultiThread, $($test),*);
        crate::instances::instance!(memory_message_pack, memory, MessagePack, None, MultiThread, $($test),*);
        crate::instances::instance!(memory_postcard, memory, Postcard, None, CurrentThread, $($test),*);
        crate::instances::instance!(mmf_json, mmf, Json, None, MultiThread, $($test),*);
        crate::instances::instance!(mmf_json_current_thread, mmf, Json, None, CurrentThread, $($test),*);
        crate::instances::instance!(mmf_message_pack, mmf, MessagePack, None, CurrentThread, $($test),*);
        crate::instances::instance!(mmf_postcard, mmf, Postcard, None, MultiThread, $($test),*);
        crate::instances::instance!(mmf_smallest_json, mmf_smallest, Json, None, MultiThread, $($test),*);
        crate::instances::instance!(mmf_dedicated_threads, mmf_dedicated_threads, Postcard, None, CurrentThread, $($test),*);
        crate::instances::instance!(mmf_raw_sync_json, mmf_raw_sync, Json, None, MultiThread, $($test),*);
        crate::instances::instance!(mmf_raw_sync_encrypted, mmf_raw_sync, Postcard, EncryptedWithToken, CurrentThread, $($test),*);
        #[cfg(unix)]
        crate::instances::instance!(inherited_json, inherited, Json, None, MultiThread, $($test),*);
        #[cfg(unix)]
        crate::instances::instance!(inherited_postcard_encrypted, inherited, Postcard, EncryptedWithToken, CurrentThread, $($test),*);
        crate::instances::instance!(memory_json_encrypted, memory, Json, EncryptedWithToken, MultiThread, $($test),*);
        crate::instances::instance!(mmf_postcard_encrypted, mmf, Postcard, Encrypted, MultiThread, $($test),*);
        crate::instances::instance!(mmf_message_pack_token, mmf, MessagePack, Token, CurrentThread, $($test),*);
        crate::instances::instance!(mmf_smallest_encrypted, mmf_smallest, Json, EncryptedWithToken, CurrentThread, $($test),*);
    };
}

macro_rules! instance {
    ($name:ident, $transport:ident, $serializer:ident, $security:ident, $flavor:ident, $($test:ident),*) => {
        mod $name {
            $(#[test]
            fn $test() {
                use crate::fixture::{Fixture, Flavor, Security, SerializerKind, run};
                let fixture = Fixture::$transport()
                    .with(SerializerKind::$serializer)
                    .secured(Security::$security);
                run(Flavor::$flavor, fixture, super::$test);
            })*
        }
    };
}

pub(crate) use {instance, instantiate};
