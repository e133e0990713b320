//! From gradients to weights.

mod muon;

use kernels::Pool;
use kernels::training::{AdamW, Precision, adamw, sum_of_squares};
use serde::{Deserialize, Serialize};

use crate::parameters::{Parameter, Parameters, Role};
use crate::pass::Values;

/// Which optimizer moves the matrices; AdamW moves the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Muon.
    #[default]
    Muon,
    /// AdamW, as for the rest.
    AdamW,
}

/// Settings of an optimizer. The learning rate is given with every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Of matrices.
    pub kind: Kind,
    /// Decay of Muon's momentum.
    pub momentum: f64,
    /// Decay of AdamW's means of gradients and of their squares.
    pub betas: [f64; 2],
    /// Added to the root of AdamW's mean square.
    pub epsilon: f64,
    /// Weight decay of matrices, in shares of the weight a unit of learning rate.
    pub decay: f64,
    /// Decay only what the step moves towards zero anyway (arXiv 2510.12402).
    pub cautious: bool,
    /// Factor of the learning rate for the embedding's rows.
    pub embedding_rate: f64,
    /// Of Muon's products.
    pub precision: Precision,
}

/// What an optimizer remembers: a mean of gradients for each parameter, and of their squares where AdamW moves it.
pub struct Optimizer {
    settings: Settings,
    /// Steps taken.
    pub steps: u64,
    /// Of gradients.
    pub means: Values,
    /// Of their squares; empty where Muon moves a parameter.
    pub squares: Values,
}

impl Optimizer {
    /// One that has seen nothing.
    pub fn new(settings: Settings, parameters: &Parameters) -> Optimizer {
        let squares = |p: &Parameter| if muon(&settings, p.role) { 0 } else { p.len() };
        Optimizer {
            settings,
            steps: 0,
            means: parameters.iter().map(|p| vec![0.0; if moved(p.role) { p.len() } else { 0 }]).collect(),
            squares: parameters.iter().map(|p| vec![0.0; if moved(p.role) { squares(p) } else { 0 }]).collect(),
        }
    }

    /// What it remembered after so many steps.
    ///
    /// # Errors
    /// Numbers that are not those of this optimizer.
    pub fn restore(&mut self, steps: u64, means: Values, squares: Values) -> Result<(), String> {
        let alike = |a: &Values, b: &Values| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.len() == b.len());
        if !alike(&self.means, &means) || !alike(&self.squares, &squares) {
            return Err("the optimizer's numbers are of another optimizer".to_string());
        }
        (self.steps, self.means, self.squares) = (steps, means, squares);
        Ok(())
    }

    /// One step down the gradients.
    pub fn step(&mut self, pool: &Pool, parameters: &Parameters, rate: f64, weights: &mut Values, gradients: &Values) {
        self.steps += 1;
        let (settings, steps) = (self.settings, self.steps);
        let all = parameters.iter().zip(weights).zip(gradients).zip(&mut self.means).zip(&mut self.squares);
        let (mut adam, mut matrices) = (Vec::new(), Vec::new());
        for ((((parameter, w), g), m), v) in all {
            match parameter.role {
                Role::Choice => {}
                role if muon(&settings, role) => matrices.extend(projections(parameter, w, g, m)),
                role => adam.push((role, w, g, m, v)),
            }
        }
        for (role, w, g, m, v) in adam {
            let decay = if decays(role) { settings.decay as f32 } else { 0.0 };
            let [beta1, beta2] = settings.betas.map(|b| b as f32);
            let (eps, cautious) = (settings.epsilon as f32, settings.cautious);
            let step = u32::try_from(steps).unwrap_or(u32::MAX);
            let rate = if role == Role::Embedding { rate * settings.embedding_rate } else { rate };
            let settings = AdamW { rate: rate as f32, beta1, beta2, eps, decay, cautious, step, scale: 1.0 };
            adamw(pool, &settings, w, g, (m, v));
        }
        // A matrix stays in the caches while one thread works on it (products within run on that thread); where there are few, all threads work on each.
        let alone = matrices.len() >= 2 * pool.threads();
        let step = |matrix: &mut Matrix| settings.step_matrix(pool, rate, matrix);
        if alone {
            pool.each(&mut matrices, step);
        } else {
            matrices.iter_mut().for_each(step);
        }
    }
}

