//! The backward of single rows.

/// Backward of `rms_norm`: `dx += d loss / d x`, `d_weight += d loss / d weight`, for one row whose output has the gradient `dy`.
///
/// # Panics
/// When shapes do not agree.
pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], d_weight: &mut [f32]) {
    let n = x.len();
    assert!(weight.len() == n && dy.len() == n && dx.len() == n && d_weight.len() == n);
    let squares: f32 = x.iter().map(|x| x * x).sum();
    let factor = 1.0 / (squares / n as f32 + eps).sqrt();
    let along: f32 = (0..n).map(|i| dy[i] * weight[i] * x[i]).sum();
    let back = along * factor * factor * factor / n as f32;
    for i in 0..n {
        dx[i] += dy[i] * weight[i] * factor - x[i] * back;
        d_weight[i] += dy[i] * x[i] * factor;
    }
}

/// Backward of `silu(gate) * up`: from the gradient of the result, those of both, in the places of `gate` and `up`.
///
/// # Panics
/// When shapes do not agree.
pub fn silu_mul_backward(gate: &mut [f32], up: &mut [f32], d_hidden: &[f32]) {
    assert!(gate.len() == up.len() && gate.len() == d_hidden.len());
    for ((gate, up), d) in gate.iter_mut().zip(up).zip(d_hidden) {
        let sigmoid = 1.0 / (1.0 + (-*gate).exp());
        let silu = *gate * sigmoid;
        (*gate, *up) = (d * *up * sigmoid * (1.0 + *gate - silu), d * silu);
    }
}

/// Cross-entropy of one row: `logits` become `weight * d loss / d logits`; returns the loss in nats, `weight` not applied.
///
/// # Panics
/// When the target is no logit.
pub fn cross_entropy(logits: &mut [f32], target: usize, weight: f32) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let wanted = logits[target];
    let sum: f64 = logits.iter().map(|x| f64::from((x - max).exp())).sum();
    let loss = sum.ln() as f32 + max - wanted;
    let factor = weight / sum as f32;
    for x in logits.iter_mut() {
        *x = (*x - max).exp() * factor;
    }
    logits[target] -= weight;
    loss
}
