//! Mixes: which format each tensor gets, tensor for tensor as llama.cpp's `llama-quantize` chooses.
//!
//! A mix has a base format. Tensors that cost the model most where they are rounded get more bits: the output (and the embedding where it is the output too),
//! values of attention, the second half of feed-forward in the first and last layers. Rows that are no whole number of blocks get a format of smaller blocks.

use kernels::Format;

/// A mix of formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// The name people know it by.
    pub name: &'static str,
    /// `general.file_type` of such files.
    pub file_type: u32,
    /// The format of most weights.
    pub base: Format,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One format; block formats keep six bits or more for the output.
    One,
    /// Small, medium, large.
    S,
    M,
    L,
    /// The mix that bears the format's name alone: `Q2_K`.
    Plain,
    /// Experts in the base format, all else in `Q8_0`.
    Experts,
}

const fn mix(name: &'static str, file_type: u32, base: Format, kind: Kind) -> Mix {
    Mix { name, file_type, base, kind }
}

/// Every mix that can be written, the smallest first.
pub const MIXES: [Mix; 21] = [
    mix("Q2_K_S", 21, Format::Q2K, Kind::S),
    mix("Q2_K", 10, Format::Q2K, Kind::Plain),
    mix("Q3_K_S", 11, Format::Q3K, Kind::S),
    mix("Q3_K_M", 12, Format::Q3K, Kind::M),
    mix("Q3_K_L", 13, Format::Q3K, Kind::L),
    mix("IQ4_XS", 30, Format::Iq4Xs, Kind::One),
    mix("IQ4_NL", 25, Format::Iq4Nl, Kind::One),
    mix("MXFP4_MOE", 38, Format::Mxfp4, Kind::Experts),
    mix("Q4_0", 2, Format::Q4_0, Kind::One),
    mix("Q4_1", 3, Format::Q4_1, Kind::One),
    mix("Q4_K_S", 14, Format::Q4K, Kind::S),
    mix("Q4_K_M", 15, Format::Q4K, Kind::M),
    mix("Q5_0", 8, Format::Q5_0, Kind::One),
    mix("Q5_1", 9, Format::Q5_1, Kind::One),
    mix("Q5_K_S", 16, Format::Q5K, Kind::S),
    mix("Q5_K_M", 17, Format::Q5K, Kind::M),
    mix("Q6_K", 18, Format::Q6K, Kind::One),
    mix("Q8_0", 7, Format::Q8_0, Kind::One),
    mix("F16", 1, Format::F16, Kind::One),
    mix("BF16", 32, Format::Bf16, Kind::One),
    mix("F32", 0, Format::F32, Kind::One),
];

/// Other names of mixes.
const ALIASES: [(&str, &str); 4] = [("Q3_K", "Q3_K_M"), ("Q4_K", "Q4_K_M"), ("Q5_K", "Q5_K_M"), ("MXFP4", "MXFP4_MOE")];

/// What the choice follows from besides a tensor's name and shape.
#[derive(Clone, Debug, Default)]
pub struct ModelFacts {
    /// `general.architecture`.
    pub architecture: String,
    /// Layers, those of multi-token prediction included.
    pub layers: usize,
    /// Query heads, and key/value heads.
    pub heads: [usize; 2],
    /// Routed experts; 0 in a dense model.
    pub experts: usize,
    /// There is an importance matrix.
    pub importance: bool,
}

impl ModelFacts {
    fn queries_to_a_key(&self) -> usize {
        self.heads[0].checked_div(self.heads[1]).unwrap_or(0)
    }

    /// Llama and Qwen of 70 billion parameters share a value among eight heads, so its bits are cheap.
    fn seventy_billion(&self) -> bool {
        let grouped = self.heads[0] != self.heads[1];
        self.layers == 80 && ((self.architecture == "llama" && grouped) || self.architecture == "qwen2")
    }
}

