//! Shards in Megatron-LM's format against files that megatron-core 0.16.1 wrote (`IndexedDatasetBuilder`), and against damaged ones

use std::path::{Path, PathBuf};

use farthing_data::Error;
use farthing_data::shards::megatron::{Reader, TokenType, Writer, paths};
use proptest::prelude::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn sequence(shard: &Reader, i: usize) -> Vec<u32> {
    let mut tokens = Vec::new();
    shard.read(i, &mut tokens).unwrap();
    assert_eq!(tokens.len(), shard.length(i));
    tokens
}

fn write(prefix: &Path, token_type: TokenType, documents: &[Vec<u32>]) {
    let mut writer = Writer::create(prefix, token_type).unwrap();
    documents.iter().for_each(|tokens| writer.document(tokens).unwrap());
    let written = writer.finish().unwrap();
    assert_eq!(written.documents, documents.len() as u64);
    assert_eq!(written.tokens, documents.iter().map(|tokens| tokens.len() as u64).sum::<u64>());
    let (bin, index) = paths(prefix);
    let hash = |path| blake3::hash(&std::fs::read(path).unwrap()).to_hex().to_string();
    assert_eq!((written.bin_blake3, written.idx_blake3), (hash(bin), hash(index)));
}

#[test]
fn its_files_are_read() {
    let shard = Reader::open(&fixture("megatron_uint16")).unwrap();
    assert_eq!((shard.token_type(), shard.documents(), shard.sequences()), (TokenType::Uint16, 3, 4));
    assert_eq!(shard.tokens(), 305);
    assert_eq!(shard.sequences_of(0), 0..2);
    assert_eq!(shard.sequences_of(2), 3..4);
    assert_eq!([sequence(&shard, 0), sequence(&shard, 1), sequence(&shard, 2)], [vec![1, 2, 3], vec![65_499], vec![7]]);
    assert_eq!(sequence(&shard, 3), (0..300).map(|i| i * i % 65_500).collect::<Vec<u32>>());

    let shard = Reader::open(&fixture("megatron_int32")).unwrap();
    assert_eq!((shard.token_type(), shard.documents(), shard.sequences()), (TokenType::Int32, 2, 3));
    assert_eq!(
        [sequence(&shard, 0), sequence(&shard, 1), sequence(&shard, 2)],
        [vec![0, 99_999], vec![5, 6, 7], vec![8]]
    );

    let shard = Reader::open(&fixture("megatron_multimodal")).unwrap();
    assert_eq!([sequence(&shard, 0), sequence(&shard, 1)], [vec![1, 2], vec![3]]);
}

#[test]
fn the_same_documents_give_its_bytes() {
    // Documents of one sequence each, as this crate writes them; the fixture has the sequences 1 2 3 | 65499 in its first document.
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("ours");
    let last: Vec<u32> = (0..300).map(|i| i * i % 65_500).collect();
    write(&prefix, TokenType::of_vocabulary(65_499), &[vec![1, 2, 3], vec![65_499], vec![7], last]);
    let read = |path: &Path| std::fs::read(path).unwrap();
    let ((our_bin, our_index), (bin, index)) = (paths(&prefix), paths(&fixture("megatron_uint16")));
    assert_eq!(read(&our_bin), read(&bin));
    let mut expected = read(&index);
    // One boundary more: 0 1 2 3 4, not 0 2 3 4.
    expected[26] += 1;
    let second = expected.len() - 3 * 8;
    expected.splice(second..second, 1i64.to_le_bytes());
    assert_eq!(read(&our_index), expected);
    assert_eq!(TokenType::of_vocabulary(65_500), TokenType::Int32);
}

#[test]
fn a_shard_is_there_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("train.0");
    write(&prefix, TokenType::Uint16, &[vec![1]]);
    let mut writer = Writer::create(&prefix, TokenType::Uint16).unwrap();
    assert!(matches!(Reader::open(&prefix), Err(Error::Io { .. })), "an index of other tokens");
    let error = writer.document(&[65_536]).unwrap_err().to_string();
    assert!(error.contains("token 65536 is above 65535"), "{error}");
    drop(writer);
    assert!(Reader::open(&prefix).is_err());
    write(&prefix, TokenType::Int32, &[]);
    assert_eq!(Reader::open(&prefix).unwrap().documents(), 0);
}

