//! Every tensor of a checkpoint is used or rightly left alone, and biases run: compared with a plain forward that shares no code.

mod gguf_writing;
mod running;

use std::collections::BTreeMap;
use std::path::Path;

use farthing_model::Checkpoint;
use farthing_model::gguf::Value;
use farthing_model::tensors::Tensors;
use gguf_writing::{Directory, Written, eight_bits, exact, write, write_stored};
use running::{Random, Runner, case, largest_difference};
use serde_json::{Value as Json, json};

/// Stored tensors of a safetensors file or a GGUF file, f32.
fn stored(path: &Path) -> (BTreeMap<String, Value>, Vec<Written>) {
    let mut tensors = Tensors::default();
    let values = if path.extension().is_some_and(|e| e == "gguf") {
        farthing_model::gguf::read(path, &mut tensors).unwrap().values
    } else {
        tensors.add_mapped(std::sync::Arc::new(farthing_model::mmap::Mapping::open(path).unwrap())).unwrap();
        BTreeMap::new()
    };
    let written = tensors.by_name.iter().map(|(name, t)| {
        let bytes = &tensors.files[t.file].bytes()[t.offset..t.offset + t.bytes];
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        (name.clone(), t.shape.clone(), numbers)
    });
    (values, written.collect())
}

fn write_directory(path: &Path, config: &Json, tensors: &[Written]) {
    std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let view = |s: &[usize], b| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, s.to_vec(), b).unwrap();
    let views = tensors.iter().zip(&bytes).map(|((n, s, _), b)| (n.clone(), view(s, b)));
    safetensors::serialize_to_file(views, None, &path.join("model.safetensors")).unwrap();
}

fn llama() -> (Json, Vec<Written>) {
    let from = case("oracle/llama-gqa");
    let config = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    (config, stored(&from.join("model.safetensors")).1)
}

fn refused(path: &Path) -> String {
    Checkpoint::open(path).and_then(|c| c.weights().map(|_| ())).expect_err("refused").to_string()
}

fn random_vector(name: String, len: usize) -> Written {
    let mut random = Random(name.bytes().fold(7, |h, b| h * 31 % 1_000_003 + b as u64));
    (name, vec![len], (0..len).map(|_| 0.5 * random.unit()).collect())
}

/// Biases of these parts (part, length) in every layer.
fn biases(layer: &str, parts: &[(&str, usize)]) -> Vec<Written> {
    (0..4).flat_map(|i| parts.iter().map(move |(p, n)| random_vector(format!("{layer}.{i}.{p}.bias"), *n))).collect()
}

const MLP: [(&str, usize); 3] = [("mlp.gate_proj", 224), ("mlp.up_proj", 224), ("mlp.down_proj", 96)];
const ATTENTION: [(&str, usize); 4] =
    [("self_attn.q_proj", 96), ("self_attn.k_proj", 32), ("self_attn.v_proj", 32), ("self_attn.o_proj", 96)];

