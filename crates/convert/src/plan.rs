//! What a GGUF file will hold: keys, and tensors with their formats and where their numbers come from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kernels::Format;
use model::families::to_gguf::{GgufKeys, GgufPlace, gguf_keys, gguf_place};
use model::gguf::{self, Metadata, TypedValue};
use model::structure::{Attention, Structure};
use model::tensors::{Kind, Stored, Tensors};
use model::weight::Weight;
use model::{Checkpoint, CheckpointError};

use crate::error::ConvertError;
use crate::gguf_file::text;
use crate::mix::{Mix, ModelFacts, is_quantized, order};
use crate::source::{Source, permuted_row};

/// A tensor to write.
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The format it gets.
    pub format: Format,
    /// Its numbers.
    pub source: Source,
}

impl Planned {
    /// Rows and columns, all dimensions but the last together.
    pub(crate) fn matrix(&self) -> (usize, usize) {
        let cols = self.shape.last().copied().unwrap_or(1);
        (self.shape.iter().rev().skip(1).product(), cols)
    }

    /// Rows of each matrix of a stack, or of the one.
    pub(crate) fn rows_of_a_matrix(&self) -> usize {
        self.shape.iter().rev().nth(1).copied().unwrap_or(1)
    }

    /// Bytes in its format.
    pub fn bytes(&self) -> usize {
        let (rows, cols) = self.matrix();
        self.format.row_bytes(cols).expect("whole blocks, as planned") * rows
    }
}

/// A GGUF file to write.
pub struct GgufPlan {
    /// The source, for messages.
    pub from: PathBuf,
    /// Metadata in order.
    pub keys: Vec<(String, TypedValue)>,
    /// Tensors in order.
    pub tensors: Vec<Planned>,
    /// What the choice of formats follows from.
    pub facts: ModelFacts,
    /// Importance of each column, by tensor.
    importance: BTreeMap<String, Vec<f32>>,
    /// Tensors whose blocks are rounded a second time.
    pub rounded_again: usize,
}

impl GgufPlan {
    /// The file of a checkpoint, every tensor as it is stored until `choose` is called.
    ///
    /// # Errors
    /// A model that cannot be written.
    pub fn new(checkpoint: &Checkpoint) -> Result<GgufPlan, ConvertError> {
        checkpoint.complete()?;
        match checkpoint.kind {
            Kind::Safetensors => from_directory(checkpoint),
            Kind::Gguf => from_gguf(checkpoint),
        }
    }

    /// A file of keys and of numbers that are made.
    pub(crate) fn of_numbers(
        from: &std::path::Path,
        keys: Vec<(String, TypedValue)>,
        tensors: Vec<Planned>,
    ) -> GgufPlan {
        let facts = ModelFacts { architecture: String::new(), layers: 0, heads: [0; 2], experts: 0, importance: false };
        GgufPlan { from: from.to_path_buf(), keys, tensors, facts, importance: BTreeMap::new(), rounded_again: 0 }
    }

    /// Chooses the formats of a mix, and takes an importance matrix for them (empty: none).
    ///
    /// # Errors
    /// A mix that needs importance without any, or importance that is not of this model.
    pub fn choose(&mut self, mix: Mix, importance: BTreeMap<String, Vec<f32>>) -> Result<(), ConvertError> {
        self.facts.importance = !importance.is_empty();
        if mix.wants_importance() && importance.is_empty() {
            let what = format!("{} needs an importance matrix: give --imatrix, or choose Q2_K", mix.name);
            return Err(ConvertError::refused(&self.from, what));
        }
        self.check_importance(&importance)?;
        let tensors: Vec<(&str, &[usize])> = self.tensors.iter().map(|t| (&*t.name, &*t.shape)).collect();
        let formats = mix.formats(&self.facts, &tensors);
        self.rounded_again = 0;
        for (tensor, format) in self.tensors.iter_mut().zip(formats) {
            let stored = tensor.format;
            tensor.format = format.unwrap_or(stored);
            let blocks = |format: Format| format.wants_quantized_input();
            self.rounded_again += usize::from(blocks(stored) && blocks(tensor.format) && stored != tensor.format);
        }
        self.importance = importance;
        self.set("general.quantization_version", TypedValue::U32(2));
        self.set("general.file_type", TypedValue::U32(mix.file_type));
        Ok(())
    }

    fn check_importance(&self, importance: &BTreeMap<String, Vec<f32>>) -> Result<(), ConvertError> {
        let mut found = 0;
        for tensor in &self.tensors {
            let Some(columns) = importance.get(&tensor.name) else { continue };
            found += 1;
            let (rows, cols) = tensor.matrix();
            let matrices = rows / tensor.rows_of_a_matrix();
            if columns.len() != cols && columns.len() != cols * matrices {
                let what = format!(
                    "the importance matrix has {} numbers for tensor {}, which has {matrices} x {cols} columns: it is of another model",
                    columns.len(),
                    tensor.name
                );
                return Err(ConvertError::refused(&self.from, what));
            }
            if let Some(bad) = columns.iter().find(|x| !x.is_finite() || **x < 0.0) {
                let what = format!("the importance matrix has {bad} for tensor {}: compute it again", tensor.name);
                return Err(ConvertError::refused(&self.from, what));
            }
        }
        if found == 0 && !importance.is_empty() {
            let what = "the importance matrix names none of its tensors: it is of another model";
            return Err(ConvertError::refused(&self.from, what));
        }
        Ok(())
    }

