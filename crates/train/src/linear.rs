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

    /// Its rows are several projections', one upon another: see `Parameter::stack`.
    pub fn stacking(self, all: &mut Parameters, rows: &[usize]) -> Linear {
        all.stack(self.weight, rows);
        self
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

    /// Two projections of one input, which have equal shapes, side by side: rows of `out` are twice as long.
    pub fn forward_beside(pass: &Pass, [left, right]: [&Linear; 2], x: &[f32], out: &mut [f32]) {
        let b = Linear::stacked(pass, [left, right]).t();
        pass.multiply(&mut [Gemm { a: Factor::new(x, left.inputs), b, out, add: false }]);
        if let (Some(first), Some(second)) = (left.bias, right.bias) {
            let mut rows: Vec<_> = out.chunks_mut(2 * left.outputs).collect();
            pass.pool.each(&mut rows, |row| {
                let halves = row.split_at_mut(left.outputs);
                kernels::add(halves.0, &pass.weights[first]);
                kernels::add(halves.1, &pass.weights[second]);
            });
        }
    }

    /// Backward of `forward_beside`: see `backward`.
    pub fn backward_beside(
        pass: &Pass,
        [left, right]: [&Linear; 2],
        x: &[f32],
        dy: &[f32],
        (dx, add): (&mut [f32], bool),
        gradients: &mut Values,
    ) {
        let [mut d_left, mut d_right] = [left, right].map(|linear| std::mem::take(&mut gradients[linear.weight]));
        let (n, rows, input) = (left.outputs, Factor::new(dy, 2 * left.outputs), Factor::new(x, left.inputs));
        pass.multiply(&mut [
            Gemm { a: rows, b: Linear::stacked(pass, [left, right]), out: dx, add },
            Gemm { a: rows.columns(0..n).t(), b: input, out: &mut d_left, add: true },
            Gemm { a: rows.columns(n..2 * n).t(), b: input, out: &mut d_right, add: true },
        ]);
        for (linear, d_weight, from) in [(left, d_left, 0), (right, d_right, n)] {
            gradients[linear.weight] = d_weight;
            linear.bias_backward(pass, dy.chunks(2 * n).map(|row| &row[from..from + n]), gradients);
        }
    }

    fn stacked<'a>(pass: &'a Pass, [left, right]: [&Linear; 2]) -> Factor<'a> {
        Factor::stacked(&pass.weights[left.weight], &pass.weights[right.weight], left.inputs)
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
        self.bias_backward(pass, dy.chunks(self.outputs), gradients);
    }

    /// The gradient of the bias, where there is one, from that of rows of outputs. The order of every sum is the same for any number of threads.
    fn bias_backward<'a>(&self, pass: &Pass, rows: impl Iterator<Item = &'a [f32]>, gradients: &mut Values) {
        let Some(bias) = self.bias else { return };
        let (n, rows) = (self.outputs, rows.collect::<Vec<_>>());
        let mut sums = vec![0f32; rows.len().div_ceil(ROWS) * n];
        let mut parts: Vec<_> = rows.chunks(ROWS).zip(sums.chunks_mut(n)).collect();
        pass.pool.each(&mut parts, |(rows, sums)| rows.iter().for_each(|row| kernels::add(sums, row)));
        drop(parts);
        sums.chunks(n).for_each(|part| kernels::add(&mut gradients[bias], part));
    }
}