/// Logits of every position by the textbook, in f64: llama-gqa with whatever biases are among the tensors.
fn plainly(tensors: &[Written], tokens: &[u32]) -> Vec<f32> {
    let (hidden, heads, kv, d, theta, eps) = (96, 6, 2, 16, 250_000f64, 1e-5f64);
    let by_name: BTreeMap<&str, &[f32]> = tensors.iter().map(|(n, _, x)| (n.as_str(), x.as_slice())).collect();
    let linear = |name: &str, x: &[f64]| -> Vec<f64> {
        let bias = by_name.get(format!("{name}.bias").as_str());
        let rows = by_name[format!("{name}.weight").as_str()].chunks(x.len()).enumerate();
        let dot = |w: &[f32]| w.iter().zip(x).map(|(&w, x)| w as f64 * x).sum::<f64>();
        rows.map(|(r, w)| dot(w) + bias.map_or(0.0, |b| b[r] as f64)).collect()
    };
    let norm = |name: &str, x: &[f64]| -> Vec<f64> {
        let scale = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
        x.iter().zip(by_name[name]).map(|(x, &w)| x / scale * w as f64).collect()
    };
    let turn = |x: &mut [f64], position: usize| {
        for head in x.chunks_mut(d) {
            for i in 0..d / 2 {
                let angle = position as f64 * theta.powf(-2.0 * i as f64 / d as f64);
                let (a, b) = (head[i], head[i + d / 2]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + d / 2] = b * angle.cos() + a * angle.sin();
            }
        }
    };
    let embedding = by_name["model.embed_tokens.weight"];
    let row = |t: u32| embedding[t as usize * hidden..][..hidden].iter().map(|&x| x as f64).collect::<Vec<_>>();
    let mut stream: Vec<Vec<f64>> = tokens.iter().map(|&t| row(t)).collect();
    for layer in 0..4 {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (position, x) in stream.iter_mut().enumerate() {
            let normed = norm(&name("input_layernorm.weight"), x);
            let mut q = linear(&name("self_attn.q_proj"), &normed);
            let mut k = linear(&name("self_attn.k_proj"), &normed);
            turn(&mut q, position);
            turn(&mut k, position);
            keys.push(k);
            values.push(linear(&name("self_attn.v_proj"), &normed));
            let mut mixed = vec![0f64; heads * d];
            for h in 0..heads {
                let group = h / (heads / kv) * d;
                let score = |k: &Vec<f64>| (0..d).map(|i| q[h * d + i] * k[group + i]).sum::<f64>() / (d as f64).sqrt();
                let weights: Vec<f64> = keys.iter().map(|k| score(k).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (w, v) in weights.iter().zip(&values) {
                    (0..d).for_each(|i| mixed[h * d + i] += w / total * v[group + i]);
                }
            }
            let out = linear(&name("self_attn.o_proj"), &mixed);
            x.iter_mut().zip(out).for_each(|(x, o)| *x += o);
            let normed = norm(&name("post_attention_layernorm.weight"), x);
            let (gate, up) = (linear(&name("mlp.gate_proj"), &normed), linear(&name("mlp.up_proj"), &normed));
            let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            let out = linear(&name("mlp.down_proj"), &inner);
            x.iter_mut().zip(out).for_each(|(x, o)| *x += o);
        }
    }
    let head = |x: &Vec<f64>| -> Vec<f32> {
        let x = norm("model.norm.weight", x);
        embedding.chunks(hidden).map(|w| w.iter().zip(&x).map(|(&w, x)| w as f64 * x).sum::<f64>() as f32).collect()
    };
    stream.iter().flat_map(head).collect()
}

/// Rows of q and k, or their biases, as GGUF's `llama` keeps them: halves of a head become neighbours.
fn interleaved(x: &[f32], cols: usize) -> Vec<f32> {
    let row = |r: usize| r / 16 * 16 + r % 16 / 2 + r % 2 * 8;
    (0..x.len() / cols).flat_map(|r| x[row(r) * cols..][..cols].iter().copied()).collect()
}

/// The biases among these tensors, as GGUF has them.
fn biases_of_gguf(tensors: &[Written]) -> Vec<Written> {
    let names = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let biases = tensors.iter().filter(|t| t.0.ends_with(".bias"));
    let renamed = biases.map(|(name, shape, x)| {
        let part = name.strip_prefix("model.layers.").unwrap();
        let (hf, to) = names.into_iter().find(|(hf, _)| part.contains(hf)).unwrap();
        let turned = matches!(to, "attn_q" | "attn_k");
        let x = if turned { interleaved(x, 1) } else { x.clone() };
        (format!("blk.{}", part.replace(hf, to)), shape.clone(), x)
    });
    renamed.collect()
}

#[test]
fn biases_of_llama_run() {
    let tokens: Vec<u32> = (0..40).map(|i| i * 13 % 630).collect();
    let (config, tensors) = llama();
    let plain = plainly(&tensors, &tokens);
    for (mlp, attention) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut tensors = tensors.clone();
        tensors.extend(biases("model.layers", if mlp { &MLP } else { &[] }));
        tensors.extend(biases("model.layers", if attention { &ATTENTION } else { &[] }));
        let expected = plainly(&tensors, &tokens);
        let directory = Directory::new(&format!("biases-{mlp}-{attention}"));
        let mut config = config.clone();
        config["mlp_bias"] = json!(mlp);
        config["attention_bias"] = json!(attention);
        write_directory(&directory.0, &config, &tensors);
        let ours = Runner::open(&directory.0).whole(&tokens).0;
        assert!(largest_difference(&ours, &expected) < 1e-3, "{mlp} {attention}");
        assert_eq!(mlp || attention, largest_difference(&plain, &expected) > 0.1, "biases show");

        // The same as GGUF.
        let (values, mut gguf) = stored(&case("oracle/llama-gqa/model-f32.gguf"));
        gguf.extend(biases_of_gguf(&tensors));
        let path = directory.0.join("biases.gguf");
        write(&path, 3, &values, &gguf);
        let runner = Runner::open(&path);
        assert!(largest_difference(&runner.whole(&tokens).0, &expected) < 1e-3, "GGUF {mlp} {attention}");
        // One token at a time gives the bits of the whole.
        let whole = runner.whole(&tokens).0;
        let mut sequence = runner.sequence(tokens.len());
        let mut last = Vec::new();
        for &token in &tokens {
            last = sequence.feed(&[token], tokens.len());
        }
        assert_eq!(running::bits(&last), running::bits(&whole[39 * 640..]));
    }
}

