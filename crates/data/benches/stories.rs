//! Stories and questions: MB/s of a core, and how varied they are beside human text
//!
//!     cargo bench -p farthing-data --bench stories                       speed and variety
//!     cargo bench -p farthing-data --bench stories -- HUMAN.txt          and the same figures of a file, documents separated by a line `<|end|>`
//!     cargo bench -p farthing-data --bench stories -- --show 10 SEED     prints documents

use std::collections::HashSet;

use farthing_data::generators::manual::Manual;
use farthing_data::generators::{Generator, KINDS};
use rand::SeedableRng;
use rand_pcg::Pcg64;

fn generator(name: &str, settings: &str) -> Box<dyn Generator> {
    let kind = KINDS.iter().find(|kind| kind.name == name).expect("a generator of this name");
    (kind.make)(toml::from_str(settings).unwrap(), &Manual::default()).unwrap()
}

fn texts(generator: &dyn Generator, count: u64) -> Vec<String> {
    (0..count).map(|i| generator.generate(&mut Pcg64::seed_from_u64(i), false).text).collect()
}

/// Distinct word trigrams over all, in the first 40,000 words; trigrams do not cross documents.
fn distinct_3(documents: &[String]) -> f64 {
    let mut seen = HashSet::new();
    let (mut all, mut words_left) = (0, 40_000);
    for document in documents {
        let lower = document.to_ascii_lowercase();
        let words: Vec<&str> = lower
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '\'')
            .filter(|word| !word.is_empty())
            .take(words_left)
            .collect();
        words_left -= words.len();
        for trigram in words.windows(3) {
            seen.insert(trigram.join(" "));
            all += 1;
        }
    }
    seen.len() as f64 / all as f64
}

/// Bytes of the first MiB over those that zstd makes of it at level 19.
fn zstd_ratio(documents: &[String]) -> f64 {
    let mut text = documents.join("\n\n").into_bytes();
    text.truncate(1 << 20);
    text.len() as f64 / zstd::bulk::compress(&text, 19).unwrap().len() as f64
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn speed(name: &str) {
    let generator = generator(name, "");
    let begin = cpu_seconds();
    let mut random = Pcg64::seed_from_u64(1);
    let (mut bytes, mut documents) = (0, 0);
    while cpu_seconds() - begin < 2.0 {
        bytes += generator.generate(&mut random, false).text.len();
        documents += 1;
    }
    let seconds = cpu_seconds() - begin;
    println!(
        "{name}: {:.1} MB/s a core, {documents} documents of {} bytes",
        bytes as f64 / 1e6 / seconds,
        bytes / documents
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some("--show") = arguments.first().map(String::as_str) {
        let number = |at: usize, or: u64| arguments.get(at).map_or(or, |text| text.parse().unwrap());
        let name = arguments.get(3).map_or("stories", String::as_str);
        let generator = generator(name, "");
        for i in 0..number(1, 3) {
            let document = generator.generate(&mut Pcg64::seed_from_u64(number(2, 1) + i), false);
            println!("{}\n--------", document.text);
        }
        return;
    }
    for kind in ["stories", "questions"] {
        speed(kind);
    }
    let plain = texts(&*generator("stories", "ordered = 0.0\nend_mark = \"\""), 2_000);
    let words: usize = plain.iter().map(|text| text.split_ascii_whitespace().count()).sum();
    println!("words of a story: {}", words / plain.len());
    println!("distinct-3 of 40,000 words: {:.3}; zstd ratio of 1 MiB: {:.2}", distinct_3(&plain), zstd_ratio(&plain));
    for path in &arguments {
        let text = std::fs::read_to_string(path).unwrap();
        let human: Vec<String> = text
            .split("<|end|>")
            .map(|document| document.trim().to_owned())
            .filter(|document| (60..=400).contains(&document.split_ascii_whitespace().count()))
            .collect();
        println!("{path}: distinct-3 {:.3}, zstd ratio {:.2}", distinct_3(&human), zstd_ratio(&human));
    }
}
