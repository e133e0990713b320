//! Joins: MB/s of what documents leave, records/s of sorting and merging, peak memory over gigabytes of records, and the duplicates in a file.
//!
//! `cargo bench -p farthing-data --bench dedup [-- speed [FILE]]`: in CPU-seconds of one core, on the text of a file, or else on one that it makes.
//! `-- memory MEGABYTES... [in DIRECTORY]`: records of so many bytes are sorted in parts and decided on within 256 MiB.
//! `-- duplicates STEP FILE.jsonl`: prints the `id` of each document that the step drops, and of the one that is kept, by their `text`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use farthing_data::join::runs::{Merge, OPEN_MAX, Row, Scratch, Sorter, Writer};
use farthing_data::join::{Join, PartDecisions, PartRecords, Place, Record, Records, decide};
use farthing_data::steps::{KINDS, Made, Surroundings};
use farthing_data::{Document, Verdict};
use rustix::time::{ClockId, clock_gettime};

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn join(name: &str, settings: &str) -> Box<dyn Join> {
    let kind = KINDS.iter().find(|kind| kind.name == name).expect("the name of a step");
    let surroundings = Surroundings { directory: Path::new("."), seed: 1 };
    match (kind.make)(toml::from_str(settings).expect("TOML"), surroundings).expect("settings") {
        Made::Joined(join) => join,
        Made::Alone(_) => panic!("{name} looks at each document alone"),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["speed"] => speed(&made_text()),
        ["speed", file] => speed(&std::fs::read_to_string(file).expect("text")),
        ["memory", ref sizes @ .., "in", directory] => memory(sizes, Path::new(directory)),
        ["memory", ref sizes @ ..] => memory(sizes, &std::env::temp_dir()),
        ["duplicates", step, file] => duplicates(step, file),
        _ => println!("speed [FILE], memory MEGABYTES... [in DIRECTORY], or duplicates STEP FILE.jsonl"),
    }
}

