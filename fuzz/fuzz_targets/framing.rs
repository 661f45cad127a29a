#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{framing, input::Seen};

fuzz_target!(|data: &[u8]| framing::run(data, &mut Seen::default()));
