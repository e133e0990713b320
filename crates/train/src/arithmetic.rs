//! What a step computes, counted from the structure.

use crate::network::Network;

impl Network {
    /// Floating-point operations of a forward and backward a token, at a mean distance of attention: see `Step::operations`.
    pub fn operations_per_token(&self, seen: f64) -> f64 {
        let structure = &self.structure;
        let products = structure.parameters().active as f64 + self.predicted_parameters();
        // The module of multi-token prediction has one more layer, as the last.
        let predicted = structure.layers.last().filter(|_| self.predicts());
        let attention: f64 = structure
            .layers
            .iter()
            .chain(predicted)
            .map(|layer| {
                let heads = layer.attention.heads();
                (heads.count * heads.cache_width) as f64 * seen
            })
            .sum();
        6.0 * (products + attention)
    }

    /// Active parameters of the module of multi-token prediction, its use of the head included.
    fn predicted_parameters(&self) -> f64 {
        let structure = &self.structure;
        let Some(last) = structure.layers.last().filter(|_| self.predicts()) else { return 0.0 };
        let layer = last.attention.parameters(structure.hidden)
            + last.feed_forward.parameters(structure.hidden).active
            + (2 * structure.hidden * structure.hidden + structure.vocab * structure.hidden) as u64;
        layer as f64
    }
}