/// What a tensor does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Embedding,
    Output,
    Values,
    Keys,
    AttentionOutput,
    Down,
    Other,
}

fn role(name: &str) -> Role {
    match name {
        "output.weight" => Role::Output,
        "token_embd.weight" => Role::Embedding,
        _ if ["attn_v.weight", "attn_kv_b.weight"].iter().any(|part| name.contains(part)) => Role::Values,
        _ if name.contains("attn_k.weight") => Role::Keys,
        _ if name.contains("attn_output.weight") => Role::AttentionOutput,
        _ if name.contains("ffn_down") => Role::Down,
        _ => Role::Other,
    }
}

/// Whether a tensor's format is chosen at all: norms, biases and routers keep theirs.
pub(crate) fn is_quantized(name: &str, dimensions: usize) -> bool {
    let kept = ["_norm.weight", "ffn_gate_inp.weight"];
    dimensions >= 2 && name.ends_with("weight") && !kept.iter().any(|part| name.contains(part))
}

fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// The order in which tensors are chosen for: by layer, then by name, those outside of layers first.
pub(crate) fn order(name: &str) -> (usize, &str) {
    (layer_of(name).map_or(0, |layer| layer + 1), name)
}

/// Layers whose tensors get more bits: the first and last eighth, and every third between.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

