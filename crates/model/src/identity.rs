//! A structure as bytes that stay the same from one version of this program to the next, for keys of what is kept on disk.
//!
//! Every field that the forward's numbers follow from is written with a name of its own and a fixed length; names that people read are not. The
//! patterns name all fields, so that a new one is not forgotten: give it a line here, written only where it differs from what was meant before it
//! came, and what is on disk stays found.

use crate::structure::{Layer, Norms, Pairing, Rope, Scales, Structure};

/// Takes named values.
pub struct Fields<'a>(&'a mut dyn FnMut(&[u8]));

impl Fields<'_> {
    /// Names hold no zero byte and values have eight bytes, so no two lists of fields give the same bytes.
    fn number(&mut self, name: &str, value: u64) {
        (self.0)(name.as_bytes());
        (self.0)(&[0]);
        (self.0)(&value.to_le_bytes());
    }

    /// A size.
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

    /// A rotary embedding.
    pub fn rope(&mut self, rope: &Rope) {
        let Rope { frequencies, pairing, amplitude, score_scale } = rope;
        self.size("rope.frequencies", frequencies.len());
        frequencies.iter().for_each(|&f| self.float("f", f));
        self.flag("rope.halves", matches!(pairing, Pairing::Halves));
        self.float("rope.amplitude", *amplitude);
        self.float("rope.score_scale", *score_scale);
    }
}

impl Structure {
    /// Give `take` all that the numbers of the forward follow from besides the weights.
    pub fn identify(&self, take: &mut dyn FnMut(&[u8])) {
        // What it is called and the positions it was made for change no number: rotary frequencies are below.
        let Structure { architecture: _, vocab, hidden, layers, context: _, norm_eps, tied, scales, norms } = self;
        let fields = &mut Fields(take);
        fields.size("vocab", *vocab);
        fields.size("hidden", *hidden);
        fields.float("norm_eps", *norm_eps);
        fields.flag("tied", *tied);
        // Written where they are there, so that what is on disk of other models stays found.
        let Scales { embedding, residual, logits } = *scales;
        for (name, scale) in [("scale.embedding", embedding), ("scale.residual", residual), ("scale.logits", logits)] {
            if scale != 1.0 {
                fields.float(name, scale);
            }
        }
        let Norms { after, offset } = *norms;
        fields.optional("norms.after", after.then_some(1));
        fields.optional("norms.offset", (offset != 0.0).then_some(offset.to_bits() as usize));
        fields.size("layers", layers.len());
        for Layer { attention, feed_forward } in layers {
            attention.identify(fields);
            feed_forward.identify(fields);
        }
    }
}
