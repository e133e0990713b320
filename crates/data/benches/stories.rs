//! Stories and questions: MB/s of a core, and how varied they are beside human text
//!
//!     cargo bench -p farthing-data --bench stories                       speed and variety
//!     cargo bench -p farthing-data --bench stories -- HUMAN.txt          and the same figures of a file, documents separated by a line `<|end|>`
//!     cargo bench -p farthing-data --bench stories -- --show 10 SEED     prints documents
//!
//! Both figures depend on size, so a file is compared with as many words and bytes of stories: 40,000 words in lower case for distinct-3, 1 MiB for zstd, or all that
//! the file holds. Its documents of 60 to 400 words count, as long as stories are; they stand in the file in an order that mixes authors, as it lies with stories.
//! HUMAN.txt was, for the figures in LOG.md, FairytaleQA's tales cut at paragraphs, and the English stories of the African Storybook and of Pratham Books, whole.

use farthing_data::generators::manual::Manual;
use farthing_data::generators::story::variety::{distinct_3, zstd_ratio};
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

/// A set of texts is measured in its first words and bytes, all of it where it is smaller.
const WORDS: usize = 40_000;
const BYTES: usize = 1 << 20;

/// Words of a document that is measured: those of a story.
const DOCUMENT_WORDS: std::ops::RangeInclusive<usize> = 60..=400;

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
    let measure = |name: &str, documents: &[String], words: usize, bytes: usize| {
        let (distinct, ratio) = (distinct_3(documents, words), zstd_ratio(documents, bytes));
        println!("{name}: distinct-3 of {words} words {distinct:.3}, zstd ratio of {bytes} bytes {ratio:.2}");
    };
    measure("stories", &plain, WORDS, BYTES);
    for path in &arguments {
        let text = std::fs::read_to_string(path).unwrap();
        let human: Vec<String> = text
            .split("<|end|>")
            .map(|document| document.trim().to_owned())
            .filter(|document| DOCUMENT_WORDS.contains(&document.split_ascii_whitespace().count()))
            .collect();
        let words: usize = human.iter().map(|text| text.split_ascii_whitespace().count()).sum();
        let (words, bytes) = (words.min(WORDS), human.join("\n\n").len().min(BYTES));
        measure(path, &human, words, bytes);
        measure("stories", &plain, words, bytes);
    }
}
