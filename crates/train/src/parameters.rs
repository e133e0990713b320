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
}

impl Parameter {
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
        self.list.push(Parameter { name, shape: shape.to_vec(), role });
        self.list.len() - 1
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
