//! What MODEL is and takes here, without reading a weight: `cargo run --release -p farthing --example plan -- MODEL [CONTEXT]`.

use farthing::names::{Silent, find_headers};
use farthing::{LoadOptions, PlannedModel, bundled, inspect};

fn main() -> Result<(), farthing::Error> {
    let mut arguments = std::env::args().skip(1);
    let (path, _headers) = match arguments.next() {
        Some(model) => find_headers(&model, &Silent)?,
        None => (bundled()?, None),
    };
    let context = arguments.next().and_then(|text| text.parse().ok());
    let planned = PlannedModel::open(&path, &LoadOptions { context, ..LoadOptions::default() })?;
    let report = inspect(&planned, false, false);
    println!("{}: {} layers, {} parameters", report.architecture, report.layers, report.parameters.total);
    println!("{}; {} available", planned.describe(), planned.available());
    println!("longest context that fits: {}", report.plan.longest_context);
    Ok(())
}