#[test]
fn tensors_that_nothing_uses_are_named() {
    let directory = Directory::new("unused");
    let path = directory.0.join("unused.gguf");
    let llama_gguf = case("oracle/llama-gqa/model-f32.gguf");
    let latent_gguf = case("oracle/deepseek-v2-lite-shape/model-f32.gguf");
    for (from, name, len) in [
        (&llama_gguf, "blk.1.what.weight", 7),
        (&llama_gguf, "blk.4.attn_norm.weight", 96),
        (&llama_gguf, "blk.0.ffn_gate_exps.bias", 96),
        (&llama_gguf, "rope_factors_long.weight", 8),
        (&llama_gguf, "blk.0.attn_k_b.weight", 8),
        (&latent_gguf, "blk.0.attn_output.bias", 96),
        (&latent_gguf, "blk.1.ffn_gate_shexp.bias", 8),
    ] {
        let (values, mut tensors) = stored(from);
        tensors.push(random_vector(name.to_string(), len));
        write(&path, 3, &values, &tensors);
        assert!(Checkpoint::open(&path).and_then(|c| c.weights().map(|_| ())).is_err(), "{name} is taken");
        let error = refused(&path);
        assert!(error.contains(name), "{name}: {error}");
        assert!(error.contains("unused.gguf") && !error.contains('\n'), "{error}");
    }
    // A part of a block's biases is refused by the name of what is missing.
    let (values, mut tensors) = stored(&llama_gguf);
    tensors.push(random_vector("blk.2.ffn_down.bias".to_string(), 96));
    write(&path, 3, &values, &tensors);
    assert!(refused(&path).contains("tensor blk.2.ffn_gate.bias is missing"));

    let (config, tensors) = llama();
    for (parts, flag, first) in [
        (&MLP[..], "attention_bias", "model.layers.0.mlp.down_proj.bias"),
        (&ATTENTION[..], "mlp_bias", "model.layers.0.self_attn.k_proj.bias"),
    ] {
        let mut tensors = tensors.clone();
        tensors.extend(biases("model.layers", parts));
        write_directory(&directory.0, &config, &tensors);
        let error = refused(&directory.0);
        assert!(error.contains(first) && error.contains(&format!("(and {} more)", 4 * parts.len() - 1)), "{error}");
        // The other flag asks for what is not there.
        let mut config = config.clone();
        config[flag] = json!(true);
        write_directory(&directory.0, &config, &tensors);
        assert!(refused(&directory.0).contains("is missing"));
    }
    let mut other = config.clone();
    (other["model_type"], other["mlp_bias"]) = (json!("mistral"), json!(true));
    write_directory(&directory.0, &other, &tensors);
    assert!(refused(&directory.0).contains("mlp_bias of architecture mistral"));
}

