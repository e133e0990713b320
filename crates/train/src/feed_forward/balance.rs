//! What keeps the load of experts even: a loss with a gradient (DeepSeek-V2, arXiv 2405.04434, equations 23 to 25; V3, arXiv 2412.19437,
//! equations 17 to 20), and a bias of choice that follows the load (V3, section 2.1.2).

/// How experts are kept in balance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Balance {
    /// Factor of the balance loss of each sequence; 0: none.
    pub loss: f32,
    /// What an expert's bias of choice moves by after a step; 0: it stays.
    pub bias: f32,
}

/// What a mixture's experts were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Tokens of each expert.
    pub tokens: Vec<u64>,
    /// The balance loss, its factor not applied: 1 where the load is even.
    pub loss: f64,
}

impl Load {
    /// Add that of another part of the batch. Losses are means over `tokens`.
    pub fn add(&mut self, other: &Load) {
        let total = |load: &Load| load.tokens.iter().sum::<u64>() as f64;
        let (a, b) = (total(self), total(other));
        if a + b > 0.0 {
            self.loss = (self.loss * a + other.loss * b) / (a + b);
        }
        self.tokens.resize(other.tokens.len().max(self.tokens.len()), 0);
        self.tokens.iter_mut().zip(&other.tokens).for_each(|(a, b)| *a += b);
    }

    /// The busiest expert's share of what it would have where all were equal: 1 is even.
    pub fn peak(&self) -> f64 {
        let total: u64 = self.tokens.iter().sum();
        let most = self.tokens.iter().copied().max().unwrap_or(0);
        if total == 0 { 1.0 } else { most as f64 * self.tokens.len() as f64 / total as f64 }
    }
}

/// Move the bias of choice towards experts with less than their share, and bring its mean back to zero: a mean chooses nothing, and would drift.
pub(crate) fn move_bias(bias: &mut [f32], load: &Load, by: f32) {
    let total: u64 = load.tokens.iter().sum();
    if total == 0 || by == 0.0 {
        return;
    }
    let experts = bias.len() as u64;
    for (bias, &tokens) in bias.iter_mut().zip(&load.tokens) {
        // Compared as whole numbers: an expert with just its share stays.
        match (tokens * experts).cmp(&total) {
            std::cmp::Ordering::Less => *bias += by,
            std::cmp::Ordering::Greater => *bias -= by,
            std::cmp::Ordering::Equal => {}
        }
    }
    let mean = bias.iter().map(|&b| f64::from(b)).sum::<f64>() / bias.len() as f64;
    bias.iter_mut().for_each(|b| *b = (f64::from(*b) - mean) as f32);
}

/// The balance loss of one sequence, `sum_i f_i P_i`, from each token's affinities as shares of one (`[tokens, experts]`) and the tokens of
/// each expert: `f_i = experts / (active tokens) * tokens_i`, `P_i` the mean share. `weight` times its gradient for the shares of every
/// token is the same for all tokens; it goes to `gradient`.
pub(crate) fn sequence_loss(shares: &[f32], loads: &[u64], active: usize, weight: f64, gradient: &mut [f32]) -> f64 {
    let experts = loads.len();
    let tokens = shares.len() / experts;
    let mut loss = 0.0;
    for (expert, (&load, gradient)) in loads.iter().zip(gradient).enumerate() {
        let f = (experts as u64 * load) as f64 / (active * tokens) as f64;
        let mean = shares.chunks(experts).map(|row| f64::from(row[expert])).sum::<f64>() / tokens as f64;
        loss += f * mean;
        *gradient = (weight * f / tokens as f64) as f32;
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bias_moves_towards_idle_experts_and_stays_centred() {
        let mut bias = [0.5, 0.0, 0.0, -0.5];
        move_bias(&mut bias, &Load { tokens: vec![9, 2, 4, 1], loss: 0.0 }, 0.1);
        let expected = [0.375, 0.075, -0.025, -0.425];
        let near = |bias: &[f32]| bias.iter().zip(expected).all(|(b, e)| (b - e).abs() < 1e-6);
        assert!(near(&bias), "{bias:?}");
        move_bias(&mut bias, &Load { tokens: vec![3; 4], loss: 0.0 }, 0.1);
        assert!(near(&bias), "an even load moves nothing: {bias:?}");
    }

    #[test]
    fn an_even_load_has_the_loss_one() {
        let mut gradient = [0.0; 4];
        let even = sequence_loss(&[0.25; 16], &[2, 2, 2, 2], 2, 1.0, &mut gradient);
        assert!((even - 1.0).abs() < 1e-9);
        let skewed = sequence_loss(&[0.7, 0.1, 0.1, 0.1], &[1, 1, 0, 0], 2, 1.0, &mut gradient);
        assert!((skewed - 1.6).abs() < 1e-6, "{skewed}");
    }
}
