//! Law 1: on every reference checkpoint the f32 forward is within the stated tolerance and routes to the same experts.

mod running;

use farthing_model::structure::{Attention, Gqa};
use farthing_model::{Checkpoint, Transformer};
use running::{Runner, case, floats, ids, largest_difference, tensors};
use safetensors::SafeTensors;

const TOLERANCE: f32 = 1e-3;

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a))).unwrap() as u32
}

/// Check every prompt of a case, whole and then greedily continued.
fn check(runner: &Runner, oracle: &SafeTensors) {
    let layers = runner.model.structure.layers.len();
    let vocab = runner.model.structure.vocab;
    for prompt in 0.. {
        let Ok(tokens) = oracle.tensor(&format!("p{prompt}.input_ids")) else {
            assert!(prompt > 0, "a case has prompts");
            break;
        };
        let get = |name: &str| oracle.tensor(&format!("p{prompt}.{name}")).ok();
        let tokens = ids(&tokens);
        let (logits, trace) = runner.whole(&tokens);
        let expected = floats(&get("logits").unwrap());
        let positions = match get("logit_positions") {
            Some(positions) => ids(&positions),
            None => (0..tokens.len() as u32).collect(),
        };
        for (i, &p) in positions.iter().enumerate() {
            let p = p as usize;
            let difference =
                largest_difference(&logits[p * vocab..(p + 1) * vocab], &expected[i * vocab..(i + 1) * vocab]);
            assert!(difference <= TOLERANCE, "prompt {prompt} position {p}: logits differ by {difference}");
        }
        for layer in 0..layers {
            if let Some(hidden) = get(&format!("hidden.{layer}")) {
                let difference = largest_difference(&trace.hidden[layer], &floats(&hidden));
                assert!(difference <= TOLERANCE, "prompt {prompt} layer {layer}: hidden states differ by {difference}");
            }
            if let Some(experts) = get(&format!("moe.{layer}.experts")) {
                let routes = trace.routes[layer].as_ref().expect("a mixture routes");
                assert_eq!(routes.experts, ids(&experts), "prompt {prompt} layer {layer}");
                let weights = floats(&get(&format!("moe.{layer}.weights")).unwrap());
                assert!(
                    largest_difference(&routes.weights, &weights)
                        <= 1e-4 * weights.iter().fold(1.0f32, |a, &b| a.max(b))
                );
            }
        }
        let greedy = ids(&get("greedy").unwrap());
        let mut sequence = runner.sequence(tokens.len() + greedy.len());
        let mut next = argmax(&sequence.feed(&tokens, tokens.len()));
        let firsts = get("greedy_logits_first8").map(|t| floats(&t));
        for (step, &expected) in greedy.iter().enumerate() {
            assert_eq!(next, expected, "prompt {prompt} greedy step {step}");
            let logits = sequence.feed(&[next], tokens.len());
            if let Some(firsts) = &firsts
                && step + 1 < 8
            {
                let difference = largest_difference(&logits, &firsts[(step + 1) * vocab..(step + 2) * vocab]);
                assert!(difference <= TOLERANCE, "prompt {prompt} greedy step {step}: {difference}");
            }
            next = argmax(&logits);
        }
    }
}

macro_rules! cases {
    ($($name:ident: $directory:literal),*) => {$(
        #[test]
        fn $name() {
            let runner = Runner::open(&case($directory));
            check(&runner, &SafeTensors::deserialize(&tensors(&case($directory).join("oracle.safetensors"))).unwrap());
        }
    )*};
}

cases! {
    llama_gqa: "oracle/llama-gqa",
    llama3_rope_scaling: "oracle/llama3-rope-scaling",
    qwen2_bias: "oracle/qwen2-bias",
    qwen3_moe: "oracle/qwen3-moe",
    mixtral: "oracle/mixtral",
    deepseek_v2_lite: "oracle/deepseek-v2-lite-shape",
    deepseek_v2: "oracle/deepseek-v2-shape",
    deepseek_v3: "oracle/deepseek-v3-shape",
    deepseek_v3_fp8: "oracle/deepseek-v3-fp8",
    kimi_k2: "oracle/kimi-k2",
    dots1: "oracle/dots1",
    granite: "oracle/granite",
    smollm3: "oracle/smollm3",
    gemma3: "oracle/gemma3"
}