#[test]
fn what_is_rightly_left_alone_opens() {
    let directory = Directory::new("alone");
    let (config, tensors) = llama();
    let with = |more: Vec<Written>, config: &Json| {
        let mut tensors = tensors.clone();
        tensors.extend(more);
        write_directory(&directory.0, config, &tensors);
        Checkpoint::open(&directory.0).and_then(|c| c.weights().map(|_| ())).map_err(|e| e.to_string())
    };
    let table = |name: &str| random_vector(name.to_string(), 8);
    with(vec![table("model.layers.3.self_attn.rotary_emb.inv_freq"), table("model.rotary_emb.inv_freq")], &config)
        .unwrap();
    assert!(with(vec![table("model.layers.4.self_attn.rotary_emb.inv_freq")], &config).is_err());

    // A tied head that repeats the embedding is left alone; another one is not, and an untied model must have one.
    let embedding = tensors.iter().find(|t| t.0 == "model.embed_tokens.weight").unwrap();
    let mut head = ("lm_head.weight".to_string(), embedding.1.clone(), embedding.2.clone());
    with(vec![head.clone()], &config).unwrap();
    head.2[5] += 1.0;
    assert!(with(vec![head.clone()], &config).unwrap_err().contains("lm_head.weight"));
    let mut untied = config.clone();
    untied["tie_word_embeddings"] = json!(false);
    with(vec![head], &untied).unwrap();
    assert!(with(vec![], &untied).unwrap_err().contains("lm_head.weight is missing"));

    let (values, mut gguf) = stored(&case("oracle/llama-gqa/model-f32.gguf"));
    gguf.push(table("blk.0.attn_rot_embd.weight"));
    let path = directory.0.join("alone.gguf");
    write(&path, 3, &values, &gguf);
    Checkpoint::open(&path).unwrap().weights().unwrap();
}

/// Whatever the weights are stored as: over blocks of eight bits, biases are those of the textbook with the numbers that the blocks hold.
#[test]
fn biases_run_over_quantised_weights() {
    let tokens: Vec<u32> = (0..40).map(|i| i * 13 % 630).collect();
    let (_, mut tensors) = llama();
    let (values, gguf) = stored(&case("oracle/llama-gqa/model-f32.gguf"));
    let is_block = |t: &Written| t.1.len() == 2;
    for t in &mut tensors {
        if is_block(t) {
            *t = eight_bits(t).1;
        }
    }
    let plain = plainly(&tensors, &tokens);
    tensors.extend(biases("model.layers", &MLP));
    tensors.extend(biases("model.layers", &ATTENTION));
    let expected = plainly(&tensors, &tokens);
    let mut written: Vec<_> = gguf.iter().map(|t| if is_block(t) { eight_bits(t).0 } else { exact(t) }).collect();
    written.extend(biases_of_gguf(&tensors).iter().map(exact));
    let directory = Directory::new("biases-quantised");
    let path = directory.0.join("biases.gguf");
    write_stored(&path, 3, &values, &written);
    let runner = Runner::open(&path);
    let ours = runner.whole(&tokens).0;
    let deviation = |a: &[f32], b: &[f32]| {
        let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (squares / a.len() as f64).sqrt()
    };
    // What eight bits of activations cost, and what biases that are forgotten would.
    assert!(deviation(&ours, &expected) < 0.1, "{}", deviation(&ours, &expected));
    assert!(deviation(&plain, &expected) > 1.0, "{}", deviation(&plain, &expected));
    for part in MLP.iter().chain(&ATTENTION).map(|(part, _)| format!(".{part}.bias")) {
        let without: Vec<Written> = tensors.iter().filter(|t| !t.0.ends_with(&part)).cloned().collect();
        let forgotten = deviation(&plainly(&without, &tokens), &expected);
        assert!(forgotten > 2.0 * deviation(&ours, &expected), "{part}: {forgotten}");
    }
    let mut sequence = runner.sequence(tokens.len());
    let last = tokens.iter().map(|&token| sequence.feed(&[token], tokens.len())).last().unwrap();
    assert_eq!(running::bits(&last), running::bits(&ours[39 * 640..]));
}

