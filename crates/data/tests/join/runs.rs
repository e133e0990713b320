//! Sorted runs against sorting in memory; damaged, truncated and foreign files

use farthing_data::Error;
use farthing_data::join::runs::{BLOCK_BYTES, Merge, Reader, Row, Scratch, Sorter, Writer, summary};
use farthing_data::join::{Decision, Record};
use proptest::prelude::*;

use super::*;

fn records(count: usize, seed: u64) -> Vec<Record> {
    // SplitMix64; few keys, so that there are ties.
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 27)
    };
    let record = |_| Record {
        key: u128::from(next() % 997) << 70,
        place: place(next() as usize % 5, next() as usize % 300),
        position: next() as u32 % 3,
    };
    (0..count).map(record).collect()
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort();
    records
}

fn scratch(directory: &Path) -> Scratch {
    Scratch::create(&directory.join("scratch")).unwrap()
}

fn write_run(path: &Path, records: &[Record]) {
    let mut writer = Writer::create(path, [7; 32]).unwrap();
    records.iter().for_each(|record| writer.write(record).unwrap());
    writer.finish().unwrap();
}

fn read_run(path: &Path) -> Result<Vec<Record>, Error> {
    Reader::open(path)?.collect()
}

#[test]
fn sorting_within_any_memory_is_sorting() {
    for count in [0, 1, 2, 1000, 60_000] {
        for memory_bytes in [1, 1000, 1 << 17, 1 << 26] {
            if memory_bytes == 1 && count > 1000 {
                continue;
            }
            let directory = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(scratch(directory.path()), memory_bytes);
            let all = records(count, count as u64);
            all.iter().for_each(|record| sorter.push(*record).unwrap());
            let back: Vec<Record> = sorter.finish().unwrap().map(Result::unwrap).collect();
            assert!(back == sorted(all), "{count} records within {memory_bytes} bytes");
            assert!(!directory.path().join("scratch").exists());
        }
    }
}

#[test]
fn any_number_of_runs_is_merged_with_few_open_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let all = records(20_000, 3);
    let write = |(number, some): (usize, &[Record])| {
        let path = directory.path().join(number.to_string());
        write_run(&path, &sorted(some.to_vec()));
        path
    };
    let runs: Vec<PathBuf> = all.chunks(97).enumerate().map(write).collect();
    let expected = sorted(all);
    for open_max in [2, 3, 10, 205, 206, 207, 1000] {
        let merge = Merge::new(&runs, scratch(directory.path()), open_max).unwrap();
        let back: Vec<Record> = merge.map(Result::unwrap).collect();
        assert!(back == expected, "at most {open_max} open");
    }
    assert!(runs.iter().all(|run| run.exists()), "only scratch is removed");
    let none = Merge::<Record>::new(&[], scratch(directory.path()), 2).unwrap();
    assert_eq!(none.count(), 0);
}

