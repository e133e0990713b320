//! Speed from text to shards: training a tokenizer, tokenizing and mixing, in MB of text (or tokens) in a CPU-second of one core.
//!
//! `cargo bench -p farthing-data --bench tokenize [-- FILE [OUT [TOKENIZER]]]` takes the documents of a text file, which a line `<|end|>` parts, or
//! stories of its own; OUT keeps the tokenizer and the shards; TOKENIZER is a `tokenizer.json` to take instead of a trained one.

use std::path::Path;

use farthing_data::shards::mix::{Plan, Settings, Share, Source};
use farthing_data::shards::{Shards, Workers, write_shards};
use farthing_data::tokenizer::report::Fit;
use farthing_data::tokenizer::rules::Digits;
use farthing_data::tokenizer::train::{self, WordCounts};
use farthing_data::tokenizer::{Encoder, Ends, Tokenizer, tokenize};
use farthing_data::{Document, Error};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use rustix::time::{ClockId, clock_gettime};

fn cpu_seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Runs something and prints its rate; CPU-seconds of all threads.
fn timed<T>(what: &str, unit: &str, amount: f64, work: impl FnOnce() -> T) -> T {
    let start = cpu_seconds(ClockId::ProcessCPUTime);
    let result = work();
    let seconds = cpu_seconds(ClockId::ProcessCPUTime) - start;
    println!("{what:34} {:9.2} {unit}/s a core   {seconds:6.2} CPU-seconds", amount / 1e6 / seconds);
    result
}

/// Made sentences: words of random letters, the frequent ones short.
fn made() -> Vec<Document> {
    let mut random = Pcg64::seed_from_u64(1);
    let mut word = || (0..random.random_range(2..9)).map(|_| random.random_range('a'..='z')).collect::<String>();
    let words: Vec<String> = (0..20_000).map(|_| word()).collect();
    let mut text = |i: u32| {
        let mut text = String::new();
        for n in 0..400 {
            let rank = (random.random::<f64>().powi(4) * words.len() as f64) as usize;
            text.push_str(&words[rank]);
            text.push_str(if n % 12 == 11 { ".\n" } else { " " });
        }
        Document::new(format!("made/{i}"), text)
    };
    (0..4_000).map(&mut text).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let documents: Vec<Document> = match arguments.first() {
        None => made(),
        Some(file) => {
            let text = std::fs::read_to_string(file).expect("a text file");
            let documents = text.split("\n<|end|>\n").enumerate();
            documents.map(|(i, text)| Document::new(format!("file/{i}"), text)).collect()
        }
    };
    let temporary = tempfile::tempdir().expect("a directory");
    let out = arguments.get(1).map_or(temporary.path(), Path::new);
    let bytes = documents.iter().map(|document| document.text().len()).sum::<usize>() as f64;
    println!("{} documents, {:.1} MB", documents.len(), bytes / 1e6);

    let digits = [("digits single", Digits::Single), ("digits three", Digits::Three)];
    for (name, digits) in digits {
        let settings = train::Settings { digits, ..train::Settings::default() };
        let mut counts = WordCounts::new(&settings, 0, bytes as u64);
        timed(&format!("count words, {name}"), "MB", bytes, || {
            documents.iter().for_each(|document| counts.add(document).expect("no marks"));
        });
        let trained = timed("train", "MB", bytes, || counts.train(&settings)).expect("enough text");
        let directory = out.join(name.replace(' ', "-"));
        trained.write(&directory).expect("a directory");
        measure(&documents, bytes, &directory.join("tokenizer.json"), &directory);
    }
    if let Some(path) = arguments.get(2) {
        measure(&documents, bytes, Path::new(path), &out.join("given"));
    }
}

fn measure(documents: &[Document], bytes: f64, tokenizer: &Path, out: &Path) {
    let none = Ends { bos: None, eos: None };
    let ends = Ends { bos: Some(String::new()), eos: Some(String::new()) };
    let tokenizer =
        Tokenizer::open(tokenizer, &none).or_else(|_| Tokenizer::open(tokenizer, &ends)).expect("a tokenizer");
    let mut tokens = Vec::new();
    let by_library = timed("tokenize, by the library alone", "MB", bytes, || {
        let mut count = 0;
        for document in documents {
            tokens.clear();
            tokenizer.encode_plainly(document.text(), &mut tokens).expect("tokens");
            count += tokens.len();
        }
        count
    });
    let count = timed("tokenize", "MB", bytes, || {
        let (mut encoder, mut count) = (Encoder::new(&tokenizer), 0);
        for document in documents {
            tokens.clear();
            encoder.text(document.text(), &mut tokens).expect("tokens");
            count += tokens.len();
        }
        count
    });
    let mut encoder = Encoder::new(&tokenizer);
    let different = documents.iter().filter(|document| {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        encoder.text(document.text(), &mut ours).expect("tokens");
        tokenizer.encode_plainly(document.text(), &mut theirs).expect("tokens");
        ours != theirs
    });
    println!("{count} tokens, {by_library} by the library; {} documents differ", different.count());

    let run = out.join("0.tokens");
    timed("tokenize into a token run", "MB", bytes, || {
        tokenize(documents.iter().cloned().map(Ok::<_, Error>), &tokenizer, &run, false, |_, _| Ok(())).expect("a run");
    });
    let mut fit = Fit::new(&tokenizer);
    for document in documents {
        encoder.document(document, &mut tokens).expect("tokens");
        fit.count(&tokenizer, "file", document, &tokens);
    }
    println!("{}", serde_json::to_string(&fit.report(&tokenizer)).expect("JSON"));
    let settings = Settings { held_out: 0.01, shard_tokens: 1 << 20, ..Settings::default() };
    let source = Source::measure("file", Share::Epochs(2.5), vec![run], &settings).expect("a run");
    let plan = Plan::new(vec![source], &settings, 0, tokenizer.vocabulary()).expect("a plan");
    let mixed = plan.sources()[0].tokens() as f64;
    timed("mix into shards", "Mtokens", mixed, || {
        let alone = Workers { rank: 0, world: 1, threads: 1 };
        write_shards(&plan, &out.join("shards"), alone, &|_| Ok(())).expect("shards");
        Shards::collect(&plan, &out.join("shards"), blake3::hash(b"bench")).expect("shards").expect("all of them");
    });
}
