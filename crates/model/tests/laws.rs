//! Laws of the forward: chunked = whole, alone = in company, absorbed = expanded, decode = prefill.
//! What weights are stored as has its own tests, `stored_formats`.

mod running;

use farthing_model::attention::Form;
use farthing_model::cache::PAGE;
use farthing_model::structure::{Attention, Gqa};
use farthing_model::{Batch, Cache, CacheFormat, Checkpoint, Scratch, Span, Transformer, Wanted};
use kernels::Pool;
use running::{
    Random, Runner, any_schedule_gives_the_same_bits, argmax, bits, case, largest_difference, median_divergence, tokens,
};

const STRUCTURES: [&str; 5] =
    ["llama-gqa", "mixtral", "deepseek-v2-lite-shape", "deepseek-v2-shape", "deepseek-v3-fp8"];

fn open(name: &str) -> Runner {
    Runner::open(&case("oracle").join(name))
}

#[test]
fn a_prompt_in_any_chunks_has_the_same_bits() {
    for name in STRUCTURES {
        for (format, _) in CacheFormat::ALL {
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
        let mut cache = Cache::new(runner.model.structure.cache_layout(CacheFormat::F32), 8);
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
fn over_a_smaller_cache_the_forms_agree_within_what_it_lost() {
    // Each form computes in fixed point with roundings of its own; a route that flips makes some rows differ more, so medians.
    for name in ["deepseek-v2-lite-shape", "deepseek-v2-shape", "deepseek-v3-shape"] {
        let prompt = tokens(270, 4);
        let exact = open(name);
        let vocab = exact.model.structure.vocab;
        let exact = exact.whole(&prompt).0;
        let [absorbed, expanded] = [Form::Absorbed, Form::Expanded]
            .map(|form| Runner { form, format: CacheFormat::Bf16, ..open(name) }.whole(&prompt).0);
        let lost = median_divergence(&exact, &absorbed, vocab);
        let apart = median_divergence(&absorbed, &expanded, vocab);
        println!("{name}: lost {lost:.1e}, apart {apart:.1e}");
        assert!(apart < lost, "{name}: {apart} {lost}");
    }
}

#[test]
fn a_sequence_uses_all_threads_and_keeps_its_bits() {
    for name in ["llama-gqa", "deepseek-v2-lite-shape"] {
        // Short: threads share heads. Long: they share splits.
        for length in [40, 1000] {
            let prompt = tokens(length, 2);
            let run = |threads| {
                let runner = Runner { pool: Pool::new(threads), ..open(name) };
                let mut sequence = runner.sequence(length + 1);
                sequence.feed(&prompt, prompt.len());
                bits(&sequence.feed(&[3], prompt.len()))
            };
            for threads in [2, 3, 5, 16] {
                assert_eq!(run(1), run(threads), "{name} {length} {threads}");
            }
        }
    }
}

#[test]
fn smaller_caches_stay_near_and_nearer_the_larger_they_are() {
    for name in ["llama-gqa", "deepseek-v2-lite-shape"] {
        let prompt = tokens(200, 6);
        let exact = open(name).whole(&prompt).0;
        let mut before = 0.0;
        for (format, most) in [(CacheFormat::Bf16, 1e-3), (CacheFormat::Eight, 4e-3), (CacheFormat::Six, 4e-2)] {
            let runner = Runner { format, ..open(name) };
            let divergence = median_divergence(&exact, &runner.whole(&prompt).0, runner.model.structure.vocab);
            assert!(divergence > before && divergence < most, "{name} {format:?}: {divergence}");
            before = divergence / 4.0;
        }
    }
    assert_eq!(PAGE, 64);
}

#[test]
fn any_schedule_of_several_sequences_has_the_same_bits() {
    let mut random = Random(11);
    for name in STRUCTURES {
        for (format, _) in CacheFormat::ALL {
            let runner = Runner { format, ..open(name) };
            for _ in 0..2 {
                any_schedule_gives_the_same_bits(&runner, name, &mut random);
            }
        }
    }
}

/// `llama-gqa` whose layers see `window` keys.
fn windowed(layers: usize, window: Option<usize>) -> Runner {
    let mut checkpoint = Checkpoint::open(&case("oracle/llama-gqa")).unwrap();
    for layer in &mut checkpoint.structure.layers {
        let Attention::Gqa(Gqa { window: w, .. }) = &mut layer.attention else { panic!("grouped-query attention") };
        *w = window;
    }
    let mut weights = checkpoint.weights().unwrap();
    let mut structure = checkpoint.structure;
    structure.layers.truncate(layers);
    weights.layers.truncate(layers);
    Runner::of(Transformer::new(structure, weights))
}

#[test]
fn a_window_is_what_a_fresh_sequence_of_that_length_sees() {
    // One layer of rotary attention knows only distances: the last `w` tokens alone are what a window of `w` sees.
    let prompt = tokens(700, 8);
    for window in [1, 64, 100, 600] {
        let runner = windowed(1, Some(window));
        let full = windowed(1, None);
        let vocab = full.model.structure.vocab;
        let seen = runner.whole(&prompt).0;
        for p in [0, 50, 63, 64, 99, 100, 101, 511, 512, 600, 699] {
            let from = (p + 1usize).saturating_sub(window);
            let expected = full.sequence(p + 1 - from).feed(&prompt[from..=p], p + 1 - from);
            let row = &seen[p * vocab..(p + 1) * vocab];
            let difference = largest_difference(row, &expected);
            assert!(difference < 1e-3, "window {window} position {p}: {difference}");
        }
        let mut random = Random(window as u64);
        any_schedule_gives_the_same_bits(&windowed(3, Some(window)), "window", &mut random);
    }
}
