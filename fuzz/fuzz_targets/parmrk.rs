#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{input::Seen, parmrk};

fuzz_target!(|data: &[u8]| parmrk::run(data, &mut Seen::default()));
