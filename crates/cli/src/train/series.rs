//! Figures of steps over tokens, as means of neighbouring steps: a log of any length is drawn by some hundred points.

use serde::Deserialize;

/// Points of a series at most; there are at least half as many where there are so many steps.
const POINTS_MAX: usize = 800;

/// Shares of all points that are averaged around each for a smooth line.
const SMOOTHED: f64 = 0.02;

/// What a step's line of the log says.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Step {
    step: u64,
    tokens: u64,
    loss: Option<f64>,
    bits_per_byte: Option<f64>,
    prediction: Option<f64>,
    norm: Option<f64>,
    rate: Option<f64>,
    tokens_per_second: Option<f64>,
    share_of_peak: Option<f64>,
    busiest_experts: Vec<f64>,
    idlest_experts: Vec<f64>,
}

impl Step {
    pub const LOSS: usize = 0;
    pub const BITS: usize = 1;
    pub const PREDICTION: usize = 2;
    pub const NORM: usize = 3;
    pub const RATE: usize = 4;
    pub const SPEED: usize = 5;
    pub const SHARE: usize = 6;

    fn figures(&self) -> [Option<f64>; 7] {
        let percent = self.share_of_peak.map(|share| 100.0 * share);
        let speed = self.tokens_per_second;
        [self.loss, self.bits_per_byte, self.prediction, self.norm, self.rate, speed, percent]
    }
}

/// A sum, and of how many.
#[derive(Clone, Copy, Default)]
struct Mean(f64, u32);

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            *self = Mean(self.0 + value, self.1 + 1);
        }
    }

    fn value(self) -> Option<f64> {
        (self.1 > 0).then(|| self.0 / f64::from(self.1))
    }
}

/// Some steps.
#[derive(Default)]
struct Bucket {
    tokens: u64,
    steps: u64,
    figures: [Mean; 7],
    busiest: Vec<Mean>,
    idlest: Vec<Mean>,
}

impl Bucket {
    fn add(&mut self, step: &Step) {
        self.tokens = step.tokens;
        self.steps += 1;
        self.figures.iter_mut().zip(step.figures()).for_each(|(mean, value)| mean.add(value));
        for (means, values) in [(&mut self.busiest, &step.busiest_experts), (&mut self.idlest, &step.idlest_experts)] {
            means.resize(means.len().max(values.len()), Mean::default());
            means.iter_mut().zip(values).for_each(|(mean, &value)| mean.add(Some(value)));
        }
    }

    fn join(&mut self, next: &Bucket) {
        self.tokens = next.tokens;
        self.steps += next.steps;
        let sum = |a: &mut Mean, b: &Mean| *a = Mean(a.0 + b.0, a.1 + b.1);
        self.figures.iter_mut().zip(&next.figures).for_each(|(a, b)| sum(a, b));
        for (own, other) in [(&mut self.busiest, &next.busiest), (&mut self.idlest, &next.idlest)] {
            own.resize(own.len().max(other.len()), Mean::default());
            own.iter_mut().zip(other).for_each(|(a, b)| sum(a, b));
        }
    }
}

/// Figures over tokens.
#[derive(Default)]
pub struct Series {
    buckets: Vec<Bucket>,
    /// Steps of a bucket.
    every: u64,
    last: (u64, u64),
}

impl Extend<Step> for Series {
    fn extend<T: IntoIterator<Item = Step>>(&mut self, steps: T) {
        for step in steps {
            self.every = self.every.max(1);
            self.last = (step.step, step.tokens);
            match self.buckets.last_mut().filter(|bucket| bucket.steps < self.every) {
                Some(bucket) => bucket.add(&step),
                None => {
                    if self.buckets.len() == POINTS_MAX {
                        self.halve();
                    }
                    let mut bucket = Bucket::default();
                    bucket.add(&step);
                    self.buckets.push(bucket);
                }
            }
        }
    }
}

impl Series {
    fn halve(&mut self) {
        self.every *= 2;
        let mut joined: Vec<Bucket> = Vec::with_capacity(POINTS_MAX);
        for (i, bucket) in std::mem::take(&mut self.buckets).into_iter().enumerate() {
            match joined.last_mut().filter(|_| i % 2 == 1) {
                Some(last) => last.join(&bucket),
                None => joined.push(bucket),
            }
        }
        self.buckets = joined;
    }

