//! A weight computes what its decoded twin does, in every format, under every part that multiplies: law 7, and laws 2 and 3 again on
//! stored weights. Float formats are exact up to rounding; quantised ones differ by the eight bits of their activations.

mod running;

use std::any::Any;
use std::sync::Arc;

use farthing_model::Transformer;
use farthing_model::attention::Form;
use farthing_model::attention::{AttentionLayer, GqaLayer, MlaExpansion, MlaLayer, MlaQuery};
use farthing_model::feed_forward::{DenseLayer, FeedForwardLayer, MoeLayer};
use farthing_model::mmap::Mapping;
use farthing_model::structure::*;
use farthing_model::weight::*;
use farthing_model::weights::{LayerWeights, Weights};
use kernels::Format;
use running::{
    Random, Runner, any_schedule_gives_the_same_bits, argmax, bits, case, decoded_twin, floats, largest_difference,
    median_divergence, tokens,
};

const HIDDEN: usize = 256;
const VOCAB: usize = 320;

fn half(x: f32) -> [u8; 2] {
    let (sign, x) = (if x < 0.0 { 0x8000 } else { 0 }, x.abs());
    let bits = if x < 6.1035e-5 { (x * 16_777_216.0) as u16 } else { ((x.to_bits() - (112 << 23)) >> 13) as u16 };
    (sign | bits).to_le_bytes()
}

/// Random valid bytes: any quants, scales such that the numbers have the standard deviation wanted.
fn weight(format: Format, rows: usize, cols: usize, deviation: f32, random: &mut Random) -> Weight {
    let mut bytes: Vec<u8> = (0..format.row_bytes(cols).unwrap() * rows).map(|_| random.next() as u8).collect();
    let scaled = |bytes: &mut [u8], scale: f32| match format {
        Format::F32 | Format::F16 | Format::Bf16 | Format::F8E4M3 | Format::Mxfp4 => {}
        Format::Q8_0 | Format::Q4_0 | Format::Q5_0 | Format::Iq4Nl | Format::Iq4Xs => {
            bytes[..2].copy_from_slice(&half(scale))
        }
        // Minima that centre the numbers.
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => {
            let centre = if matches!(format, Format::Q4_1 | Format::Q4K) { 7.5 } else { 15.5 };
            let sign = if matches!(format, Format::Q4_1 | Format::Q5_1) { -1.0 } else { 1.0 };
            bytes[..2].copy_from_slice(&half(scale));
            bytes[2..4].copy_from_slice(&half(sign * centre * scale));
        }
        Format::Q2K => {
            bytes[80..82].copy_from_slice(&half(scale));
            bytes[82..84].copy_from_slice(&half(1.5 * scale));
        }
        Format::Q3K => bytes[108..110].copy_from_slice(&half(scale)),
        Format::Q6K => bytes[208..210].copy_from_slice(&half(scale)),
    };
    for block in bytes.chunks_mut(format.block_bytes()) {
        let x = random.unit() * deviation * 1.7;
        match format {
            Format::F32 => block.copy_from_slice(&x.to_le_bytes()),
            Format::F16 => block.copy_from_slice(&half(x)),
            Format::Bf16 => block.copy_from_slice(&((x.to_bits() >> 16) as u16).to_le_bytes()),
            Format::F8E4M3 => block[0] &= 0xbf,
            Format::Mxfp4 => {
                // The eight magnitudes have rms 2.92, exponents one up or down 1.32.
                block[0] = (127.0 + (deviation / 3.86).log2().round() + (random.below(3) as f32 - 1.0)) as u8
            }
            _ => scaled(block, 1.0),
        }
    }
    let blocks = rows.div_ceil(128) * cols.div_ceil(128);
    let mut scales = (format == Format::F8E4M3).then(|| Arc::from(vec![1.0f32; blocks]));
    let make = |bytes: Vec<u8>, scales| {
        let file = Arc::new(Mapping::held("random", bytes));
        Weight { format, rows, cols, file, offset: 0, scales, scale_row: 0 }
    };
    if format.block_elems() > 1 || scales.is_some() {
        let plain = make(bytes.clone(), scales.clone());
        let mut values = vec![0f32; cols];
        let mut squares = 0.0;
        for r in 0..rows {
            plain.matrix().decode_row(r, &mut values);
            squares += values.iter().map(|v| (v * v) as f64).sum::<f64>();
        }
        let scale = deviation / (squares / (rows * cols) as f64).sqrt() as f32;
        let mut near = || scale * (1.0 + 0.5 * random.unit());
        bytes.chunks_mut(format.block_bytes()).for_each(|block| scaled(block, near()));
        scales = scales.map(|s| s.iter().map(|_| near()).collect());
    }
    make(bytes, scales)
}

