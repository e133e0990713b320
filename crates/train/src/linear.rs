//! Projections: `y = x W^T + b`.

use kernels::training::{Factor, Gemm};

use crate::parameters::{Id, Parameters, Role};
use crate::pass::{Pass, ROWS, Values};

/// A projection's parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    weight: Id,
    bias: Option<Id>,
    pub outputs: usize,
    pub inputs: usize,
}

impl Linear {
    /// `name` is without its ending.
    pub fn new(all: &mut Parameters, name: &str, (outputs, inputs): (usize, usize), bias: bool, role: Role) -> Linear {
        let weight = all.add(format!("{name}.weight"), &[outputs, inputs], role);
        let bias = bias.then(|| all.add(format!("{name}.bias"), &[outputs], Role::Bias));
        Linear { weight, bias, outputs, inputs }
    }

    pub fn forward(&self, pass: &Pass, x: &[f32], out: &mut [f32]) {
        Linear::forward_all(pass, x, &mut [(self, out)]);
    }

    /// Several projections of one input.
    pub fn forward_all(pass: &Pass, x: &[f32], to: &mut [(&Linear, &mut [f32])]) {
        let product = |linear: &Linear, out| Gemm {
            a: Factor::new(x, linear.inputs),
            b: Factor::new(&pass.weights[linear.weight], linear.inputs).t(),
            out,
            add: false,
        };
        let mut products: Vec<_> = to.iter_mut().map(|(linear, out)| product(linear, &mut **out)).collect();
        pass.multiply(&mut products);
        for (linear, out) in to {
            if let Some(bias) = linear.bias {
                out.chunks_mut(linear.outputs).for_each(|row| kernels::add(row, &pass.weights[bias]));
            }
        }
    }

    /// `dx =` or, where `add`, `dx +=`; and the gradients of weight and bias.
    pub fn backward(&self, pass: &Pass, x: &[f32], dy: &[f32], (dx, add): (&mut [f32], bool), gradients: &mut Values) {
        let mut d_weight = std::mem::take(&mut gradients[self.weight]);
        let dy_rows = Factor::new(dy, self.outputs);
        pass.multiply(&mut [
            Gemm { a: dy_rows, b: Factor::new(&pass.weights[self.weight], self.inputs), out: dx, add },
            Gemm { a: dy_rows.t(), b: Factor::new(x, self.inputs), out: &mut d_weight, add: true },
        ]);
        gradients[self.weight] = d_weight;
        if let Some(bias) = self.bias {
            let n = self.outputs;
            let mut sums = vec![0f32; dy.len().div_ceil(ROWS * n) * n];
            let mut parts: Vec<_> = dy.chunks(ROWS * n).zip(sums.chunks_mut(n)).collect();
            pass.pool.each(&mut parts, |(dy, sums)| dy.chunks(n).for_each(|row| kernels::add(sums, row)));
            drop(parts);
            sums.chunks(n).for_each(|part| kernels::add(&mut gradients[bias], part));
        }
    }
}
