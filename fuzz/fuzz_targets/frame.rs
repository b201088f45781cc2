//! Target `frame`: headers, heads and bodies. What it does is in `witrpc_core::fuzz_support`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| witrpc_core::fuzz_support::frame(data));
