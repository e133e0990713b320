//! Held-out stories that are read: how many bits of each byte the model had not expected

use data::generators::story::{Settings, Stories};

use crate::asking::Asking;
use crate::figures::BitsPerByte;
use crate::{EvalError, Measured};

pub(crate) fn measure(asking: &mut Asking<'_>) -> Result<Measured, EvalError> {
    let stories = Stories::new(Settings { ordered: 0.0, ..Settings::default() }).expect("sound settings");
    let texts = asking.held_out(&stories).map(|document| document.text);
    let texts: Vec<String> = texts.take(asking.settings.samples).collect();
    let scores = asking.scores(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    let bits = |(score, text): (&f64, &String)| (-score / std::f64::consts::LN_2, text.len());
    let read: Vec<(f64, usize)> = scores.iter().zip(&texts).map(bits).filter(|(bits, _)| bits.is_finite()).collect();
    Ok(Measured { bits_per_byte: BitsPerByte::of(&read), too_long: asking.too_long, ..Measured::default() })
}