/// A matrix `[rows, cols]` that Muon moves.
struct Matrix<'a> {
    rows: usize,
    cols: usize,
    weights: &'a mut [f32],
    gradient: &'a [f32],
    momentum: &'a mut [f32],
}

/// The projections that lie in a parameter, each a matrix of its own: heads differ in the size of their gradients, and so do keys and
/// values, and the larger would leave the smaller behind in one matrix (GLM-5, arXiv 2602.15763, "Muon Split"; Kimi K3, arXiv 2607.24653,
/// section 2.5).
fn projections<'a>(
    parameter: &Parameter,
    mut weights: &'a mut [f32],
    mut gradient: &'a [f32],
    mut momentum: &'a mut [f32],
) -> Vec<Matrix<'a>> {
    let cols = parameter.shape[1];
    let part = |rows: usize| {
        let numbers = rows * cols;
        Matrix {
            rows,
            cols,
            weights: weights.split_off_mut(..numbers).expect("the projection's rows"),
            gradient: gradient.split_off(..numbers).expect("the projection's rows"),
            momentum: momentum.split_off_mut(..numbers).expect("the projection's rows"),
        }
    };
    parameter.projections().map(part).collect()
}

impl Settings {
    /// A step of a matrix down its gradient.
    fn step_matrix(&self, pool: &Pool, rate: f64, matrix: &mut Matrix) {
        let Matrix { rows, cols, weights: w, gradient: g, momentum: m } = matrix;
        let (momentum, rows, cols, g) = (self.momentum as f32, *rows, *cols, *g);
        m.iter_mut().zip(g).for_each(|(m, g)| *m = momentum * *m + (1.0 - momentum) * g);
        // Nesterov's: the gradient once more beside the momentum.
        let ahead = m.iter().zip(g).map(|(m, g)| momentum * m + (1.0 - momentum) * g).collect();
        let step = muon::orthogonalise(pool, self.precision, ahead, rows, cols);
        let size = (rate * 0.2 * (rows.max(cols) as f64).sqrt()) as f32;
        let decay = (rate * self.decay) as f32;
        for (w, u) in w.iter_mut().zip(step) {
            let decayed = if !self.cautious || u * *w > 0.0 { *w * decay } else { 0.0 };
            *w -= size * u + decayed;
        }
    }
}

/// Numbers that an optimizer of this kind remembers, and those that a step of so many threads takes for a moment, at most.
pub(crate) fn numbers(kind: Kind, parameters: &Parameters, threads: usize) -> (usize, usize) {
    let (mut remembered, mut scratch) = (0, 0);
    for parameter in parameters.iter().filter(|p| moved(p.role)) {
        if orthogonalised(kind, parameter.role) {
            remembered += parameter.len();
            let largest = parameter.projections().max().unwrap_or(0);
            scratch = scratch.max(threads * muon::scratch(largest, parameter.shape[1]));
        } else {
            remembered += 2 * parameter.len();
        }
    }
    (remembered, scratch)
}

fn moved(role: Role) -> bool {
    role != Role::Choice
}

fn muon(settings: &Settings, role: Role) -> bool {
    orthogonalised(settings.kind, role)
}

fn orthogonalised(kind: Kind, role: Role) -> bool {
    kind == Kind::Muon && matches!(role, Role::Matrix | Role::Output)
}

fn decays(role: Role) -> bool {
    matches!(role, Role::Matrix | Role::Output | Role::Router | Role::Head)
}