    pub(crate) fn importance_of(&self, tensor: &Planned) -> Option<&[f32]> {
        self.importance.get(&tensor.name).map(Vec::as_slice)
    }

    /// Weights of all tensors.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(|t| t.shape.iter().product::<usize>() as u64).sum()
    }

    /// Bytes of all tensors in their formats.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes() as u64).sum()
    }

    /// Puts a key in the place of one of its name, or behind all others.
    pub fn set(&mut self, key: &str, value: TypedValue) {
        match self.keys.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_string(), value)),
        }
    }
}

fn stored(checkpoint: &Checkpoint, name: &str) -> Result<Weight, CheckpointError> {
    checkpoint.tensors.rows(name)
}

/// A GGUF file again: keys as they stand, but for those of a split.
fn from_gguf(checkpoint: &Checkpoint) -> Result<GgufPlan, ConvertError> {
    let first = checkpoint.tensors.files.first().expect("a checkpoint has files");
    let metadata: Metadata = gguf::read_mapped(first, &mut Tensors::default())?;
    let bytes = first.bytes();
    let keys = metadata.places.iter().filter(|(key, _)| !key.starts_with("split.") && key != "general.alignment");
    let keys = keys.map(|(key, place)| (key.clone(), TypedValue::Bytes(bytes[place.clone()].to_vec()))).collect();
    let mut tensors = Vec::new();
    for (name, tensor) in &checkpoint.tensors.by_name {
        let Stored::As(format) = tensor.stored else {
            let what = format!("tensor {name} is of a type that is not read");
            return Err(CheckpointError::unsupported(&checkpoint.path, what).into());
        };
        if tensor.shape.contains(&0) {
            let what = format!("tensor {name} of shape {:?}, which holds no number", tensor.shape);
            return Err(CheckpointError::unsupported(&checkpoint.path, what).into());
        }
        let weight = stored(checkpoint, name)?;
        tensors.push(Planned {
            name: name.clone(),
            shape: tensor.shape.clone(),
            format,
            source: Source::Rows(vec![weight]),
        });
    }
    tensors.sort_by(|a, b| order(&a.name).cmp(&order(&b.name)));
    let architecture = metadata.values.get("general.architecture").and_then(gguf::Value::text).unwrap_or_default();
    let count = |key: &str| {
        let value = metadata.values.get(&format!("{architecture}.{key}"));
        value.and_then(gguf::Value::number).map_or(0, |n| n as usize)
    };
    let heads = count("attention.head_count");
    let key_heads = match metadata.values.contains_key(&format!("{architecture}.attention.head_count_kv")) {
        true => count("attention.head_count_kv"),
        false => heads,
    };
    let facts = ModelFacts {
        architecture: architecture.to_string(),
        layers: count("block_count"),
        heads: [heads, key_heads],
        experts: count("expert_count"),
        importance: false,
    };
    Ok(GgufPlan { from: checkpoint.path.clone(), keys, tensors, facts, importance: BTreeMap::new(), rounded_again: 0 })
}

/// A Hugging Face directory: keys from its configuration, tensors by their new names, experts together, vectors in f32.
fn from_directory(checkpoint: &Checkpoint) -> Result<GgufPlan, ConvertError> {
    let path = &checkpoint.path;
    let structure = &checkpoint.structure;
    if checkpoint.purpose != model::checkpoint::Purpose::Generate {
        return Err(CheckpointError::unsupported(path, "a model that embeds or scores texts, as a GGUF file").into());
    }
    let config = model::checkpoint::configuration(path)?;
    let GgufKeys { architecture, keys: of_architecture, permuted, rope_factors } =
        gguf_keys(&path.join("config.json"), &config, structure)?;
    let name = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_string()));
    let mut keys = vec![
        text("general.architecture", architecture),
        text("general.type", "model"),
        text("general.name", name.unwrap_or_else(|| "model".to_string())),
    ];
    keys.extend(of_architecture);
    let mut tensors = Directory { checkpoint, permuted, tensors: Vec::new(), stacks: BTreeMap::new() };
    for name in checkpoint.tensors.by_name.keys() {
        tensors.take(name)?;
    }
    tensors.finish()?;
    let mut tensors = tensors.tensors;
    if let Some(factors) = rope_factors {
        let (name, shape) = ("rope_freqs.weight".to_string(), vec![factors.len()]);
        tensors.push(Planned { name, shape, format: Format::F32, source: Source::Numbers(factors) });
    }
    tensors.sort_by(|a, b| order(&a.name).cmp(&order(&b.name)));
    let facts = ModelFacts {
        architecture: architecture.to_string(),
        layers: structure.layers.len(),
        heads: heads(structure),
        experts: structure.layers.iter().filter_map(|l| l.feed_forward.experts()).map(|(n, _)| n).max().unwrap_or(0),
        importance: false,
    };
    Ok(GgufPlan { from: path.clone(), keys, tensors, facts, importance: BTreeMap::new(), rounded_again: 0 })
}

