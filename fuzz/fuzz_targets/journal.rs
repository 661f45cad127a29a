#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{input::Seen, journal};

fuzz_target!(|data: &[u8]| journal::run(data, &mut Seen::default()));
