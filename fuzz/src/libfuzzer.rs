//! All targets as one libFuzzer binary; the environment variable `FARTHING_FUZZ` names the target.
#![no_main]

mod targets;

use std::sync::OnceLock;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    let run = TARGET.get_or_init(|| {
        let name = std::env::var("FARTHING_FUZZ").unwrap_or_default();
        targets::named(&name).unwrap_or_else(|| panic!("FARTHING_FUZZ={name:?} names no target"))
    });
    run(data);
});
