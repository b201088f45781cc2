//! Target `handshake`: the four messages that open a session. What it does is in `witrpc_runtime::fuzz_support`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| witrpc_runtime::fuzz_support::handshake(data));
