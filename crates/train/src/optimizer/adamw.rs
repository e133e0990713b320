//! Adam with weight decay apart from the gradient (arXiv 1711.05101).

/// Settings of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub rate: f64,
    /// Decay of the means of gradients and of their squares.
    pub betas: [f64; 2],
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Weight decay, in shares of the weight a unit of learning rate.
    pub decay: f64,
    /// Decay only what the step moves towards zero anyway.
    pub cautious: bool,
}

impl AdamW {
    /// Step `step` (the first is 1) of one parameter: weights `w`, gradients `g`, their mean `m`, the mean of their squares `v`.
    pub fn step(&self, step: u64, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let [b1, b2] = self.betas;
        let (c1, c2) = (1.0 - b1.powf(step as f64), 1.0 - b2.powf(step as f64));
        let size = (self.rate / c1) as f32;
        let (root, epsilon) = ((1.0 / c2.sqrt()) as f32, self.epsilon as f32);
        let keep = (1.0 - self.rate * self.decay) as f32;
        let [n1, n2] = [(1.0 - b1) as f32, (1.0 - b2) as f32];
        let [b1, b2] = [b1 as f32, b2 as f32];
        for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            *m = b1 * *m + n1 * g;
            *v = b2 * *v + n2 * g * g;
            let step = size * *m / (v.sqrt() * root + epsilon);
            let kept = if !self.cautious || step * *w > 0.0 { keep } else { 1.0 };
            *w = *w * kept - step;
        }
    }
}
