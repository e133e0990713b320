//! A conversation with MODEL, or the bundled model: `cargo run --release -p farthing --example chat -- [MODEL]`.

use std::io::{BufRead, Write};

use farthing::{Message, Model};

fn main() -> Result<(), farthing::Error> {
    // Chat templates of models from elsewhere run in processes of their own; this starts them.
    farthing::isolate();
    let model = match std::env::args().nth(1) {
        Some(name) => Model::open(&name)?,
        None => Model::bundled()?,
    };
    let mut messages = Vec::new();
    for line in std::io::stdin().lock().lines() {
        messages.push(Message::new("user", &line?));
        let mut text = String::new();
        for piece in model.chat(&messages, &model.options())? {
            let piece = piece?;
            print!("{piece}");
            std::io::stdout().flush()?;
            text += &piece;
        }
        println!();
        messages.push(Message::new("assistant", text.trim()));
    }
    Ok(())
}