/// Two layers (a dense block; a mixture in groups with a shared block) under one kind of attention.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Grouped,
    LatentJoint,
    LatentSplit,
}

/// A model whose matrices are random, each in the next of `formats`. Where rows are too short for a format (the split keys), in Q8_0.
fn dense_shape() -> Dense {
    Dense { hidden: 512, bias: false, activation: Activation::Silu }
}

fn built(kind: Kind, formats: &[Format], random: &mut Random) -> (Structure, Weights) {
    let mut next = formats.iter().copied().cycle();
    let mut matrix = |rows: usize, cols: usize| {
        let wanted = next.next().unwrap();
        let format = if wanted.row_bytes(cols).is_some() { wanted } else { Format::Q8_0 };
        weight(format, rows, cols, (cols as f32).powf(-0.5), random)
    };
    let rope = |dim: usize, pairing| Rope {
        frequencies: (0..dim / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / dim as f32)).collect(),
        pairing,
        amplitude: 1.0,
        score_scale: 64f32.powf(-0.5),
    };
    let attention = match kind {
        Kind::Grouped => Attention::Gqa(Gqa {
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            qk_norm: false,
            qkv_bias: false,
            out_bias: false,
            window: None,
            rotates: true,
            rope: rope(64, Pairing::Halves),
        }),
        _ => Attention::Mla(Mla {
            heads: 4,
            q_rank: Some(256),
            kv_rank: 256,
            nope_dim: 32,
            rope_dim: 32,
            value_dim: 64,
            bias: false,
            latent_eps: 1e-6,
            rope: rope(32, Pairing::Interleaved),
        }),
    };
    let router = Router {
        score: Score::Sigmoid,
        groups: 4,
        groups_active: 2,
        group_score: GroupScore::TopTwo,
        bias: false,
        normalize: true,
        scale: 2.0,
    };
    let moe = Moe { experts: 8, active: 2, hidden: 256, shared_hidden: 512, router };
    let ones = || vec![1f32; HIDDEN];
    let mut layers = Vec::new();
    for dense in [true, false] {
        let mut linear = |rows, cols| Linear { weight: matrix(rows, cols), bias: None };
        let attention: Box<dyn AttentionLayer> = match attention.clone() {
            Attention::Gqa(shape) => Box::new(GqaLayer {
                shape,
                q: linear(256, HIDDEN),
                k: linear(128, HIDDEN),
                v: linear(128, HIDDEN),
                out: linear(HIDDEN, 256),
                q_norm: None,
                k_norm: None,
            }),
            Attention::Mla(shape) => Box::new(MlaLayer {
                shape,
                q: MlaQuery::Compressed { a: linear(256, HIDDEN), norm: ones(), b: linear(256, 256) },
                kv_a: linear(288, HIDDEN),
                kv_a_norm: ones(),
                kv_b: if kind == Kind::LatentJoint {
                    // One stored tensor, per head keys then values, as files have it.
                    let joint = linear(4 * 96, 256).weight;
                    MlaExpansion::Joint {
                        k: (0..4).map(|h| joint.view(h * 96, 32)).collect(),
                        v: (0..4).map(|h| joint.view(h * 96 + 32, 64)).collect(),
                    }
                } else {
                    MlaExpansion::Split {
                        k_transposed: (0..4).map(|_| linear(256, 32).weight).collect(),
                        v: (0..4).map(|_| linear(64, 256).weight).collect(),
                    }
                },
                out: linear(HIDDEN, 256),
            }),
        };
        let mut block = |inner: usize| GatedBlock {
            gate: matrix(inner, HIDDEN),
            up: matrix(inner, HIDDEN),
            down: matrix(HIDDEN, inner),
        };
        let feed_forward: Box<dyn FeedForwardLayer> = if dense {
            Box::new(DenseLayer { shape: dense_shape(), block: block(512), biases: None })
        } else {
            let experts = (0..8).map(|_| block(256)).collect();
            let shared = Some(block(512));
            Box::new(MoeLayer { shape: moe.clone(), router: matrix(8, HIDDEN), router_bias: None, experts, shared })
        };
        layers.push(LayerWeights {
            attention_norm: ones(),
            attention,
            feed_forward_norm: ones(),
            feed_forward,
            after: None,
        });
    }
    let mixture: &mut dyn Any = &mut *layers[1].feed_forward;
    let MoeLayer { router, .. } = mixture.downcast_mut().expect("a mixture");
    *router = weight(Format::F32, 8, HIDDEN, 0.0625, random); // as every file has it
    let format = formats[0];
    let weights = Weights {
        files: Vec::new(),
        embedding: weight(format, VOCAB, HIDDEN, 1.0, random),
        head: Some(weight(format, VOCAB, HIDDEN, 0.15, random)),
        layers,
        final_norm: ones(),
    };
    let layers = [FeedForward::Dense(dense_shape()), FeedForward::Moe(moe)]
        .map(|feed_forward| Layer { attention: attention.clone(), feed_forward })
        .to_vec();
    let architecture = "random".to_string();
    let structure = Structure {
        architecture,
        vocab: VOCAB,
        hidden: HIDDEN,
        layers,
        context: 4096,
        norm_eps: 1e-6,
        head: Head::Own,
        scales: Scales::default(),
        norms: Norms::default(),
    };
    (structure, weights)
}

