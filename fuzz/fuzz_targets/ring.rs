//! Target `ring`: the rings in a region. What it does is in `witrpc_mmf::fuzz_support`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| witrpc_mmf::fuzz_support::ring(data));