/// A GGUF file tells of biases layer by layer, a configuration for all layers.
#[test]
fn biases_of_some_layers() {
    let tokens: Vec<u32> = (0..40).map(|i| i * 13 % 630).collect();
    let (config, mut tensors) = llama();
    let plain = plainly(&tensors, &tokens);
    let of = |parts: &[(&str, usize)], layers: [usize; 2]| {
        let all = biases("model.layers", parts).into_iter();
        all.filter(|t| layers.iter().any(|l| t.0.starts_with(&format!("model.layers.{l}.")))).collect::<Vec<_>>()
    };
    tensors.extend(of(&ATTENTION[..3], [0, 3]));
    tensors.extend(of(&ATTENTION[3..], [1, 3]));
    tensors.extend(of(&MLP, [1, 2]));
    let expected = plainly(&tensors, &tokens);
    let (values, mut gguf) = stored(&case("oracle/llama-gqa/model-f32.gguf"));
    gguf.extend(biases_of_gguf(&tensors));
    let directory = Directory::new("biases-some");
    let path = directory.0.join("some.gguf");
    write(&path, 3, &values, &gguf);
    assert!(largest_difference(&Runner::open(&path).whole(&tokens).0, &expected) < 1e-3);
    assert!(largest_difference(&plain, &expected) > 0.1);

    for (flags, named) in [
        ((true, true), "tensor model.layers.0.self_attn.o_proj.bias is missing"),
        ((false, true), "tensor model.layers.0.mlp.gate_proj.bias is missing"),
        ((false, false), "tensor model.layers.0.self_attn.k_proj.bias (and "),
    ] {
        let mut config = config.clone();
        (config["attention_bias"], config["mlp_bias"]) = (json!(flags.0), json!(flags.1));
        write_directory(&directory.0, &config, &tensors);
        assert!(refused(&directory.0).contains(named), "{flags:?}: {}", refused(&directory.0));
    }
}

/// A latent GGUF of the reference with its expansion in both forms, the split one made from the joint one and changed.
fn both_forms(change: impl Fn(&str, &mut Vec<f32>)) -> (BTreeMap<String, Value>, Vec<Written>) {
    let (values, tensors) = stored(&case("oracle/deepseek-v2-lite-shape/model-f32.gguf"));
    let (heads, nope, value, rank) = (4, 32, 32, 64);
    let mut both = tensors.clone();
    for (name, _, x) in &tensors {
        let Some(layer) = name.strip_suffix("attn_kv_b.weight") else { continue };
        let head = |h: usize| &x[h * (nope + value) * rank..][..(nope + value) * rank];
        let k = |at: usize| head(at / nope / rank)[at % nope * rank + at / nope % rank];
        let (k_name, v_name) = (format!("{layer}attn_k_b.weight"), format!("{layer}attn_v_b.weight"));
        let mut k: Vec<f32> = (0..heads * rank * nope).map(k).collect();
        let mut v: Vec<f32> = (0..heads).flat_map(|h| head(h)[nope * rank..].to_vec()).collect();
        change(&k_name, &mut k);
        change(&v_name, &mut v);
        both.push((k_name, vec![heads, rank, nope], k));
        both.push((v_name, vec![heads, value, rank], v));
    }
    (values, both)
}