    /// The last step and its tokens.
    pub fn last(&self) -> (u64, u64) {
        self.last
    }

    /// Loss of the last steps.
    pub fn loss(&self) -> Option<f64> {
        smooth(&self.of(Step::LOSS)).last().map(|point| point.1)
    }

    /// One of the figures.
    pub fn of(&self, figure: usize) -> Vec<(f64, f64)> {
        let point = |b: &Bucket| Some((b.tokens as f64, b.figures[figure].value()?));
        self.buckets.iter().filter_map(point).collect()
    }

    /// Loads of the busiest experts, a series for each mixture.
    pub fn busiest(&self) -> Vec<Vec<(f64, f64)>> {
        self.by_mixture(|bucket| &bucket.busiest)
    }

    /// Loads of the idlest.
    pub fn idlest(&self) -> Vec<Vec<(f64, f64)>> {
        self.by_mixture(|bucket| &bucket.idlest)
    }

    fn by_mixture(&self, of: fn(&Bucket) -> &[Mean]) -> Vec<Vec<(f64, f64)>> {
        let mixtures = self.buckets.iter().map(|bucket| of(bucket).len()).max().unwrap_or(0);
        let point = |mixture: usize, b: &Bucket| Some((b.tokens as f64, of(b).get(mixture)?.value()?));
        (0..mixtures).map(|i| self.buckets.iter().filter_map(|b| point(i, b)).collect()).collect()
    }
}

/// Means of the points around each.
pub fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let around = ((points.len() as f64 * SMOOTHED / 2.0).round() as usize).max(usize::from(points.len() > 20));
    let mean = |i: usize| {
        // As far to the left as to the right: a line that falls does not begin below itself.
        let reach = around.min(i).min(points.len() - 1 - i);
        let near = &points[i - reach..=i + reach];
        near.iter().map(|point| point.1).sum::<f64>() / near.len() as f64
    };
    (0..points.len()).map(|i| (points[i].0, mean(i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_steps_is_some_points_with_their_means() {
        for steps in [1, 799, 800, 801, 5000] {
            let mut series = Series::default();
            let step = |i: u64| Step {
                step: i,
                tokens: 10 * i,
                loss: Some(i as f64),
                busiest_experts: vec![2.0, i as f64],
                ..Step::default()
            };
            series.extend((1..=steps).map(step));
            let points = series.of(Step::LOSS);
            assert!(points.len() <= POINTS_MAX && points.len() as u64 >= steps.min(400), "{steps}: {}", points.len());
            assert_eq!((series.last(), points.last().unwrap().0), ((steps, 10 * steps), 10.0 * steps as f64));
            // All but the last are of as many steps.
            let gaps = points.windows(2).map(|pair| pair[1].0 - pair[0].0);
            let gaps: Vec<f64> = gaps.take(points.len().saturating_sub(2)).collect();
            assert!(gaps.iter().all(|&gap| gap == points[0].0), "{steps}: {gaps:?}");
            // Each is the mean of the steps up to its own.
            let mut before = 0.0;
            for (tokens, loss) in points {
                assert_eq!(loss, (before + 1.0 + tokens / 10.0) / 2.0, "{steps}");
                before = tokens / 10.0;
            }
            let busiest = series.busiest();
            assert!(busiest.len() == 2 && busiest[0].iter().all(|point| point.1 == 2.0));
            assert_eq!(busiest[1], series.of(Step::LOSS));
            assert!(series.of(Step::NORM).is_empty() && series.idlest().is_empty());
        }
    }

    #[test]
    fn a_straight_line_is_smooth_already() {
        let line: Vec<(f64, f64)> = (0..500).map(|i| (i as f64, 3.0 * i as f64)).collect();
        assert_eq!(smooth(&line), line);
        let mut noisy = line.clone();
        noisy[250].1 += 11.0;
        let smoothed = smooth(&noisy);
        assert!((smoothed[250].1 - 751.0).abs() < 1e-9, "eleven points: {}", smoothed[250].1);
    }
}
