//! Searches for the scale, and the minimum, with which quants of a group lose least. Sums are added in order and rounded one by one, as llama.cpp's
//! quantizers do, so that the same bytes are written.

/// A group whose numbers are all smaller counts as zeros.
pub(super) const ZERO: f32 = 1e-15;

/// To the nearest whole number, ties to even, of magnitudes below 2^22. Larger ones wrap.
#[inline(always)]
pub(super) fn nearest(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// The number of largest magnitude, the first of equal ones.
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0f32, |most, &x| if x.abs() > most.abs() { x } else { most })
}

/// Sums over a group of `w x l` and `w l l`: the best scale for quants `l` is their quotient.
#[derive(Clone, Copy, Default)]
struct Fit {
    xl: f32,
    ll: f32,
}

impl Fit {
    fn add(&mut self, weight: f32, x: f32, quant: i32) {
        let l = quant as f32;
        self.xl += weight * x * l;
        self.ll += weight * l * l;
    }

    fn without(self, weight: f32, x: f32, quant: i32) -> Fit {
        let l = quant as f32;
        Fit { xl: self.xl - weight * x * l, ll: self.ll - weight * l * l }
    }

    /// Whether these quants lose less than those of another fit.
    fn beats(self, other: Fit) -> bool {
        self.xl * self.xl * other.ll > other.xl * other.xl * self.ll
    }

    fn scale(self) -> f32 {
        if self.ll > 0.0 { self.xl / self.ll } else { 0.0 }
    }
}

/// `x = scale * (quant - most)` with quants from 0 to `2 most - 1`: the best of 19 scales around the one that maps the extreme to `-most`, by the
/// squared error under `weights`.
pub(super) fn symmetric(x: &[f32], weights: &[f32], most: i32, quants: &mut [u8]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < ZERO {
        quants[..x.len()].fill(0);
        return 0.0;
    }
    let quant = |inverse: f32, x: f32| nearest(inverse * x).clamp(-most, most - 1);
    let (mut scale, mut best) = (0.0, 0.0);
    for step in [0].into_iter().chain((-9..=9).filter(|&step| step != 0)) {
        let inverse = match step {
            0 => -most as f32 / extreme,
            step => -(most as f32 + 0.1 * step as f32) / extreme,
        };
        let mut fit = Fit::default();
        x.iter().zip(weights).for_each(|(&x, &w)| fit.add(w, x, quant(inverse, x)));
        // The first stands whatever it loses.
        if step == 0 || (fit.ll > 0.0 && fit.xl * fit.xl > best * fit.ll) {
            x.iter().zip(&mut *quants).for_each(|(&x, q)| *q = (quant(inverse, x) + most) as u8);
            scale = fit.scale();
            best = scale * fit.xl;
        }
    }
    scale
}

/// As `symmetric` for 3-bit quants without an importance matrix: from the scale that maps the extreme to `-most`, quants are changed one by one while
/// that loses less, where a number weighs as much as its square.
pub(super) fn symmetric_by_descent(x: &[f32], most: i32, quants: &mut [u8]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < ZERO {
        quants[..x.len()].fill(0);
        return 0.0;
    }
    let inverse = -most as f32 / extreme;
    let mut levels = [0i32; 16];
    let levels = &mut levels[..x.len()];
    let mut fit = Fit::default();
    for (level, &x) in levels.iter_mut().zip(x) {
        *level = nearest(inverse * x).clamp(-most, most - 1);
        fit.add(x * x, x, *level);
    }
    for _ in 0..5 {
        let mut changed = false;
        for (level, &x) in levels.iter_mut().zip(x) {
            let mut other = fit.without(x * x, x, *level);
            if other.xl <= 0.0 {
                continue;
            }
            let new = nearest(x * other.ll / other.xl).clamp(-most, most - 1);
            if new != *level {
                other.add(x * x, x, new);
                if other.ll > 0.0 && other.beats(fit) {
                    (*level, fit, changed) = (new, other, true);
                }
            }
        }
        if !changed {
            break;
        }
    }
    quants.iter_mut().zip(levels).for_each(|(q, level)| *q = (*level + most) as u8);
    fit.scale()
}

/// Scales that are tried for quants with a minimum: `(from + step * i + most) / range` for `i` up to `count`.
#[derive(Clone, Copy)]
pub(super) struct Trials {
    pub from: f32,
    pub step: f32,
    pub count: i32,
    /// By absolute errors, else by squared ones.
    pub absolute: bool,
}

/// What is tried under an importance matrix.
pub(super) const UNDER_IMPORTANCE: Trials = Trials { from: -0.9, step: 0.05, count: 36, absolute: false };

