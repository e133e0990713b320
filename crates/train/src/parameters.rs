//! Parameters by the names that published checkpoints have for them.

/// What a parameter is, which decides how it is begun and which optimizer moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Multiplies a stream of activations: `[outputs, inputs]`.
    Matrix,
    /// As `Matrix`; its result is added to the stream, so that it may begin as zeros.
    Output,
    /// The router's matrix.
    Router,
    /// A row for each token.
    Embedding,
    /// The output head's rows.
    Head,
    /// The weight of a norm.
    Norm,
    /// Added to a projection.
    Bias,
    /// Added to routers' affinities for the choice of experts; moved by their load, not by a gradient.
    Choice,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name in a checkpoint.
    pub name: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// What it is.
    pub role: Role,
    /// Rows of the projections that lie one upon another in a matrix, over and over: `[nope, value]` of each head of MLA's expansion. Empty:
    /// all rows are one projection's.
    pub stack: Vec<usize>,
}

impl Parameter {
    /// Rows of each projection in a matrix, from its first row to its last.
    pub fn projections(&self) -> impl Iterator<Item = usize> {
        let rows = self.shape[0];
        let mut left = rows;
        let whole = std::slice::from_ref(&self.shape[0]);
        let stack = if self.stack.is_empty() { whole } else { &self.stack };
        stack.iter().cycle().map_while(move |&rows| {
            let rows = rows.min(left);
            left -= rows;
            (rows > 0).then_some(rows)
        })
    }

    /// Numbers.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Index of a parameter.
pub type Id = usize;

/// All parameters of a network, in a fixed order. Their numbers lie elsewhere: weights, gradients and the optimizer's state each have one
/// vector a parameter.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    list: Vec<Parameter>,
}

impl Parameters {
    pub(crate) fn add(&mut self, name: String, shape: &[usize], role: Role) -> Id {
        self.list.push(Parameter { name, shape: shape.to_vec(), role, stack: Vec::new() });
        self.list.len() - 1
    }

    /// Say what projections lie in a matrix: see `Parameter::stack`.
    pub(crate) fn stack(&mut self, id: Id, rows: &[usize]) {
        self.list[id].stack = rows.iter().copied().filter(|&rows| rows > 0).collect();
    }

    /// In their order.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.list.iter()
    }

    /// How many parameters, not numbers.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Numbers in all.
    pub fn numbers(&self) -> usize {
        self.list.iter().map(Parameter::len).sum()
    }

    /// A vector of zeros for each.
    pub fn zeros(&self) -> Vec<Vec<f32>> {
        self.list.iter().map(|p| vec![0.0; p.len()]).collect()
    }
}

impl std::ops::Index<Id> for Parameters {
    type Output = Parameter;

    fn index(&self, id: Id) -> &Parameter {
        &self.list[id]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projections_follow_each_other_until_the_rows_end() {
        let mut all = Parameters::default();
        let id = all.add("kv_b_proj.weight".to_string(), &[12, 5], Role::Matrix);
        assert_eq!(all[id].projections().collect::<Vec<_>>(), [12]);
        all.stack(id, &[1, 3]);
        assert_eq!(all[id].projections().collect::<Vec<_>>(), [1, 3, 1, 3, 1, 3]);
        all.stack(id, &[10, 0, 2]);
        assert_eq!(all[id].projections().collect::<Vec<_>>(), [10, 2]);
    }
}