impl Mix {
    /// The mix of this name, in any case of letters.
    pub fn named(name: &str) -> Option<Mix> {
        let name = name.to_ascii_uppercase();
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, name)| *name);
        MIXES.into_iter().find(|mix| mix.name == alias.unwrap_or(&name))
    }

    /// Whether weights are rounded in blocks.
    pub fn is_quantized(self) -> bool {
        self.base.wants_quantized_input()
    }

    /// Whether it cannot be used without an importance matrix.
    pub fn wants_importance(self) -> bool {
        self.name == "Q2_K_S"
    }

    /// The format of each tensor, given with its shape (outermost first) in the order of `order`; `None` for those that keep theirs.
    pub(crate) fn formats(self, facts: &ModelFacts, tensors: &[(&str, &[usize])]) -> Vec<Option<Format>> {
        let tied = tensors.iter().all(|(name, _)| *name != "output.weight");
        let values = tensors.iter().filter(|(name, _)| role(name) == Role::Values).count();
        let (mut values_seen, mut downs_seen) = (0, 0);
        tensors
            .iter()
            .map(|(name, shape)| {
                if !is_quantized(name, shape.len()) {
                    return None;
                }
                if !self.is_quantized() {
                    return Some(self.base);
                }
                let cols = shape.last().copied().unwrap_or(0);
                let chosen = match role(name) {
                    Role::Output => self.output(cols),
                    Role::Embedding if tied => self.output(cols),
                    _ if self.kind == Kind::Experts => match shape.len() > 2 && shape[0] > 1 {
                        true => self.base,
                        false => Format::Q8_0,
                    },
                    Role::Values => {
                        values_seen += 1;
                        self.values(facts, values_seen - 1, values)
                    }
                    Role::Keys if facts.experts == 8 => Format::Q8_0,
                    Role::AttentionOutput => self.attention_output(facts),
                    Role::Down => {
                        downs_seen += 1;
                        // Experts' tensors are several a layer.
                        let layer = if facts.experts > 1 { layer_of(name).unwrap_or(0) } else { downs_seen - 1 };
                        self.down(facts, layer)
                    }
                    Role::Embedding | Role::Keys | Role::Other => self.base,
                };
                Some(fitting(chosen, cols))
            })
            .collect()
    }

    fn output(self, cols: usize) -> Format {
        match self.base {
            _ if self.kind == Kind::Experts || !cols.is_multiple_of(self.base.block_elems()) => Format::Q8_0,
            Format::Q8_0 => Format::Q8_0,
            _ => Format::Q6K,
        }
    }

    fn values(self, facts: &ModelFacts, at: usize, of: usize) -> Format {
        let shared = facts.queries_to_a_key() >= 4;
        let mut chosen = match (self.base, self.kind) {
            (Format::Q2K, Kind::Plain) if !shared => Format::Q3K,
            (Format::Q2K, _) if shared => Format::Q4K,
            (Format::Q3K, Kind::M) if at < 2 => Format::Q5K,
            (Format::Q3K, Kind::M) => Format::Q4K,
            (Format::Q3K, Kind::L) => Format::Q5K,
            (Format::Iq4Nl | Format::Iq4Xs, _) if shared => Format::Q5K,
            (Format::Q4K | Format::Q5K, Kind::M) if more_bits(at, of) => Format::Q6K,
            (Format::Q4K, Kind::S) if at < 4 => Format::Q5K,
            (base, _) => base,
        };
        if facts.seventy_billion() && matches!(chosen, Format::Q3K | Format::Q4K) {
            chosen = Format::Q5K;
        }
        if facts.experts == 8 { Format::Q8_0 } else { chosen }
    }

    fn attention_output(self, facts: &ModelFacts) -> Format {
        let medium = matches!(self.kind, Kind::S | Kind::M | Kind::Plain) && self.name != "Q2_K_S";
        match self.base {
            Format::Q2K | Format::Q3K | Format::Q4K if facts.experts == 8 && medium => Format::Q5K,
            Format::Iq4Nl | Format::Iq4Xs if facts.experts == 8 => Format::Q5K,
            base if facts.experts == 8 => base,
            Format::Q2K if self.kind == Kind::Plain => Format::Q3K,
            Format::Q3K if self.kind == Kind::M => Format::Q4K,
            Format::Q3K if self.kind == Kind::L => Format::Q5K,
            base => base,
        }
    }

    fn down(self, facts: &ModelFacts, layer: usize) -> Format {
        let layers = facts.layers;
        let first_eighth = layer < layers / 8;
        match (self.base, self.kind) {
            (Format::Q2K, Kind::Plain) => Format::Q3K,
            (Format::Q2K, Kind::S) if first_eighth => Format::Q4K,
            (Format::Q3K, Kind::M) if layer < layers / 16 => Format::Q5K,
            (Format::Q3K, Kind::M) => Format::Q4K,
            (Format::Q3K, Kind::L) => Format::Q5K,
            (Format::Q4K | Format::Q5K, Kind::M) if more_bits(layer, layers) => Format::Q6K,
            (Format::Iq4Nl | Format::Iq4Xs, _) if first_eighth && !facts.importance => Format::Q5K,
            (Format::Q4K, Kind::S) if first_eighth => Format::Q5K,
            (Format::Q4_0, _) if facts.importance && first_eighth => Format::Q4_1,
            (Format::Q5_0, _) if facts.importance && first_eighth => Format::Q5_1,
            (base, _) => base,
        }
    }
}

