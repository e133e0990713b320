//! Speed of the generators, MB of text in a CPU-second of one core, and a look at what they make.
//!
//! `cargo bench -p farthing-data --bench generators [-- NAME...]` measures; `-- --show NAME [COUNT] [held-out] [labels]` prints documents to be read.

use farthing_data::generators::KINDS;
use farthing_data::generators::manual::Manual;
use rand::SeedableRng;
use rand_pcg::Pcg64;
use rustix::time::{ClockId, clock_gettime};

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn manual() -> Manual {
    serde_json::from_str(include_str!("../tests/data/manual.json")).expect("a manual")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(("--show", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return show(rest);
    }
    for kind in KINDS.iter().filter(|kind| arguments.is_empty() || arguments.iter().any(|name| name == kind.name)) {
        let generator = (kind.make)(toml::Table::new(), &manual()).expect("default settings");
        let start = cpu_seconds();
        let (mut bytes, mut seed) = (0, 0);
        while cpu_seconds() - start < 2.0 {
            for _ in 0..100 {
                bytes += generator.generate(&mut Pcg64::seed_from_u64(seed), false).text.len();
                seed += 1;
            }
        }
        let seconds = cpu_seconds() - start;
        let (rate, mean) = (bytes as f64 / 1e6 / seconds, bytes as f64 / seed as f64);
        println!("{:15} {rate:7.1} MB/s a core   {mean:7.1} bytes a document", kind.name);
    }
}

fn show(arguments: &[String]) {
    let name = arguments.first().expect("a generator");
    let kind = KINDS.iter().find(|kind| kind.name == name).expect("a generator of this name");
    let generator = (kind.make)(toml::Table::new(), &manual()).expect("default settings");
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let count = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(20);
    for seed in 1_000..1_000 + count {
        let document = generator.generate(&mut Pcg64::seed_from_u64(seed), has("held-out"));
        println!("{}\n", document.text);
        if has("labels") {
            println!("    {}\n", serde_json::Value::Object(document.labels));
        }
    }
}
