//! The importance of columns, measured: what transformers multiplies each weight with, and a file that is read again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use convert::{Mix, read_importance};
use farthing::quantize::{QuantizeOptions, measure_importance, quantize};
use farthing::{LoadOptions, PlannedModel};
use kernels::Pool;
use model::{CacheFormat, Checkpoint};
use safetensors::SafeTensors;

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/oracle").join(name)
}

fn planned(path: &Path) -> PlannedModel {
    let options = LoadOptions { context: Some(24), cache: Some(CacheFormat::F32), ..LoadOptions::default() };
    PlannedModel::new(Checkpoint::open(path).unwrap(), &options).unwrap()
}

/// Texts as in `data/make_importance.py`.
fn texts(vocabulary: usize) -> Vec<Vec<u32>> {
    [3, 11].map(|start| (0..24).map(|i| ((start + 7 * i * i + i) % vocabulary) as u32).collect()).into()
}

fn floats(tensors: &SafeTensors, name: &str) -> Vec<f32> {
    let bytes = tensors.tensor(name).unwrap().data().as_chunks::<4>().0;
    bytes.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn importance_is_what_weights_are_multiplied_with() {
    for name in ["llama-gqa", "deepseek-v2-lite-shape", "deepseek-v3-shape"] {
        let planned = planned(&case(name));
        let texts = texts(planned.checkpoint.structure.vocab);
        let measure = measure_importance(planned, &texts, &|_| true).unwrap().unwrap();
        let (importance, folder) = (measure.importance(), tempfile::tempdir().unwrap());
        let file = folder.path().join("imatrix.gguf");
        measure.save(&file, ("a text", 2, 24)).unwrap();
        assert_eq!(read_importance(&file).unwrap().keys().collect::<Vec<_>>(), importance.keys().collect::<Vec<_>>());
        let read = read_importance(&file).unwrap();

        let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{name}.importance.safetensors"));
        let bytes = std::fs::read(reference).unwrap();
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        let names: Vec<&str> = reference.names().into_iter().filter_map(|name| name.strip_suffix(".in_sum2")).collect();
        for tensor in &names {
            let (sums, counts) =
                (floats(&reference, &format!("{tensor}.in_sum2")), floats(&reference, &format!("{tensor}.counts")));
            let cols = sums.len() / counts.len();
            let found = importance.get(*tensor).unwrap_or_else(|| panic!("{name}: {tensor} was not seen"));
            // The expansion of latents is multiplied with what its head has mixed of them, and not with each.
            if tensor.ends_with("attn_v_b.weight") {
                assert!(found.len() > sums.len() && found.len().is_multiple_of(sums.len()), "{name} {tensor}");
                continue;
            }
            assert_eq!(found.len(), sums.len(), "{name} {tensor}");
            for (i, found) in found.iter().enumerate() {
                let (matrix, column) = (i / cols, i % cols);
                let expected = if counts[matrix] > 0.0 { sums[matrix * cols + column] / counts[matrix] } else { 1.0 };
                let off = (found - expected).abs() / expected.max(1e-6);
                assert!(off < 1e-3, "{name} {tensor} {matrix} {column}: {found} {expected}");
                assert!(
                    (read[*tensor][i] - found).abs() <= 1e-6 * found,
                    "{name} {tensor}: {} {found}",
                    read[*tensor][i]
                );
            }
        }
        assert!(names.len() > 10 && names.len() == importance.len(), "{name}: {} {}", names.len(), importance.len());
    }
}

#[test]
fn a_wish_to_stop_is_heard_between_texts() {
    let planned = planned(&case("llama-gqa"));
    let texts = texts(planned.checkpoint.structure.vocab);
    assert!(measure_importance(planned, &texts, &|read| read < 1).unwrap().is_none());
}

/// What was rounded to blocks is multiplied with rounded numbers.
#[test]
fn importance_is_measured_on_the_original() {
    let (folder, original) = (tempfile::tempdir().unwrap(), Checkpoint::open(&case("llama-gqa")).unwrap());
    let path = folder.path().join("rounded.gguf");
    let options = QuantizeOptions { mix: Mix::named("Q8_0").unwrap(), importance: BTreeMap::new(), name: None };
    quantize(&original, &path, options, &Pool::new(1), &()).unwrap();
    let error = measure_importance(planned(&path), &[vec![1, 2]], &|_| true).err().expect("refused").to_string();
    assert!(error.contains("take the original"), "{error}");
}

/// What is lost counts by importance, for each expert by its own.
#[test]
fn columns_that_matter_lose_less() {
    for name in ["llama-gqa", "deepseek-v2-lite-shape"] {
        let (checkpoint, folder) = (Checkpoint::open(&case(name)).unwrap(), tempfile::tempdir().unwrap());
        let texts = texts(checkpoint.structure.vocab);
        let importance = measure_importance(planned(&case(name)), &texts, &|_| true).unwrap().unwrap().importance();
        let written = |file: &str, mix: &str, importance: BTreeMap<String, Vec<f32>>| {
            let path = folder.path().join(file);
            let options = QuantizeOptions { mix: Mix::named(mix).unwrap(), importance, name: None };
            quantize(&checkpoint, &path, options, &Pool::new(1), &()).unwrap();
            Checkpoint::open(&path).unwrap().tensors
        };
        let exact = written("f32.gguf", "F32", BTreeMap::new());
        let without = written("without.gguf", "Q4_0", BTreeMap::new());
        let with = written("with.gguf", "Q4_0", importance.clone());
        let (mut compared, mut sums) = (0, [0.0; 2]);
        for (tensor, importance) in &importance {
            let exact = exact.rows(tensor).unwrap();
            let (rows, cols) = (exact.rows, exact.cols);
            let of_matrix = rows / (importance.len() / cols);
            let lost = |tensors: &model::tensors::Tensors| -> f64 {
                let rounded = tensors.rows(tensor).unwrap();
                let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
                let row = |row: usize| -> f64 {
                    exact.matrix().decode_row(row, &mut a);
                    rounded.matrix().decode_row(row, &mut b);
                    let weights = &importance[row / of_matrix * cols..][..cols];
                    let squares = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2));
                    squares.zip(weights).map(|(square, &weight)| square * f64::from(weight)).sum()
                };
                // Of a stack the last matrix alone, whose importance is its own.
                (rows - of_matrix..rows).map(row).sum()
            };
            let (plain, weighed) = (lost(&without), lost(&with));
            if plain > 0.0 {
                compared += 1;
                [plain, weighed].iter().zip(&mut sums).for_each(|(lost, sum)| *sum += lost);
                assert!(weighed < 1.05 * plain, "{name} {tensor}: {weighed} {plain}");
            }
        }
        assert!(compared > 5 && sums[1] < 0.97 * sums[0], "{name}: {compared} tensors, {sums:?}");
    }
}
