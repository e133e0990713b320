//! Laws of the forward: chunked = whole, alone = in company, absorbed = expanded, decode = prefill, stored formats = their decoded twins.

mod running;

use std::path::Path;

use kernels::{Format, Pool};
use model::attention::Form;
use model::cache::PAGE;
use model::{Batch, Cache, CacheFormat, Scratch, Span, Wanted};
use running::{Runner, case};

const STRUCTURES: [&str; 5] =
    ["llama-gqa", "mixtral", "deepseek-v2-lite-shape", "deepseek-v2-shape", "deepseek-v3-fp8"];

fn open(name: &str) -> Runner {
    Runner::open(&case("oracle").join(name))
}

fn tokens(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729 + i * i) % 500) as u32).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn argmax(x: &[f32]) -> usize {
    (0..x.len()).max_by(|&a, &b| x[a].total_cmp(&x[b])).unwrap()
}

#[test]
fn a_prompt_in_any_chunks_has_the_same_bits() {
    for name in STRUCTURES {
        for format in [CacheFormat::F32, CacheFormat::Bf16] {
            let runner = Runner { format, ..open(name) };
            let prompt = tokens(300, 1);
            let mut whole = runner.sequence(310);
            let expected = whole.feed(&prompt, prompt.len());
            let after = whole.feed(&[5], prompt.len());
            for chunks in [vec![1, 127, 1, 128, 43], vec![100, 100, 100], vec![37; 8], vec![256]] {
                let mut sequence = runner.sequence(310);
                let (mut at, mut last) = (0, Vec::new());
                for chunk in chunks.into_iter().chain([300]) {
                    let end = (at + chunk).min(prompt.len());
                    if end > at {
                        last = sequence.feed(&prompt[at..end], prompt.len());
                        at = end;
                    }
                }
                assert_eq!(bits(&last), bits(&expected), "{name} {format:?}");
                assert_eq!(bits(&sequence.feed(&[5], prompt.len())), bits(&after), "{name} {format:?}");
            }
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_in_company() {
    for name in STRUCTURES {
        let runner = open(name);
        let lengths = [1usize, 70, 150, 3];
        let prompts: Vec<_> = lengths.iter().enumerate().map(|(i, &n)| tokens(n, i)).collect();
        let pages: Vec<Vec<u32>> = vec![vec![7], vec![1, 5], vec![2, 0, 6], vec![3]];
        let mut cache = Cache::new(&runner.model.structure, CacheFormat::F32, 8);
        let mut scratch = Scratch::new();
        let mut first = 0;
        let spans: Vec<Span> = prompts
            .iter()
            .zip(&pages)
            .map(|(p, pages)| {
                let span = Span { first, len: p.len(), position: 0, prompt: p.len(), pages, logits: Wanted::Last };
                first += p.len();
                span
            })
            .collect();
        let together = runner
            .model
            .forward(&runner.pool, &Batch { tokens: &prompts.concat(), spans: &spans }, &mut cache, &mut scratch, None)
            .to_vec();
        let vocab = runner.model.structure.vocab;
        // Then one more token for each, decoded together.
        let next: Vec<Span> =
            spans.iter().enumerate().map(|(i, s)| Span { first: i, len: 1, position: s.len, ..*s }).collect();
        let after = runner
            .model
            .forward(&runner.pool, &Batch { tokens: &[9, 9, 9, 9], spans: &next }, &mut cache, &mut scratch, None)
            .to_vec();
        for (i, prompt) in prompts.iter().enumerate() {
            let mut alone = runner.sequence(prompt.len() + 1);
            let row = |x: &[f32]| bits(&x[i * vocab..(i + 1) * vocab]);
            assert_eq!(bits(&alone.feed(prompt, prompt.len())), row(&together), "{name} {i}");
            assert_eq!(bits(&alone.feed(&[9], prompt.len())), row(&after), "{name} {i}");
        }
    }
}

#[test]
fn absorbed_expanded_and_token_by_token_agree() {
    for name in ["deepseek-v2-lite-shape", "deepseek-v2-shape", "deepseek-v3-shape"] {
        let runner = open(name);
        let prompt = tokens(270, 4);
        let vocab = runner.model.structure.vocab;
        let (by_place, _) = runner.whole(&prompt);
        for form in [Form::Absorbed, Form::Expanded] {
            let (logits, _) = Runner { form, ..open(name) }.whole(&prompt);
            for (a, b) in logits.iter().zip(&by_place) {
                assert!((a - b).abs() < 1e-3, "{name} {form:?}: {a} {b}");
            }
        }
        let mut sequence = runner.sequence(prompt.len());
        for (i, &token) in prompt.iter().enumerate() {
            // As an answer of one prompt token: always absorbed.
            let logits = sequence.feed(&[token], 1);
            let whole = &by_place[i * vocab..(i + 1) * vocab];
            assert!(logits.iter().zip(whole).all(|(a, b)| (a - b).abs() < 1e-3), "{name} {i}");
            assert_eq!(argmax(&logits), argmax(whole));
        }
    }
}

#[test]
fn a_long_sequence_uses_all_threads_and_keeps_its_bits() {
    for name in ["llama-gqa", "deepseek-v2-lite-shape"] {
        let prompt = tokens(1000, 2);
        let run = |threads| {
            let runner = Runner { pool: Pool::new(threads), ..open(name) };
            let mut sequence = runner.sequence(1001);
            sequence.feed(&prompt, prompt.len());
            bits(&sequence.feed(&[3], prompt.len()))
        };
        assert_eq!(run(1), run(2));
        assert_eq!(run(1), run(5));
    }
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
            let values: Vec<f32> =
                t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            let (dtype, data) = if is_matrix { change(&values) } else { (t.dtype(), t.data().to_vec()) };
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

/// Median KL divergence of rows of logits.
fn median_divergence(a: &[f32], b: &[f32], vocab: usize) -> f64 {
    let mut divergences: Vec<f64> = a
        .chunks(vocab)
        .zip(b.chunks(vocab))
        .map(|(a, b)| {
            let normal = |x: &[f32]| x.iter().map(|&x| (x as f64).exp()).sum::<f64>().ln();
            let (na, nb) = (normal(a), normal(b));
            a.iter().zip(b).map(|(&a, &b)| (a as f64 - na).exp() * ((a as f64 - na) - (b as f64 - nb))).sum()
        })
        .collect();
    divergences.sort_by(f64::total_cmp);
    divergences[divergences.len() / 2]
}

#[test]
fn quantised_weights_compute_what_their_decoded_twins_do() {
    // Eight bits in the file, and eight of activations: against the same file with its matrices decoded to f32.
    let path = case("stories260K/model-q8_0.gguf");
    let checkpoint = model::Checkpoint::open(&path).unwrap();
    let quantised =
        checkpoint.tensors.by_name.values().filter(|t| t.stored == model::tensors::Stored::As(Format::Q8_0)).count();
    assert!(quantised > 10);
    let stored = Runner::open(&path);
    let twin = decoded_twin(&path);
    let prompt: Vec<u32> = std::iter::once(1).chain(tokens(100, 1)).collect();
    let (a, b) = (stored.whole(&prompt).0, twin.whole(&prompt).0);
    let divergence = median_divergence(&b, &a, stored.model.structure.vocab);
    assert!(divergence > 0.0 && divergence < 1e-3, "{divergence}");
}

fn decoded_twin(path: &Path) -> Runner {
    let checkpoint = model::Checkpoint::open(path).unwrap();
    let mut weights = checkpoint.weights().unwrap();
    weights.each_matrix(&mut |w| {
        let mut values = vec![0f32; w.rows * w.cols];
        for (r, row) in values.chunks_mut(w.cols).enumerate() {
            w.matrix().decode_row(r, row);
        }
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let file = std::sync::Arc::new(model::mmap::Mapping::held("decoded", bytes));
        *w = model::weight::Weight {
            format: Format::F32,
            rows: w.rows,
            cols: w.cols,
            file,
            offset: 0,
            scales: None,
            scale_row: 0,
        };
    });
    Runner::of(model::Transformer::new(checkpoint.structure, weights))
}

#[test]
fn a_bf16_cache_stays_near() {
    for name in ["llama-gqa", "deepseek-v2-lite-shape"] {
        let prompt = tokens(200, 6);
        let exact = open(name).whole(&prompt).0;
        let runner = Runner { format: CacheFormat::Bf16, ..open(name) };
        let divergence = median_divergence(&exact, &runner.whole(&prompt).0, runner.model.structure.vocab);
        assert!(divergence > 0.0 && divergence < 1e-3, "{name}: {divergence}");
    }
    assert_eq!(PAGE, 64);
}
