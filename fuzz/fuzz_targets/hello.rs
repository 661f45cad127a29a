#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{hello, input::Seen};

fuzz_target!(|data: &[u8]| hello::run(data, &mut Seen::default()));