/// Stored model and decoded twin.
fn twins(kind: Kind, formats: &[Format], seed: u64) -> (Runner, Runner) {
    let make = || built(kind, formats, &mut Random(seed));
    let ((structure, stored), (_, mut decoded)) = (make(), make());
    decoded.each_matrix(&mut running::decode);
    (Runner::of(Transformer::new(structure.clone(), stored)), Runner::of(Transformer::new(structure, decoded)))
}

const KINDS: [Kind; 3] = [Kind::Grouped, Kind::LatentJoint, Kind::LatentSplit];

/// Formats of one file together: products that share an input want it in f32 and in eight bits.
const MIXED: [Format; 7] =
    [Format::Q4K, Format::Q6K, Format::F32, Format::Q8_0, Format::Bf16, Format::Q5_0, Format::Iq4Xs];

#[test]
fn every_format_computes_what_its_decoded_twin_does() {
    let each = Format::ALL.map(|f| vec![f]);
    for kind in KINDS {
        for formats in each.iter().map(Vec::as_slice).chain([&MIXED[..]]) {
            let (stored, decoded) = twins(kind, formats, 5);
            // Past one block of 128: both forms of latent attention.
            let prompt: Vec<u32> = tokens(150, 2).iter().map(|t| t % VOCAB as u32).collect();
            let (a, b) = (stored.whole(&prompt), decoded.whole(&prompt));
            let deviation = (b.0.iter().map(|x| x * x).sum::<f32>() / b.0.len() as f32).sqrt();
            // Only the last layer routes, so a near tie that falls the other way moves its own row and no other.
            let routes = |t: &farthing_model::Trace| t.routes[1].clone().expect("a mixture routes").experts;
            let (ra, rb) = (routes(&a.1), routes(&b.1));
            let (mut worst, mut flips) = (0f32, 0);
            for (row, (ra, rb)) in ra.chunks(2).zip(rb.chunks(2)).enumerate() {
                if ra != rb {
                    flips += 1;
                    continue;
                }
                let at = row * VOCAB..(row + 1) * VOCAB;
                worst = worst.max(largest_difference(&a.0[at.clone()], &b.0[at]));
            }
            let divergence = median_divergence(&b.0, &a.0, VOCAB);
            let seen =
                format!("{kind:?} {formats:?}: deviation {deviation} worst {worst} flips {flips} KL {divergence}");
            assert!((1.0..5.0).contains(&deviation), "{seen}");
            if formats.iter().any(|f| f.wants_quantized_input()) {
                assert!(worst < 0.2 * deviation && flips <= prompt.len() / 10 && divergence < 2e-3, "{seen}");
                assert!(worst > 1e-3, "eight-bit activations must show: {seen}");
            } else {
                assert!(worst < 1e-5 * deviation.max(1.0) && flips == 0, "{seen}");
            }
            eprintln!("{seen}");
        }
    }
}

#[test]
fn stored_weights_keep_the_laws_of_chunks_and_company() {
    for kind in KINDS {
        for (i, &format) in Format::ALL.iter().enumerate() {
            let (runner, _) = twins(kind, &[format], 7);
            any_schedule_gives_the_same_bits(&runner, &format!("{kind:?} {format:?}"), &mut Random(i as u64));
        }
        let (runner, _) = twins(kind, &MIXED, 7);
        any_schedule_gives_the_same_bits(&runner, &format!("{kind:?} mixed"), &mut Random(1));
    }
}

/// Keys as newer GGUF files store them: transposed, a matrix a head.
fn split(weights: &mut Weights) {
    for layer in &mut weights.layers {
        let attention: &mut dyn Any = &mut *layer.attention;
        let MlaLayer { kv_b, .. } = attention.downcast_mut().expect("latent attention");
        let MlaExpansion::Joint { k, v } = kv_b else { panic!("joint keys and values") };
        let transposed = |w: &Weight| {
            let mut values = vec![0f32; w.cols];
            let mut bytes = vec![0u8; 4 * w.rows * w.cols];
            for r in 0..w.rows {
                w.matrix().decode_row(r, &mut values);
                for (c, v) in values.iter().enumerate() {
                    bytes[4 * (c * w.rows + r)..][..4].copy_from_slice(&v.to_le_bytes());
                }
            }
            let file = Arc::new(Mapping::held("transposed", bytes));
            Weight { format: Format::F32, rows: w.cols, cols: w.rows, file, offset: 0, scales: None, scale_row: 0 }
        };
        *kv_b = MlaExpansion::Split { k_transposed: k.iter().map(transposed).collect(), v: v.clone() };
    }
}

