#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{journal, input::Seen};

fuzz_target!(|data: &[u8]| journal::run(data, &mut Seen::default()));
