//! Every kind of format can be measured.
#![cfg(not(loom))]

use farthing_kernels::measure::product_rates;
use farthing_kernels::{Format, Pool};

#[test]
fn every_kind_of_format_has_rates() {
    let pool = Pool::new(1);
    for format in [Format::F32, Format::F8E4M3, Format::Q4K] {
        let rates = product_rates(&pool, format);
        assert!(rates.bytes.is_finite() && rates.bytes > 0.0, "{format:?} {rates:?}");
        assert!(rates.operations.is_finite() && rates.operations > 0.0, "{format:?} {rates:?}");
    }
}
