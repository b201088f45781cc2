//! Target `session`: a whole server or client, from the handshake on. What it does is in `witrpc_runtime::fuzz_support`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let measure = |step: &mut dyn FnMut()| allocation_counter::measure(step).bytes_current;
    witrpc_runtime::fuzz_support::session(data, measure);
});