/// Words of 1 to 9 letters with punctuation: 30 MB.
fn made_text() -> String {
    let mut random = 1;
    let mut text = String::new();
    while text.len() < 30_000_000 {
        let number = next(&mut random);
        (0..1 + number % 9).for_each(|i| text.push(char::from(b'a' + (number >> (8 + 5 * i)) as u8 % 26)));
        text.push_str(["", "", "", "", "", ",", ".", "\n"][(number >> 60) as usize % 8]);
        text.push(' ');
    }
    text
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn speed(text: &str) {
    // About 3 kB each, as web pages are.
    let mut documents = vec![String::new()];
    for line in text.split_inclusive('\n') {
        documents.last_mut().expect("one").push_str(line);
        if documents.last().expect("one").len() > 3000 {
            documents.push(String::new());
        }
    }
    let bytes = documents.iter().map(String::len).sum::<usize>() as f64;
    println!("{} documents, {:.1} MB", documents.len(), bytes / 1e6);
    let mut documents: Vec<Document> = documents.into_iter().map(|text| Document::new("", text)).collect();
    for (name, settings) in [
        ("exact_dedup", ""),
        ("exact_dedup", "normalize = 'whitespace'"),
        ("exact_dedup", "normalize = 'letters'"),
        ("near_dedup", ""),
        ("line_dedup", ""),
        ("substring_dedup", ""),
    ] {
        let join = join(name, settings);
        let (mut records, mut rounds, start) = (Vec::new(), 0, cpu_seconds());
        while cpu_seconds() - start < 2.0 {
            records.clear();
            documents.iter_mut().for_each(|document| join.records(document, &mut records));
            rounds += 1;
        }
        let rate = bytes * f64::from(rounds) / (cpu_seconds() - start) / 1e6;
        println!("{name:16} {settings:26} {rate:8.1} MB/s a core {:10} records", records.len());
    }
    sorting();
}

fn sorting() {
    let directory = tempfile::tempdir().expect("a directory");
    let scratch = |name: &str| Scratch::create(&directory.path().join(name)).expect("a directory");
    let (count, mut random, start) = (8_000_000, 1, cpu_seconds());
    let mut sorter = Sorter::new(scratch("sort"), 64 << 20);
    for number in 0..count {
        sorter.push(record(&mut random, 0, number)).expect("room");
    }
    let sorted = sorter.finish().expect("room").filter(Result::is_ok).count();
    let seconds = cpu_seconds() - start;
    println!("sort {sorted} records within 64 MiB: {:.1} million records/s a core", sorted as f64 / seconds / 1e6);
    for runs in [16, 256] {
        let paths: Vec<PathBuf> = (0..runs).map(|run| directory.path().join(run.to_string())).collect();
        for (part, path) in paths.iter().enumerate() {
            let mut rows: Vec<Record> = (0..count / runs).map(|n| record(&mut random, part as u32, n)).collect();
            rows.sort_unstable();
            let mut writer = Writer::create(path, [0; 32]).expect("room");
            rows.iter().for_each(|row| writer.write(row).expect("room"));
            writer.finish().expect("room");
        }
        let start = cpu_seconds();
        let merged =
            Merge::<Record>::new(&paths, scratch("merge"), OPEN_MAX).expect("runs").filter(Result::is_ok).count();
        let rate = merged as f64 / (cpu_seconds() - start) / 1e6;
        println!("merge {merged} records of {runs} runs: {rate:.1} million records/s a core");
    }
}

/// One in ten has a key that others have.
fn record(random: &mut u64, part: u32, document: u32) -> Record {
    let number = next(random);
    let key = if number.is_multiple_of(10) { number % 10_000_000 } else { number };
    Record { key: u128::from(key) << 64, place: Place { part, document }, position: 0 }
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

fn memory(sizes: &[&str], directory: &Path) {
    const MEMORY_BYTES: usize = 256 << 20;
    const PART_RECORDS: u64 = 1_000_000;
    println!("before: {} MB resident at most", peak_bytes() >> 20);
    for size in sizes {
        let megabytes: u64 = size.parse().expect("a number of megabytes");
        let folder = tempfile::tempdir_in(directory).expect("a directory");
        let parts = (megabytes << 20) / Record::BYTES as u64 / PART_RECORDS;
        let (mut random, start, cpu) = (megabytes, Instant::now(), cpu_seconds());
        let write = |part: u64| {
            let path = folder.path().join(format!("{part}.records"));
            let scratch = Scratch::create(&folder.path().join("scratch")).expect("room");
            let mut sorter = Sorter::new(scratch, MEMORY_BYTES);
            for document in 0..PART_RECORDS as u32 {
                sorter.push(record(&mut random, part as u32, document)).expect("room");
            }
            sorter.finish_run(&path, [0; 32]).expect("room");
            path
        };
        let runs: Vec<PathBuf> = (0..parts).map(write).collect();
        let documents = vec![PART_RECORDS as u32; parts as usize];
        let (sorted, sorted_cpu) = (start.elapsed(), cpu_seconds() - cpu);
        for name in ["exact_dedup", "near_dedup"] {
            let records = Records { settings: name, runs: &runs, documents: &documents };
            let (start, cpu) = (Instant::now(), cpu_seconds());
            let decided = decide(&*join(name, ""), &records, &folder.path().join(name), MEMORY_BYTES).expect("room");
            let bytes: u64 = decided.iter().map(|run| std::fs::metadata(run).expect("a run").len()).sum();
            println!(
                "{megabytes} MB in {parts} runs of {PART_RECORDS} records: sorted in {:.0} s ({sorted_cpu:.0} CPU-s), {name} decided in {:.0} s \
                 ({:.0} CPU-s), {} MB of decisions; {} MB resident at most",
                sorted.as_secs_f64(),
                start.elapsed().as_secs_f64(),
                cpu_seconds() - cpu,
                bytes >> 20,
                peak_bytes() >> 20
            );
        }
    }
}

fn duplicates(step: &str, file: &str) {
    let text = std::fs::read_to_string(file).expect("JSONL");
    let mut documents: Vec<Document> = Vec::new();
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let field = |name: &str| record[name].as_str().expect("a string").to_string();
        documents.push(Document::new(field("id"), field("text")));
    }
    let join = join(step, "");
    join.describe().iter().for_each(|line| eprintln!("{line}"));
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("records");
    let mut records = PartRecords::create(&*join, 0, &folder.path().join("scratch"), 64 << 20).expect("room");
    documents.iter_mut().for_each(|document| records.add(document).expect("room"));
    let (count, _) = records.finish(&path, [0; 32]).expect("room");
    let records = Records { settings: step, runs: &[path], documents: &[count] };
    let runs = decide(&*join, &records, &folder.path().join("decisions"), 64 << 20).expect("room");
    let mut decisions = PartDecisions::open(&runs[0]).expect("a run");
    let ids: Vec<String> = documents.iter().map(|document| document.id.clone()).collect();
    for (number, document) in documents.iter_mut().enumerate() {
        let decisions = decisions.of(number as u32).expect("a run");
        if join.apply(document, decisions) != Verdict::Keep {
            println!("{} {}", document.id, ids[decisions[0].kept.document as usize]);
        }
    }
}