macro_rules! twins {
    ($($name:ident: $directory:literal),*) => {$(
        #[test]
        fn $name() {
            let runner = Runner::open(&case(concat!($directory, "/model-f32.gguf")));
            check(&runner, &SafeTensors::deserialize(&tensors(&case($directory).join("oracle.safetensors"))).unwrap());
        }
    )*};
}

twins! {
    llama_gqa_gguf: "oracle/llama-gqa",
    deepseek_v2_lite_gguf: "oracle/deepseek-v2-lite-shape"
}

/// The converter that wrote this file took 8192 for the original context (the configuration says 64), so its stored factors are
/// other ones. With the same frequencies both files must give the same logits.
#[test]
fn llama3_rope_scaling_gguf_with_its_own_factors() {
    let directory = case("oracle/llama3-rope-scaling");
    let gguf = Runner::open(&case("oracle/llama3-rope-scaling/model-f32.gguf"));
    let mut twin = Checkpoint::open(&directory).unwrap();
    for (layer, stored) in twin.structure.layers.iter_mut().zip(&gguf.model.structure.layers) {
        let (Attention::Gqa(Gqa { rope, .. }), Attention::Gqa(Gqa { rope: stored, .. })) =
            (&mut layer.attention, &stored.attention)
        else {
            panic!("grouped-query attention")
        };
        assert_ne!(rope.frequencies, stored.frequencies);
        rope.frequencies.clone_from(&stored.frequencies);
    }
    let weights = twin.weights().unwrap();
    let twin = Runner::of(Transformer::new(twin.structure, weights));
    let tokens: Vec<u32> = (0..200).map(|i| i * 7 % 640).collect();
    assert!(largest_difference(&gguf.whole(&tokens).0, &twin.whole(&tokens).0) <= TOLERANCE);
}

#[test]
fn both_styles_of_configuration_give_one_structure() {
    for entry in std::fs::read_dir(case("oracle")).unwrap() {
        let directory = entry.unwrap().path();
        if !directory.join("config.hf5.json").is_file() {
            continue;
        }
        let twin = std::env::temp_dir().join(format!(
            "farthing-hf5-{}-{:?}",
            std::process::id(),
            directory.file_name().unwrap()
        ));
        std::fs::create_dir_all(&twin).unwrap();
        std::fs::copy(directory.join("config.hf5.json"), twin.join("config.json")).unwrap();
        std::fs::copy(directory.join("model.safetensors"), twin.join("model.safetensors")).unwrap();
        let (a, b) =
            (farthing_model::Checkpoint::open(&directory).unwrap(), farthing_model::Checkpoint::open(&twin).unwrap());
        std::fs::remove_dir_all(&twin).unwrap();
        assert_eq!(a.structure, b.structure, "{}", directory.display());
    }
}

#[test]
fn unsupported_architectures_are_recognised() {
    for (name, architecture) in [("deepseek-v32-shape", "deepseek_v32"), ("deepseek-v4-shape", "deepseek_v4")] {
        let error = farthing_model::Checkpoint::open(&case("oracle").join(name)).err().expect("refused").to_string();
        assert!(error.contains(architecture) && error.contains("not supported yet"), "{error}");
    }
}

#[test]
fn bundled_model() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m");
    let oracle = tensors(&case("seed-5.7m/oracle.safetensors"));
    check(&Runner::open(&directory), &SafeTensors::deserialize(&oracle).unwrap());
}

#[test]
fn stories_260k() {
    let oracle = tensors(&case("stories260K/oracle.safetensors"));
    let oracle = SafeTensors::deserialize(&oracle).unwrap();
    let (tokens, expected) = (ids(&oracle.tensor("prompt").unwrap()), floats(&oracle.tensor("logits").unwrap()));
    for file in ["stories260K", "stories260K/model-f32.gguf"] {
        let (logits, _) = Runner::open(&case(file)).whole(&tokens);
        assert!(largest_difference(&logits, &expected) <= TOLERANCE);
    }
    // Eight bits a weight move the logits a little, and the choice nowhere on this text.
    let (logits, _) = Runner::open(&case("stories260K/model-q8_0.gguf")).whole(&tokens);
    let difference = largest_difference(&logits, &expected);
    assert!(difference > TOLERANCE && difference < 0.5, "{difference}");
}