#[test]
fn both_layouts_of_the_latent_expansion_agree() {
    for name in ["deepseek-v2-lite-shape", "deepseek-v2-shape", "deepseek-v3-shape"] {
        let checkpoint = farthing_model::Checkpoint::open(&case("oracle").join(name)).unwrap();
        let mut weights = checkpoint.weights().unwrap();
        split(&mut weights);
        let joint = Runner::of(Transformer::new(checkpoint.structure.clone(), checkpoint.weights().unwrap()));
        let mut split = Runner::of(Transformer::new(checkpoint.structure, weights));
        let prompt = tokens(270, 3);
        let vocab = joint.model.structure.vocab;
        let expected = joint.whole(&prompt).0;
        for form in [Form::ByPlace, Form::Absorbed, Form::Expanded] {
            split.form = form;
            for (a, b) in split.whole(&prompt).0.chunks(vocab).zip(expected.chunks(vocab)) {
                assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3), "{name} {form:?}");
                assert_eq!(argmax(a), argmax(b), "{name} {form:?}");
            }
        }
        split.form = Form::ByPlace;
        any_schedule_gives_the_same_bits(&split, name, &mut Random(3));
    }
}

#[test]
fn fp8_weights_equal_their_decoded_twin_up_to_rounding() {
    let path = case("oracle/deepseek-v3-fp8");
    let (stored, twin) = (Runner::open(&path), decoded_twin(&path));
    let prompt = tokens(200, 3);
    let worst = largest_difference(&stored.whole(&prompt).0, &twin.whole(&prompt).0);
    assert!(worst > 0.0 && worst < 1e-4, "{worst}");
}

/// A copy of a checkpoint directory with every matrix rewritten by `change` (bytes of f32 in; dtype and bytes out).
fn rewritten(name: &str, tag: &str, change: impl Fn(&[f32]) -> (safetensors::Dtype, Vec<u8>)) -> Runner {
    let from = case("oracle").join(name);
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let changed: Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)> = tensors
        .tensors()
        .into_iter()
        .map(|(name, t)| {
            let is_matrix = t.shape().len() == 2;
            let (dtype, data) = if is_matrix { change(&floats(&t)) } else { (t.dtype(), t.data().to_vec()) };
            (name, dtype, t.shape().to_vec(), data)
        })
        .collect();
    let views =
        changed.iter().map(|(n, d, s, b)| (n.clone(), safetensors::tensor::TensorView::new(*d, s.clone(), b).unwrap()));
    let to = std::env::temp_dir().join(format!("farthing-twin-{}-{name}-{tag}", std::process::id()));
    std::fs::create_dir_all(&to).unwrap();
    safetensors::serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let runner = Runner::open(&to);
    std::fs::remove_dir_all(&to).unwrap();
    runner
}

#[test]
fn sixteen_bit_weights_equal_their_widened_twins() {
    let bf16 = |x: &f32| (x.to_bits() >> 16) as u16;
    for name in ["llama-gqa", "deepseek-v2-lite-shape"] {
        let stored = rewritten(name, "bf16", |x| {
            (safetensors::Dtype::BF16, x.iter().flat_map(|x| bf16(x).to_le_bytes()).collect())
        });
        let twin = rewritten(name, "twin", |x| {
            let widened = x.iter().flat_map(|x| ((bf16(x) as u32) << 16).to_le_bytes());
            (safetensors::Dtype::F32, widened.collect())
        });
        let prompt = tokens(140, 3);
        assert_eq!(bits(&stored.whole(&prompt).0), bits(&twin.whole(&prompt).0), "{name}");
    }
}

#[test]
fn quantised_weights_compute_what_their_decoded_twins_do() {
    // Eight bits in the file, and eight of activations: against the same file with its matrices decoded to f32.
    let path = case("stories260K/model-q8_0.gguf");
    let checkpoint = farthing_model::Checkpoint::open(&path).unwrap();
    let quantised = checkpoint
        .tensors
        .by_name
        .values()
        .filter(|t| t.stored == farthing_model::tensors::Stored::As(Format::Q8_0))
        .count();
    assert!(quantised > 10);
    let stored = Runner::open(&path);
    let twin = decoded_twin(&path);
    let prompt: Vec<u32> = std::iter::once(1).chain(tokens(100, 1)).collect();
    let (a, b) = (stored.whole(&prompt).0, twin.whole(&prompt).0);
    let divergence = median_divergence(&b, &a, stored.model.structure.vocab);
    assert!(divergence > 0.0 && divergence < 1e-3, "{divergence}");
}