#[test]
fn damaged_files_are_errors_that_name_the_damage() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("x");
    let (bin, index) = paths(&prefix);
    let (good_bin, good_index) = paths(&fixture("megatron_uint16"));
    let good = std::fs::read(&good_index).unwrap();
    let error = |index_bytes: &[u8], bin_bytes: usize| {
        std::fs::write(&index, index_bytes).unwrap();
        std::fs::write(&bin, &std::fs::read(&good_bin).unwrap()[..bin_bytes]).unwrap();
        match Reader::open(&prefix) {
            Ok(_) => String::new(),
            Err(e) => e.to_string(),
        }
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut index = good.clone();
        index[at..at + bytes.len()].copy_from_slice(bytes);
        index
    };
    assert_eq!(error(&good, 610), "");
    let lengths = 34;
    let offsets = lengths + 4 * 4;
    let boundaries = offsets + 4 * 8;
    for (index, bin_bytes, expected) in [
        (good[..20].to_vec(), 610, "it has 20 bytes"),
        (good[..113].to_vec(), 610, "do not make 113 bytes"),
        (with(0, b"MMIDIDY"), 610, "it begins with"),
        (with(9, &[2]), 610, "version 2"),
        (with(17, &[7]), 610, "token type 7"),
        (with(18, &u64::MAX.to_le_bytes()), 610, "do not make"),
        (with(26, &(1u64 << 60).to_le_bytes()), 610, "do not make"),
        (with(lengths, &(-1i32).to_le_bytes()), 610, "sequence 0 has -1 tokens"),
        (with(lengths, &i32::MAX.to_le_bytes()), 610, "sequence 0 has 2147483647 tokens"),
        (with(offsets, &(-2i64).to_le_bytes()), 610, "is -2"),
        (with(offsets, &1i64.to_le_bytes()), 610, "at 1, which is not inside"),
        (with(offsets, &(i64::MAX - 1).to_le_bytes()), 610, "which is not inside"),
        (good.clone(), 608, "sequence 3"),
        (with(boundaries, &1i64.to_le_bytes()), 610, "boundaries do not go from 0"),
        (with(boundaries + 8, &9i64.to_le_bytes()), 610, "boundaries do not go from 0"),
        (with(boundaries + 24, &3i64.to_le_bytes()), 610, "boundaries do not go from 0"),
    ] {
        let error = error(&index, bin_bytes);
        assert!(error.contains(expected), "{error:?} instead of {expected:?}");
    }
    // A negative token shows when it is read.
    std::fs::write(&index, with(17, &[3])).unwrap();
    std::fs::write(&bin, std::fs::read(&good_bin).unwrap()).unwrap();
    let error = Reader::open(&prefix).unwrap().read(1, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("token at byte 6 is negative"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        documents in prop::collection::vec(prop::collection::vec(0u32..65_536, 0..50), 0..20),
        wide: bool,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("x");
        write(&prefix, if wide { TokenType::Int32 } else { TokenType::Uint16 }, &documents);
        let shard = Reader::open(&prefix).unwrap();
        let back: Vec<Vec<u32>> = (0..shard.documents()).map(|i| sequence(&shard, i)).collect();
        prop_assert_eq!(back, documents);
    }

    #[test]
    fn any_index_is_read_or_refused(flips in prop::collection::vec((0usize..114, any::<u8>()), 1..6), cut in 0usize..115) {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("x");
        let (bin, index) = paths(&prefix);
        let (good_bin, good_index) = paths(&fixture("megatron_uint16"));
        std::fs::copy(good_bin, bin).unwrap();
        let mut bytes = std::fs::read(good_index).unwrap();
        flips.iter().for_each(|&(at, byte)| bytes[at] = byte);
        bytes.truncate(cut.max(bytes.len() - cut));
        std::fs::write(index, bytes).unwrap();
        if let Ok(shard) = Reader::open(&prefix) {
            for i in 0..shard.sequences() {
                let _ = shard.read(i, &mut Vec::new());
            }
        }
    }
}
