//! Continues a text with the bundled model, piece by piece: `cargo run --release -p farthing --example generate`.

use std::io::Write;

use farthing::Model;

fn main() -> Result<(), farthing::Error> {
    let model = Model::bundled()?;
    let mut options = model.options();
    options.sampling.seed = Some(1);
    options.max_tokens = 60;
    let prompt = "Once upon a time";
    print!("{prompt}");
    for piece in model.complete(prompt, &options)? {
        print!("{}", piece?);
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}