#[test]
fn decisions_and_records_come_back_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run");
    let extremes = [
        Record { key: 0, place: place(0, 0), position: 0 },
        Record { key: 0, place: place(0, 1), position: u32::MAX },
        Record { key: u128::MAX - 5, place: place(u32::MAX as usize, u32::MAX as usize), position: 1 << 31 },
    ];
    write_run(&path, &extremes);
    assert_eq!(read_run(&path).unwrap(), extremes);
    let it = summary::<Record>(&path).unwrap();
    assert_eq!((it.identity, it.records), ([7; 32], 3));

    let decision = Decision { place: place(1, 2), position: 3, kept: place(4, 5) };
    let mut writer = Writer::create(&path, [0; 32]).unwrap();
    writer.write(&decision).unwrap();
    writer.finish().unwrap();
    assert_eq!(Reader::open(&path).unwrap().map(Result::unwrap).collect::<Vec<Decision>>(), [decision]);
    // The frame's bytes are the format: other versions must be able to tell.
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(&bytes[..20], b"FARTHRUN\x01\0\0\0DECI\x14\0\0\0");
    assert_eq!(bytes[64 + 12..64 + 32], [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5]);
    assert_eq!(bytes.len(), 64 + 12 + 20 + 12 + 8);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn damage_is_found_and_never_read(count in 0usize..6000, at in any::<prop::sample::Index>(), change in 1u8..=255, cut: bool) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        let all = sorted(records(count, 5));
        write_run(&path, &all);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= change }
        std::fs::write(&path, &bytes).unwrap();
        let mut read = 0;
        let error = match Reader::<Record>::open(&path) {
            Err(error) => error,
            Ok(reader) => {
                let rows: Vec<_> = reader.collect();
                read = rows.iter().take_while(|row| row.is_ok()).count();
                prop_assert!(rows[..read].iter().zip(&all).all(|(row, record)| row.as_ref().unwrap() == record));
                prop_assert_eq!(rows.len(), read + 1, "an error, then the end");
                rows.into_iter().next_back().unwrap().unwrap_err()
            }
        };
        prop_assert!(matches!(&error, Error::File { .. }), "{}", error);
        prop_assert!(error.to_string().contains("remove this file"), "{}", error);
        prop_assert!(read * Record::BYTES <= at, "only whole blocks before the damage");
    }
}

#[test]
fn blocks_that_are_swapped_missing_or_too_many_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run");
    let block = 12 + BLOCK_BYTES / Record::BYTES * Record::BYTES;
    // Equal blocks: only their order in the chain tells them apart.
    write_run(&path, &vec![Record { key: 1, place: place(0, 0), position: 0 }; BLOCK_BYTES / Record::BYTES * 3]);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 64 + 3 * block + 20);
    let error = |changed: &[u8]| {
        std::fs::write(&path, changed).unwrap();
        read_run(&path).unwrap_err().to_string()
    };
    assert!(error(&[&bytes[..64 + block], &bytes[64 + 2 * block..]].concat()).contains("wrong checksum"));
    assert!(error(&[&bytes[..64 + block], &bytes[64..]].concat()).contains("wrong checksum"));
    assert!(error(&[&bytes[..], b"x"].concat()).contains("bytes after the end"));
    assert!(error(&[&bytes[..64], &bytes[64 + 3 * block..]].concat()).contains("wrong checksum"));
    assert!(error(&[&bytes[..64], &[255; 12][..]].concat()).contains("a block of 4294967295 records"));
    assert!(
        error(b"PK\x03\x04 and so on, until there are more bytes than a header has: 64 of them")
            .contains("not a sorted run")
    );
    assert!(error(b"").contains("ends after record 0"));
    assert!(read_run(&directory.path().join("none")).unwrap_err().to_string().contains("none"));
}

#[test]
fn runs_of_other_records_and_versions_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run");
    write_run(&path, &records(1, 1));
    let error = Reader::<Decision>::open(&path).err().unwrap().to_string();
    assert!(error.contains("RECO") && error.contains("DECI"), "{error}");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    std::fs::write(&path, bytes).unwrap();
    let error = Reader::<Record>::open(&path).err().unwrap().to_string();
    assert!(error.contains("version 2"), "{error}");
    assert!(summary::<Record>(&path).is_err() && summary::<Decision>(&path).is_err());
}

#[test]
fn an_error_in_one_run_ends_the_merge() {
    let directory = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..3).map(|number| directory.path().join(number.to_string())).collect();
    paths.iter().for_each(|path| write_run(path, &sorted(records(5000, 1))));
    let mut bytes = std::fs::read(&paths[1]).unwrap();
    bytes.truncate(bytes.len() - 1);
    std::fs::write(&paths[1], bytes).unwrap();
    let rows: Vec<_> = Merge::<Record>::new(&paths, scratch(directory.path()), 10).unwrap().collect();
    assert_eq!(rows.iter().filter(|row| row.is_err()).count(), 1);
    assert!(rows.last().unwrap().is_err());
    assert!(Merge::<Record>::new(&paths, scratch(directory.path()), 2).is_err(), "in an earlier pass");
}