/// `x = scale * quant - minimum` with quants from 0 to `most` and a minimum of at least 0: scale and minimum.
pub(super) fn affine(x: &[f32], weights: &[f32], most: i32, trials: Trials, quants: &mut [u8]) -> (f32, f32) {
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (weights[0], weights[0] * x[0]);
    for (&x, &w) in x.iter().zip(weights).skip(1) {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    min = if min > 0.0 { 0.0 } else { min };
    if max <= min {
        quants[..x.len()].fill(0);
        return (0.0, -min);
    }
    let error = |scale: f32, min: f32, quants: &[u8]| {
        let mut sum = 0.0;
        for ((&x, &w), &q) in x.iter().zip(weights).zip(quants) {
            let apart = scale * f32::from(q) + min - x;
            sum += w * if trials.absolute { apart.abs() } else { apart * apart };
        }
        sum
    };
    let quantize = |inverse: f32, min: f32, quants: &mut [u8]| {
        x.iter().zip(quants).for_each(|(&x, q)| *q = nearest(inverse * (x - min)).clamp(0, most) as u8);
    };
    let inverse = most as f32 / (max - min);
    let mut scale = 1.0 / inverse;
    quantize(inverse, min, quants);
    let mut best = error(scale, min, quants);
    let mut tried = [0u8; 32];
    let tried = &mut tried[..x.len()];
    // Each trial starts from the best minimum so far.
    for i in 0..=trials.count {
        let inverse = (trials.from + trials.step * i as f32 + most as f32) / (max - min);
        quantize(inverse, min, tried);
        let (mut sum_l, mut sum_ll, mut sum_xl) = (0f32, 0f32, 0f32);
        for ((&x, &w), &q) in x.iter().zip(weights).zip(&*tried) {
            let l = f32::from(q);
            sum_l += w * l;
            sum_ll += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_ll - sum_l * sum_l;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                (this_min, this_scale) = (0.0, sum_xl / sum_ll);
            }
            let this_error = error(this_scale, this_min, tried);
            if this_error < best {
                quants[..x.len()].copy_from_slice(tried);
                (best, scale, min) = (this_error, this_scale, this_min);
            }
        }
    }
    (scale, -min)
}

/// `x = scale * quant` for numbers that are not negative, with quants up to `most`: a scale from nine trials, then quants changed one by one.
pub(super) fn positive(x: &[f32], weights: &[f32], most: i32, quants: &mut [u8]) -> f32 {
    let max = x.iter().fold(0f32, |max, &x| if max > x { max } else { x });
    if max < ZERO {
        quants[..x.len()].fill(0);
        return 0.0;
    }
    let mut inverse = most as f32 / max;
    let mut best = 0.0;
    for step in [0].into_iter().chain((-4..=4).filter(|&step| step != 0)) {
        let this = if step == 0 { inverse } else { (0.1 * step as f32 + most as f32) / max };
        let scale = 1.0 / this;
        let mut error = 0.0;
        for (&x, &w) in x.iter().zip(weights) {
            // The first trial is not limited: its largest quant is the limit.
            let quant = if step == 0 { i32::from(nearest(this * x) as u8) } else { nearest(this * x).min(most) };
            let apart = x - scale * quant as f32;
            error += w * apart * apart;
        }
        if step == 0 || error < best {
            (best, inverse) = (error, this);
        }
    }
    let mut fit = Fit::default();
    for ((&x, &w), q) in x.iter().zip(weights).zip(&mut *quants) {
        let quant = nearest(inverse * x).min(most);
        *q = quant as u8;
        fit.add(w, x, quant);
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((&x, &w), q) in x.iter().zip(weights).zip(&mut *quants) {
            let mut other = fit.without(w, x, i32::from(*q));
            if other.xl <= 0.0 || other.ll <= 0.0 {
                continue;
            }
            let new = nearest(x * other.ll / other.xl).min(most);
            if new != i32::from(*q) {
                other.add(w, x, new);
                if other.beats(fit) {
                    (*q, fit, changed) = (new as u8, other, true);
                }
            }
        }
        if !changed {
            break;
        }
    }
    fit.scale()
}

/// The weights of a group's errors under an importance matrix: importance times a mean of the number's and the block's size.
pub(super) fn importance_weights(x: &[f32], importance: &[f32], mean_square: f32, out: &mut [f32]) {
    for ((out, &x), &importance) in out.iter_mut().zip(x).zip(importance) {
        *out = importance * (mean_square + x * x).sqrt();
    }
}

/// The sum of squares, added in order.
pub(super) fn squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x)
}