/// Both forms of MLA's expansion in one file: the split one is used, and the joint one is not left alone unread.
#[test]
fn both_forms_of_the_latent_expansion_must_say_the_same() {
    let directory = Directory::new("both-forms");
    let path = directory.0.join("both.gguf");
    let tokens: Vec<u32> = (0..150).map(|i| i * 13 % 600).collect();
    let (values, both) = both_forms(|_, _| ());
    write(&path, 3, &values, &both);
    let logits = Runner::open(&path).whole(&tokens).0;
    let split: Vec<Written> = both.iter().filter(|t| !t.0.ends_with("attn_kv_b.weight")).cloned().collect();
    write(&path, 3, &values, &split);
    assert_eq!(running::bits(&logits), running::bits(&Runner::open(&path).whole(&tokens).0), "the split form is used");
    // As converters quantise them: each form by itself, along its own rows.
    let expansion = |name: &str| ["_k_b.weight", "_v_b.weight", "_kv_b.weight"].iter().any(|end| name.ends_with(end));
    for joint_only in [false, true] {
        let quantised = |t: &Written| expansion(&t.0) && (!joint_only || t.0.ends_with("_kv_b.weight"));
        let stored: Vec<_> = both.iter().map(|t| if quantised(t) { eight_bits(t).0 } else { exact(t) }).collect();
        write_stored(&path, 3, &values, &stored);
        Checkpoint::open(&path).unwrap().weights().unwrap();
    }

    let noise = |name: &str| random_vector(name.to_string(), 4 * 64 * 32).2;
    type Change = fn(&mut Vec<f32>, Vec<f32>);
    let changes: [(&str, Change); 6] = [
        ("another model's", |x, noise| *x = noise),
        ("twice", |x, _| x.iter_mut().for_each(|x| *x *= 2.0)),
        ("half", |x, _| x.iter_mut().for_each(|x| *x *= 0.5)),
        ("negated", |x, _| x.iter_mut().for_each(|x| *x = -*x)),
        ("heads in another order", |x, _| x.rotate_left(64 * 32)),
        ("nothing", |x, _| x.fill(0.0)),
    ];
    for (how, change) in changes {
        for part in ["blk.0.attn_k_b.weight", "blk.2.attn_v_b.weight"] {
            let (values, both) = both_forms(|name, x| {
                if name == part {
                    change(x, noise(name))
                }
            });
            for eight in [false, true] {
                let quantised = |t: &Written| eight && expansion(&t.0);
                let stored: Vec<_> =
                    both.iter().map(|t| if quantised(t) { eight_bits(t).0 } else { exact(t) }).collect();
                write_stored(&path, 3, &values, &stored);
                let opened = Checkpoint::open(&path).and_then(|c| c.weights().map(|_| ()));
                let error = opened.expect_err(how).to_string();
                let joint = format!("{}_kv_b.weight", &part[..part.len() - "_k_b.weight".len()]);
                assert!(error.contains(part) && error.contains(&joint), "{how}: {error}");
                // The headers are sound.
                Checkpoint::open(&path).unwrap().complete().unwrap();
            }
        }
    }

    // Of each layer another head is compared.
    for (layer, head) in [(0, 0), (1, 1), (2, 2)] {
        let part = format!("blk.{layer}.attn_v_b.weight");
        let (values, both) = both_forms(|name, x| {
            if *name == part {
                x[head * 32 * 64..][..32 * 64].fill(0.0);
            }
        });
        write(&path, 3, &values, &both);
        assert!(refused(&path).contains(&part), "{part}");
    }

    // Half of the split form is none.
    for (missing, said) in [
        ("blk.1.attn_v_b.weight", "tensor blk.1.attn_v_b.weight is missing"),
        ("blk.1.attn_k_b.weight", "tensor blk.1.attn_v_b.weight is in the checkpoint"),
    ] {
        let tensors: Vec<Written> = both.iter().filter(|t| t.0 != missing).cloned().collect();
        write(&path, 3, &values, &tensors);
        assert!(refused(&path).contains(said), "{}", refused(&path));
    }
    let mut other = both.clone();
    let joint = other.iter_mut().find(|t| t.0 == "blk.1.attn_kv_b.weight").unwrap();
    *joint = random_vector(joint.0.clone(), 7);
    write(&path, 3, &values, &other);
    assert!(refused(&path).contains("blk.1.attn_kv_b.weight has shape [7]"));
}