/// Scale all gradients so that the Euclidean norm of all together is at most `most`; returns what it was.
pub fn clip(pool: &Pool, gradients: &mut [Vec<f32>], most: f64) -> f64 {
    let norm = gradients.iter().map(|g| sum_of_squares(pool, g)).sum::<f64>().sqrt();
    if norm > most {
        // As torch does, which the reference values come from.
        let factor = (most / (norm + 1e-6)) as f32;
        pool.each(gradients, |g| g.iter_mut().for_each(|g| *g *= factor));
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;
    use crate::random::Random;
    use crate::sizes::Wanted;

    const SETTINGS: Settings = Settings {
        kind: Kind::Muon,
        momentum: 0.9,
        betas: [0.8, 0.95],
        epsilon: 1e-3,
        decay: 0.3,
        cautious: true,
        embedding_rate: 3.0,
        precision: Precision::F32,
    };

    fn product(a: &[f64], b: &[f64], (rows, inner, cols): (usize, usize, usize)) -> Vec<f64> {
        let at = |i: usize, j: usize| (0..inner).map(|k| a[i * inner + k] * b[k * cols + j]).sum();
        (0..rows * cols).map(|n| at(n / cols, n % cols)).collect()
    }

    /// Newton and Schulz' iterations of a matrix, as Jordan writes them: those of a tall matrix are the same as of its transposition.
    fn orthogonal(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt() + 1e-7;
        let mut x: Vec<f64> = x.iter().map(|x| x / norm).collect();
        for _ in 0..5 {
            let t: Vec<f64> = (0..x.len()).map(|n| x[n % rows * cols + n / rows]).collect();
            let a = product(&x, &t, (rows, cols, rows));
            let square = product(&a, &a, (rows, rows, rows));
            let b: Vec<f64> = a.iter().zip(&square).map(|(a, s)| -4.7750 * a + 2.0315 * s).collect();
            let bx = product(&b, &x, (rows, rows, cols));
            x = x.iter().zip(bx).map(|(x, bx)| 3.4445 * x + bx).collect();
        }
        x
    }

    /// What a parameter's numbers are after these gradients, in f64.
    fn twin(settings: &Settings, parameter: &Parameter, w: &[f32], gradients: &[Vec<f32>], rate: f64) -> Vec<f64> {
        let role = parameter.role;
        if role == Role::Choice {
            return w.iter().map(|&w| f64::from(w)).collect();
        }
        let matrix = settings.kind == Kind::Muon && [Role::Matrix, Role::Output].contains(&role);
        let decay = if [Role::Embedding, Role::Norm, Role::Bias].contains(&role) { 0.0 } else { settings.decay };
        let [beta1, beta2] = settings.betas;
        let rate = if role == Role::Embedding { rate * settings.embedding_rate } else { rate };
        let mut w: Vec<f64> = w.iter().map(|&w| f64::from(w)).collect();
        let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        for (step, g) in (1..).zip(gradients) {
            let first = if matrix { settings.momentum } else { beta1 };
            for (i, g) in g.iter().map(|&g| f64::from(g)).enumerate() {
                m[i] = first * m[i] + (1.0 - first) * g;
                v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            }
            let moves: Vec<f64> = if matrix {
                let ahead: Vec<f64> = m.iter().zip(g).map(|(m, &g)| first * m + (1.0 - first) * f64::from(g)).collect();
                let (rows, cols) = (parameter.shape[0], parameter.shape[1]);
                let stack = if parameter.stack.is_empty() { &vec![rows] } else { &parameter.stack };
                let mut moves = Vec::new();
                for rows in stack.repeat(rows / stack.iter().sum::<usize>()) {
                    let size = 0.2 * (rows.max(cols) as f64).sqrt();
                    let part = &ahead[moves.len()..moves.len() + rows * cols];
                    moves.extend(orthogonal(part, rows, cols).iter().map(|u| size * u));
                }
                moves
            } else {
                let (full1, full2) = (1.0 - beta1.powi(step), 1.0 - beta2.powi(step));
                m.iter().zip(&v).map(|(m, v)| m / full1 / ((v / full2).sqrt() + settings.epsilon)).collect()
            };
            for (w, u) in w.iter_mut().zip(moves) {
                let decays = !settings.cautious || u * *w > 0.0;
                *w -= rate * (u + if decays { decay * *w } else { 0.0 });
            }
        }
        w
    }

    /// Three steps of every kind of parameter, against the formulas.
    #[test]
    fn steps_are_those_of_the_formulas() {
        let mut parameters = Parameters::default();
        for (role, shape) in [
            (Role::Matrix, vec![6, 10]),
            (Role::Matrix, vec![12, 5]),
            (Role::Output, vec![9, 4]),
            (Role::Router, vec![4, 6]),
            (Role::Embedding, vec![8, 6]),
            (Role::Head, vec![8, 6]),
            (Role::Norm, vec![6]),
            (Role::Bias, vec![10]),
            (Role::Choice, vec![4]),
        ] {
            parameters.add(format!("{role:?}"), &shape, role);
        }
        parameters.stack(1, &[4, 2]);
        let mut random = Random::new(&[7]);
        let mut drawn = |scale: f64| -> Values {
            let numbers = |p: &Parameter| (0..p.len()).map(|_| (scale * random.normal()) as f32).collect();
            parameters.iter().map(numbers).collect()
        };
        let begin = drawn(1.0);
        let gradients: Vec<Values> = (0..3).map(|_| drawn(0.1)).collect();
        let rate = 0.05;
        for kind in [Kind::Muon, Kind::AdamW] {
            for cautious in [true, false] {
                let settings = Settings { kind, cautious, ..SETTINGS };
                let mut optimizer = Optimizer::new(settings, &parameters);
                let mut weights = begin.clone();
                for g in &gradients {
                    optimizer.step(&Pool::new(2), &parameters, rate, &mut weights, g);
                }
                for (id, parameter) in parameters.iter().enumerate() {
                    let own: Vec<Vec<f32>> = gradients.iter().map(|g| g[id].clone()).collect();
                    let expected = twin(&settings, parameter, &begin[id], &own, rate);
                    for (i, (&found, expected)) in weights[id].iter().zip(expected).enumerate() {
                        let off = (f64::from(found) - expected).abs();
                        assert!(off < 3e-5, "{kind:?} {cautious} {:?} {i}: {found} {expected}", parameter.role);
                    }
                }
            }
        }
    }

    #[test]
    fn projections_of_heads_are_matrices_of_their_own() {
        let of = |kind, given: &[(&str, u64)]| {
            let given = given.iter().map(|(key, value)| (key.to_string(), (*value).into())).collect();
            let wanted = Wanted { kind, active: 1_000_000, vocabulary: 300, context: 64, given };
            Network::new(wanted.config().unwrap().1, false).unwrap().parameters
        };
        let of_part = |all: &Parameters, part: &str| -> Vec<usize> {
            all.iter().find(|p| p.name.ends_with(part)).unwrap().projections().take(3).collect()
        };
        let sizes = [("qk_nope_head_dim", 24), ("qk_rope_head_dim", 8), ("v_head_dim", 40), ("kv_lora_rank", 64)];
        let all = of(crate::sizes::Kind::MlaMoe, &sizes);
        assert_eq!(of_part(&all, "q_proj.weight"), [24, 8, 24]);
        assert_eq!(of_part(&all, "kv_a_proj_with_mqa.weight"), [64, 8]);
        assert_eq!(of_part(&all, "kv_b_proj.weight"), [24, 40, 24]);
        let all = of(crate::sizes::Kind::MlaMoe, &[sizes.as_slice(), &[("q_lora_rank", 48)]].concat());
        assert_eq!(of_part(&all, "q_b_proj.weight"), [24, 8, 24]);
        let all =
            of(crate::sizes::Kind::Gqa, &[("num_attention_heads", 4), ("num_key_value_heads", 2), ("head_dim", 16)]);
        assert_eq!(of_part(&all, "q_proj.weight"), [16, 16, 16]);
        assert_eq!(of_part(&all, "v_proj.weight"), [16, 16]);
    }
}
