//! A structure as bytes that stay the same from one version of this program to the next, for keys of what is kept on disk.
//!
//! Every field that the forward's numbers follow from is written with a name of its own and a fixed length; names that people read are not. The
//! patterns name all fields, so that a new one is not forgotten: give it a line here, written only where it differs from what was meant before it
//! came, and what is on disk stays found.

use crate::rope::{Pairing, Rope};

/// Takes named values.
pub struct IdentityFields<'a>(pub &'a mut dyn FnMut(&[u8]));

impl IdentityFields<'_> {
    /// Names hold no zero byte and values have eight bytes, so no two lists of fields give the same bytes.
    fn number(&mut self, name: &str, value: u64) {
        (self.0)(name.as_bytes());
        (self.0)(&[0]);
        (self.0)(&value.to_le_bytes());
    }

    pub fn size(&mut self, name: &str, value: usize) {
        self.number(name, value as u64);
    }

    /// Yes or no.
    pub fn flag(&mut self, name: &str, value: bool) {
        self.number(name, u64::from(value));
    }

    /// A number, by its bits.
    pub fn float(&mut self, name: &str, value: f32) {
        self.number(name, u64::from(value.to_bits()));
    }

    /// Nothing where there is nothing.
    pub fn optional(&mut self, name: &str, value: Option<usize>) {
        if let Some(value) = value {
            self.size(name, value);
        }
    }

    pub fn rope(&mut self, rope: &Rope) {
        let Rope { frequencies, pairing, amplitude, score_scale } = rope;
        self.size("rope.frequencies", frequencies.len());
        frequencies.iter().for_each(|&f| self.float("f", f));
        self.flag("rope.halves", matches!(pairing, Pairing::Halves));
        self.float("rope.amplitude", *amplitude);
        self.float("rope.score_scale", *score_scale);
    }
}