/// What is wrong with names, shapes and formats is told from headers alone, by the words of a whole load.
#[test]
fn headers_tell_what_loading_would() {
    let directory = Directory::new("headers");
    let path = directory.0.join("headers.gguf");
    let (values, tensors) = stored(&case("oracle/llama-gqa/model-f32.gguf"));
    let same = |tensors: &[gguf_writing::Stored]| {
        write_stored(&path, 3, &values, tensors);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let told = checkpoint.complete().map_err(|e| e.to_string());
        assert_eq!(told, checkpoint.weights().map(|_| ()).map_err(|e| e.to_string()));
        told.err().unwrap_or_default()
    };
    let sound: Vec<_> = tensors.iter().map(exact).collect();
    assert_eq!(same(&sound), "");
    let mut more = sound.clone();
    more.push(exact(&random_vector("blk.1.what.weight".to_string(), 7)));
    assert!(same(&more).contains("blk.1.what.weight is in the checkpoint"));
    let at = sound.iter().position(|t| t.0 == "blk.3.ffn_norm.weight").unwrap();
    let mut less = sound.clone();
    less.remove(at);
    assert!(same(&less).contains("blk.3.ffn_norm.weight is missing"));
    let mut other = sound.clone();
    other[at] = exact(&random_vector(other[at].0.clone(), 95));
    assert!(same(&other).contains("blk.3.ffn_norm.weight has shape [95]"));
    other[at] = sound[at].clone();
    other[at].2 = 16;
    assert!(same(&other).contains("blk.3.ffn_norm.weight is stored as IQ2_XXS"));

    // Numbers are not looked at.
    let mut spoilt = sound.clone();
    spoilt[at].3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    write_stored(&path, 3, &values, &spoilt);
    let checkpoint = Checkpoint::open(&path).unwrap();
    checkpoint.complete().unwrap();
    assert!(checkpoint.weights().err().unwrap().to_string().contains("blk.3.ffn_norm.weight holds NaN"));

    // Factors of FP8 are part of the headers' truth too.
    let fp8 = case("oracle/deepseek-v3-fp8");
    Checkpoint::open(&fp8).unwrap().complete().unwrap();
    let bytes = std::fs::read(fp8.join("model.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let lost = "model.layers.1.self_attn.o_proj.weight_scale_inv";
    assert!(all.tensor(lost).is_ok());
    let kept = all.tensors().into_iter().filter(|(name, _)| name != lost);
    safetensors::serialize_to_file(kept, None, &directory.0.join("model.safetensors")).unwrap();
    std::fs::copy(fp8.join("config.json"), directory.0.join("config.json")).unwrap();
    let error = Checkpoint::open(&directory.0).unwrap().complete().unwrap_err().to_string();
    assert!(error.contains(lost) && error.contains("is missing"), "{error}");
}

/// What is counted from a structure is what is stored, biases and norms too; what a token uses is never more.
#[test]
fn parameters_are_the_stored_numbers() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut seen = 0;
    for entry in std::fs::read_dir(data.join("oracle")).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("model.safetensors").exists() {
            continue;
        }
        let checkpoint = Checkpoint::open(&path).unwrap();
        let parameters = checkpoint.structure.parameters();
        let layers = checkpoint.structure.layers.len();
        let predicts = |name: &str| {
            let layer =
                name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            layer.is_some_and(|layer| layer >= layers)
        };
        let counted = |name: &str| !name.ends_with("_scale_inv") && !predicts(name);
        let tensors = checkpoint.tensors.by_name.iter().filter(|(name, _)| counted(name));
        let stored: usize = tensors.map(|(_, t)| t.shape.iter().product::<usize>()).sum();
        assert_eq!(parameters.total, stored as u64, "{}", path.display());
        assert!(parameters.active <= parameters.total, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 8);
    // Tied and dense: every number is used.
    let file = data.join("stories260K/model-q8_0.gguf");
    let parameters = Checkpoint::open(&file).unwrap().structure.parameters();
    assert_eq!(parameters.active, parameters.total);
}