/// Query heads and key/value heads, as the file's keys have them.
fn heads(structure: &Structure) -> [usize; 2] {
    match structure.layers.first().map(|layer| &layer.attention) {
        Some(Attention::Gqa(gqa)) => [gqa.heads, gqa.kv_heads],
        Some(Attention::Mla(mla)) => [mla.heads, 1],
        None => [0, 0],
    }
}

/// Tensors of a directory on their way to a file.
struct Directory<'a> {
    checkpoint: &'a Checkpoint,
    permuted: bool,
    tensors: Vec<Planned>,
    /// Experts' matrices by the tensor that will hold them.
    stacks: BTreeMap<String, BTreeMap<usize, Weight>>,
}

impl Directory<'_> {
    fn push(&mut self, name: String, shape: Vec<usize>, stored: Format, source: Source) {
        // Vectors and routers are small, and programs want them in f32.
        let format = if is_quantized(&name, shape.len()) { stored } else { Format::F32 };
        self.tensors.push(Planned { name, shape, format, source });
    }

    fn take(&mut self, name: &str) -> Result<(), ConvertError> {
        let structure = &self.checkpoint.structure;
        let Some(place) = gguf_place(name, structure.layers.len()) else {
            let what = format!("tensor {name} has no place in a GGUF file");
            return Err(CheckpointError::unsupported(&self.checkpoint.path, what).into());
        };
        // A tied head repeats the embedding.
        if name == "lm_head.weight" && structure.head == model::structure::Head::Tied {
            return Ok(());
        }
        match place {
            GgufPlace::Nowhere => {}
            GgufPlace::Whole { name: to, keys } => {
                let weight = stored(self.checkpoint, name)?;
                let shape = self.checkpoint.tensors.by_name[name].shape.clone();
                let [queries, key_heads] = heads(structure);
                let heads = keys.filter(|_| self.permuted).map(|keys| if keys { key_heads } else { queries });
                let (format, source) = match heads {
                    None => (weight.format, Source::Rows(vec![weight])),
                    Some(heads) if shape.len() == 1 => {
                        let mut numbers = vec![0f32; shape[0]];
                        weight.matrix().decode_row(0, &mut numbers);
                        let width = shape[0] / heads;
                        let numbers = (0..shape[0]).map(|i| numbers[permuted_row(i, width)]).collect();
                        (Format::F32, Source::Numbers(numbers))
                    }
                    Some(heads) => (weight.format, Source::Permuted(weight, heads)),
                };
                self.push(to, shape, format, source);
            }
            GgufPlace::Expert { name: stack, expert } => {
                let weight = stored(self.checkpoint, name)?;
                self.stacks.entry(stack).or_default().insert(expert, weight);
            }
            GgufPlace::Expansion { names } => self.expansion(name, names)?,
        }
        Ok(())
    }

    /// Keys `[heads, rank, nope]` and values `[heads, value, rank]` of MLA's expansion.
    fn expansion(&mut self, name: &str, [keys, values]: [String; 2]) -> Result<(), ConvertError> {
        let joint = stored(self.checkpoint, name)?;
        let Some(Attention::Mla(mla)) = self.checkpoint.structure.layers.first().map(|layer| &layer.attention) else {
            let what = format!("tensor {name} of a model without latent attention");
            return Err(CheckpointError::unsupported(&self.checkpoint.path, what).into());
        };
        let (heads, head) = (mla.heads, mla.nope_dim + mla.value_dim);
        let k = (0..heads).map(|h| joint.view(h * head, mla.nope_dim)).collect();
        let v = (0..heads).map(|h| joint.view(h * head + mla.nope_dim, mla.value_dim)).collect();
        let (rank, nope, value) = (mla.kv_rank, mla.nope_dim, mla.value_dim);
        self.push(keys, vec![heads, rank, nope], joint.format, Source::Transposed(k));
        self.push(values, vec![heads, value, rank], joint.format, Source::Rows(v));
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConvertError> {
        for (name, experts) in std::mem::take(&mut self.stacks) {
            // `complete` has seen every expert's tensor.
            let weights: Vec<Weight> = experts.into_values().collect();
            let first = &weights[0];
            let (shape, format) = (vec![weights.len(), first.rows, first.cols], first.format);
            self.push(name, shape, format, Source::Rows(weights));
        }
        Ok(())
    }
}