/// A format whose blocks fit rows of `cols`.
pub(crate) fn fitting(format: Format, cols: usize) -> Format {
    let fits = |format: Format| cols.is_multiple_of(format.block_elems());
    if fits(format) {
        return format;
    }
    let smaller = match format {
        Format::Iq4Xs => Format::Iq4Nl,
        Format::Q2K | Format::Q3K => Format::Q4_0,
        Format::Q4K => Format::Q5_0,
        Format::Q5K => Format::Q5_1,
        Format::Q6K => Format::Q8_0,
        other => other,
    };
    if fits(smaller) { smaller } else { Format::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `NAME` or `blk.FIRST-LAST.PART`, as names.
    fn names(run: &str) -> Vec<String> {
        let Some((layers, part)) = run.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return vec![run.to_string()];
        };
        let (first, last) = layers.split_once('-').unwrap();
        (first.parse::<usize>().unwrap()..=last.parse().unwrap()).map(|layer| format!("blk.{layer}.{part}")).collect()
    }

    #[test]
    fn formats_are_those_that_llama_quantize_chooses() {
        let mut facts = ModelFacts::default();
        let mut tensors: Vec<(String, Vec<usize>)> = Vec::new();
        let mut seen = 0;
        for line in include_str!("../tests/data/formats.txt").lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            match words[0] {
                "model" => {
                    let [layers, heads, key_heads, experts] = [3, 4, 5, 6].map(|i| words[i].parse().unwrap());
                    let architecture = words[2].to_string();
                    facts = ModelFacts { architecture, layers, heads: [heads, key_heads], experts, importance: false };
                    tensors.clear();
                }
                "tensors" => {
                    let shape: Vec<usize> = words[1].split('x').map(|size| size.parse().unwrap()).collect();
                    let named = words[2..].iter().flat_map(|run| names(run));
                    tensors.extend(named.map(|name| (name, shape.clone())));
                    tensors.sort_by(|a, b| order(&a.0).cmp(&order(&b.0)));
                }
                "mix" => {
                    let shapes: Vec<(&str, &[usize])> = tensors.iter().map(|(n, s)| (&**n, &**s)).collect();
                    let chosen = Mix::named(words[1]).unwrap().formats(&facts, &shapes);
                    for ((name, _), format) in tensors.iter().zip(chosen) {
                        let other = words[3..].iter().find(|other| {
                            other.split_once('=').unwrap().1.split(',').flat_map(names).any(|other| other == *name)
                        });
                        let wanted = other.map_or(words[2], |other| other.split_once('=').unwrap().0);
                        let (mix, architecture) = (words[1], &facts.architecture);
                        assert_eq!(
                            format.unwrap().name(),
                            wanted,
                            "{architecture} of {} layers, {mix}: {name}",
                            facts.layers
                        );
                        seen += 1;
                    }
                }
                other => panic!("{other}"),
            }
        }
        assert!(seen > 10_000, "{seen}");
    }

    #[test]
    fn importance_makes_the_first_eighth_safer() {
        let facts = ModelFacts { layers: 16, importance: true, ..ModelFacts::default() };
        let names: Vec<String> = (0..16).map(|layer| format!("blk.{layer}.ffn_down.weight")).collect();
        let tensors: Vec<(&str, &[usize])> = names.iter().map(|name| (&**name, &[256, 256][..])).collect();
        let of = |mix: &str| Mix::named(mix).unwrap().formats(&facts, &tensors);
        assert_eq!((of("Q4_0")[1], of("Q4_0")[2]), (Some(Format::Q4_1), Some(Format::Q4_0)));
        assert_eq!((of("Q5_0")[1], of("Q5_0")[2]), (Some(Format::Q5_1), Some(Format::Q5_0)));
        assert_eq!(of("IQ4_XS")[0], Some(Format::Iq4Xs));
    }

    #[test]
    fn what_is_kept_and_what_does_not_fit() {
        for (name, dimensions, chosen) in [
            ("blk.0.attn_q.weight", 2, true),
            ("blk.0.attn_norm.weight", 1, false),
            ("blk.0.attn_q_norm.weight", 2, false),
            ("blk.0.ffn_gate_inp.weight", 2, false),
            ("blk.0.exp_probs_b.bias", 2, false),
        ] {
            assert_eq!(is_quantized(name, dimensions), chosen, "{name}");
        }
        for (format, cols, fits) in [
            (Format::Q4K, 512, Format::Q4K),
            (Format::Q4K, 96, Format::Q5_0),
            (Format::Q6K, 96, Format::Q8_0),
            (Format::Iq4Xs, 96, Format::Iq4Nl),
            (Format::Q2K, 96, Format::Q4_0),
            (Format::Q8_0, 40, Format::F16),
            (Format::Q5K, 40, Format::F16),
        ] {
            assert_eq!(fitting(format, cols), fits);
        }
        assert_eq!(Mix::named("q4_k").unwrap().name, "Q4_K_M");
        assert!(Mix::named("IQ2_XXS").is_none());
    }
}
