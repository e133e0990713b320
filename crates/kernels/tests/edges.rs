//! What happens at the edges: numbers that are none, rows far into a grid of factors, ranges that overflow, and how near `exp` is.

use std::panic::{AssertUnwindSafe, catch_unwind};

use farthing_kernels::dispatch::{tables, with_table};
use farthing_kernels::vectors::{Scalar, Vectors};
use farthing_kernels::*;

/// Both kernels of attention over one page.
fn both() -> [(&'static str, fn(Queries, Shape, Keys, &mut Attended)); 2] {
    [("f32", attend), ("fixed", |queries, shape, keys, state| attend_fixed(queries, shape, [keys].into_iter(), state))]
}

#[test]
fn exp_keeps_its_stated_error() {
    let mut worst = 0f64;
    for i in -87_300..=88_000 {
        let x = i as f32 / 1000.0;
        let got = Scalar.exp(Scalar.splat(x))[0] as f64;
        worst = worst.max((got / (x as f64).exp() - 1.0).abs());
    }
    assert!(worst < 2e-7, "{worst}");
    let one = |x: f32| Scalar.exp(Scalar.splat(x))[0];
    assert_eq!(one(0.0), 1.0);
    assert_eq!(one(f32::NEG_INFINITY), 0.0);
    assert_eq!(one(-88.0), 0.0);
    assert!(one(f32::INFINITY).is_finite());
}

#[test]
fn a_nan_is_never_made_a_number() {
    for table in tables() {
        with_table(table, || {
            let x = [1.0, f32::NAN, 2.0];
            let (mut gate, mut sigmoids, mut soft) = (x, x, x);
            silu_mul(&mut gate, &[1.0; 3]);
            sigmoid(&mut sigmoids);
            softmax(&mut soft);
            assert!(gate[1].is_nan() && !gate[0].is_nan(), "{}: silu {gate:?}", table.name);
            assert!(sigmoids[1].is_nan() && !sigmoids[0].is_nan(), "{}: sigmoid {sigmoids:?}", table.name);
            assert!(soft.iter().all(|x| x.is_nan()), "{}: softmax {soft:?}", table.name);
        });
    }
}

#[test]
fn what_is_no_number_reaches_all_who_see_it() {
    // In a query, a key or a value, at the first, a middle or the last number: the outputs of that query, or of all who see the position.
    let (key, value, count) = (70, 37, 9);
    let shape = Shape { heads: 5, key, value, scale: 0.1 };
    let numbers = |n: usize| (0..n).map(|i| (i * 7 % 11) as f32 / 5.0 - 1.0).collect::<Vec<f32>>();
    for table in tables() {
        for (name, attend) in both() {
            let run = |q: &[f32], k: &[f32], v: &[f32]| {
                let (mut max, mut sum) = ([f32::NEG_INFINITY; 5], [0.0; 5]);
                let mut acc = vec![0.0; 5 * value];
                let mut state = Attended { max: &mut max, sum: &mut sum, acc: &mut acc };
                let (keys, values) = (Numbers::F32(k), Numbers::F32(v));
                let (key_stride, value_stride, next) = (key, value, None);
                // Rows of one head: the first sees five positions, the last all nine.
                let page = Keys { keys, key_stride, values, value_stride, count, first_sees: 5, next };
                with_table(table, || attend(Queries { q, heads: 1, stride: key }, shape, page, &mut state));
                attend_finish(5, value, &mut state);
                acc.chunks(value).map(|row| row.iter().filter(|x| !x.is_finite()).count()).collect::<Vec<_>>()
            };
            let (q, k, v) = (numbers(5 * key), numbers(count * key), numbers(count * value));
            assert_eq!(run(&q, &k, &v), [0; 5], "{} {name}", table.name);
            for bad in [f32::NAN, f32::INFINITY] {
                for at in [0, 35, 69] {
                    let (mut bad_q, mut bad_k) = (q.clone(), k.clone());
                    bad_q[2 * key + at] = bad;
                    bad_k[7 * key + at] = bad;
                    assert_eq!(run(&bad_q, &k, &v), [0, 0, value, 0, 0], "{} {name}: a query", table.name);
                    // In f32 an infinite key may have a score of minus infinity, and then it is not seen.
                    if name == "fixed" || bad.is_nan() {
                        assert_eq!(run(&q, &bad_k, &v), [0, 0, 0, value, value], "{} {name}: a key", table.name);
                    }
                }
                for at in [0, 20, 36] {
                    let mut bad_v = v.clone();
                    bad_v[7 * value + at] = bad;
                    let hurt = run(&q, &k, &bad_v);
                    assert!(hurt[..3] == [0; 3] && hurt[3] > 0 && hurt[4] > 0, "{} {name}: {hurt:?}", table.name);
                }
            }
        }
    }
}

#[test]
fn fixed_point_at_the_ends_of_its_range() {
    // Whatever the numbers' sizes, no sum of integers wraps: all at their largest, tiny, huge, zero, one among zeros.
    let (key, value, count) = (320, 64, 64);
    let shape = Shape { heads: 4, key, value, scale: 1.0 };
    for table in tables() {
        for (q, k, v) in [
            (1.0f32, 1e-3f32, 3.0f32),
            (-1e-3, -1.0, -7.0),
            (1e18, 1e-19, 1e30),
            (0.0, 1.0, 1.0),
            (1.0, 0.0, 0.0),
            (1e-40, 1e-30, 1e-41),
        ] {
            let (qs, ks, vs) = (vec![q; 4 * key], vec![k; count * key], vec![v; count * value]);
            let (mut max, mut sum, mut acc) = ([f32::NEG_INFINITY; 4], [0.0; 4], vec![0.0; 4 * value]);
            let mut state = Attended { max: &mut max, sum: &mut sum, acc: &mut acc };
            let page = Keys {
                keys: Numbers::F32(&ks),
                key_stride: key,
                values: Numbers::F32(&vs),
                value_stride: value,
                count,
                first_sees: Keys::ALL,
                next: None,
            };
            with_table(table, || attend_fixed(Queries::one(&qs, 4), shape, [page].into_iter(), &mut state));
            let score = q * k * key as f32;
            assert!((state.max[0] - score).abs() <= score.abs() * 1e-5, "{}: {} {score}", table.name, state.max[0]);
            attend_finish(4, value, &mut state);
            assert!(acc.iter().all(|x| (x - v).abs() <= v.abs() * 1e-4 + 1e-30), "{}: {} {v}", table.name, acc[0]);
        }
        // Positions of zeros count in the sum, and the others keep their bits' worth.
        let (mut ks, mut vs) = (vec![0f32; count * key], vec![0f32; count * value]);
        ks[5 * key..6 * key].fill(1e-3);
        vs[5 * value..6 * value].fill(2.0);
        let (mut max, mut sum, mut acc) = ([f32::NEG_INFINITY; 4], [0.0; 4], vec![0.0; 4 * value]);
        let mut state = Attended { max: &mut max, sum: &mut sum, acc: &mut acc };
        let page = Keys {
            keys: Numbers::F32(&ks),
            key_stride: key,
            values: Numbers::F32(&vs),
            value_stride: value,
            count,
            first_sees: Keys::ALL,
            next: None,
        };
        let qs = vec![1f32; 4 * key];
        with_table(table, || attend_fixed(Queries::one(&qs, 4), shape, [page].into_iter(), &mut state));
        attend_finish(4, value, &mut state);
        let e = 0.32f32.exp();
        assert!((acc[0] - 2.0 * e / (e + 63.0)).abs() < 1e-5, "{}: {}", table.name, acc[0]);
    }
}

#[test]
fn a_nan_or_infinity_in_the_input_reaches_quantised_products() {
    let pool = Pool::new(1);
    let weight = [[0x00, 0x3c].as_slice(), &[1; 32]].concat();
    for table in tables() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1f32; 32];
            x[9] = bad;
            let out = with_table(table, || {
                let mut q = Quantized::new();
                q.quantize(&pool, &x, 1, 32);
                let mut out = [0f32];
                let input = Input { x: &x, rows: 1, cols: 32, quantized: Some(&q) };
                let weight = Matrix::new(Format::Q8_0, 1, 32, &weight);
                matmul(&pool, &mut [Product { weight, input, rows: Rows::All, out: &mut out }]);
                out[0]
            });
            assert!(!out.is_finite(), "{}: {bad} became {out}", table.name);
        }
    }
}

#[test]
fn what_a_row_does_not_see_changes_nothing() {
    // A later key that is no number, a stale buffer, a page that lies ahead of all rows: earlier rows keep their bits.
    let (heads, rows, key, value, count) = (3, 5, 20, 37, 11);
    let shape = Shape { heads: heads * rows, key, value, scale: 0.5 };
    let q: Vec<f32> = (0..rows * heads * key).map(|i| (i % 13) as f32 - 6.0).collect();
    let k: Vec<f32> = (0..count * key).map(|i| (i % 7) as f32 - 3.0).collect();
    let v: Vec<f32> = (0..count * value).map(|i| (i % 11) as f32 - 5.0).collect();
    for (table, (name, attend)) in tables().into_iter().flat_map(|table| both().map(|kernel| (table, kernel))) {
        with_table(table, || {
            let run = |k: &[f32], v: &[f32], first_sees| {
                let (mut max, mut sum) = (vec![2.0; heads * rows], vec![3.0; heads * rows]);
                let mut acc: Vec<f32> = (0..heads * rows * value).map(|i| (i % 5) as f32 - 2.0).collect();
                let mut state = Attended { max: &mut max, sum: &mut sum, acc: &mut acc };
                let (keys, values) = (Numbers::F32(k), Numbers::F32(v));
                let (key_stride, value_stride, next) = (key, value, Some((keys, values)));
                let page = Keys { keys, key_stride, values, value_stride, count, first_sees, next };
                attend(Queries { q: &q, heads, stride: heads * key }, shape, page, &mut state);
                [max, sum, acc]
            };
            let (mut bad_k, mut bad_v) = (k.clone(), v.clone());
            bad_k[6 * key..].fill(f32::NAN);
            bad_v[6 * value..].fill(f32::INFINITY);
            let (good, bad) = (run(&k, &v, 2), run(&bad_k, &bad_v, 2));
            for ((good, bad), per_row) in good.iter().zip(&bad).zip([heads, heads, heads * value]) {
                assert_eq!(good, bad, "{} {name}: rows see 2 to 6 keys", table.name);
                assert_eq!(good.len(), per_row * rows);
            }
            assert!(
                run(&bad_k, &bad_v, 3)[2].iter().any(|x| x.is_nan()),
                "{}: the last row sees a seventh",
                table.name
            );
            for ahead in [-4, -100, isize::MIN] {
                let after = run(&bad_k, &bad_v, ahead);
                assert_eq!(after[0], vec![2.0; heads * rows], "{}", table.name);
                assert_eq!(after[1], vec![3.0; heads * rows], "{}", table.name);
            }
            // Of five rows from -2 on, two see one key and two.
            let some = run(&k, &v, -2);
            assert_eq!(some[1][..3 * heads], vec![3.0; 3 * heads]);
            assert!(some[1][3 * heads..].iter().all(|&x| x != 3.0));
        });
    }
}

#[test]
fn keys_or_values_without_numbers() {
    for table in tables() {
        for (name, attend) in both() {
            for (key, value) in [(4, 0), (0, 3), (0, 0)] {
                let (mut max, mut sum, mut acc) = ([f32::NEG_INFINITY], [0.0], vec![0.0; value]);
                let mut state = Attended { max: &mut max, sum: &mut sum, acc: &mut acc };
                let numbers = Numbers::F32(&[1.0; 8]);
                let (keys, values) = (numbers, numbers);
                let (key_stride, value_stride, next) = (4, 4, None);
                let page = Keys { keys, key_stride, values, value_stride, count: 2, first_sees: Keys::ALL, next };
                let shape = Shape { heads: 1, key, value, scale: 1.0 };
                with_table(table, || attend(Queries::one(&[1.0; 4], 1), shape, page, &mut state));
                attend_finish(1, value, &mut state);
                let (score, close) = (key as f32, |x: f32, y: f32| (x - y).abs() < 1e-3);
                assert!(close(max[0], score) && close(sum[0], 2.0), "{} {name}: {max:?} {sum:?}", table.name);
                assert!(acc.iter().all(|&x| close(x, 1.0)), "{} {name}: {acc:?}", table.name);
            }
        }
    }
}

#[test]
fn an_empty_part_changes_no_state() {
    for table in tables() {
        with_table(table, || {
            let (mut max, mut sum, mut acc) = ([f32::NEG_INFINITY, 3.0], [0.0, 2.0], [0.0, 7.0]);
            let mut state = Attended { max: &mut max, sum: &mut sum, acc: &mut acc };
            attend_merge(2, 1, (&[f32::NEG_INFINITY; 2], &[0.0; 2], &[0.0; 2]), &mut state);
            assert_eq!((max, sum, acc), ([f32::NEG_INFINITY, 3.0], [0.0, 2.0], [0.0, 7.0]), "{}", table.name);
        });
    }
}

#[test]
fn fp8_rows_take_the_factor_of_their_place_in_the_tensor() {
    // A tensor of 384 x 200 ones: factors are 1, 2 | 3, 4 | 5, 6; views start at any row.
    const ONE: u8 = 0x38;
    let (cols, factors) = (200usize, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let x = vec![1f32; cols];
    for (first, rows) in [(0, 384), (100, 60), (128, 128), (130, 200), (255, 2), (383, 1)] {
        let bytes = vec![ONE; rows * cols];
        let w = Matrix::with_scales(rows, cols, &bytes, &factors, first);
        for table in tables() {
            with_table(table, || {
                let pool = Pool::new(1);
                let mut out = vec![0f32; rows];
                let input = Input { x: &x, rows: 1, cols, quantized: None };
                matmul(&pool, &mut [Product { weight: w, input, rows: Rows::All, out: &mut out }]);
                let mut decoded = vec![0f32; cols];
                for (r, out) in out.iter().enumerate() {
                    let grid = (first + r) / 128;
                    assert_eq!(
                        *out,
                        128.0 * factors[2 * grid] + 72.0 * factors[2 * grid + 1],
                        "{} {first}+{r}",
                        table.name
                    );
                    w.decode_row(r, &mut decoded);
                    assert_eq!((decoded[127], decoded[128]), (factors[2 * grid], factors[2 * grid + 1]));
                }
            });
        }
    }
}

#[test]
fn a_range_of_rows_that_overflows_is_refused() {
    let pool = Pool::new(1);
    let bytes = [0u8; 4];
    let input = Input { x: &[1.0], rows: 1, cols: 1, quantized: None };
    for rows in [Rows::Range(usize::MAX, 1), Rows::Range(1, 1), Rows::List(&[1])] {
        let refused = catch_unwind(AssertUnwindSafe(|| {
            let weight = Matrix::new(Format::F32, 1, 1, &bytes);
            matmul(&pool, &mut [Product { weight, input, rows, out: &mut [0.0] }]);
        }));
        let message = refused.unwrap_err();
        let message = message.downcast_ref::<&str>().copied().unwrap_or("another panic");
        assert_eq!(message, "input rows");
    }
}

#[test]
fn a_matrix_that_is_not_whole_blocks_is_refused() {
    let pool = Pool::new(1);
    let x = [0f32; 320];
    let mut q = Quantized::new();
    q.quantize(&pool, &x, 1, 320);
    let bytes = [0u8; 144];
    let weight = Matrix { cols: 320, ..Matrix::new(Format::Q4K, 1, 256, &bytes) };
    let input = Input { x: &x, rows: 1, cols: 320, quantized: Some(&q) };
    let product = || matmul(&pool, &mut [Product { weight, input, rows: Rows::All, out: &mut [0.0] }]);
    let transposed =
        || matmul_transposed(&pool, &mut [Transposed { weight, x: &[1.0], rows: 1, out: &mut [0.0; 320] }]);
    assert!(catch_unwind(AssertUnwindSafe(product)).is_err());
    assert!(catch_unwind(AssertUnwindSafe(transposed)).is_err());
    assert!(catch_unwind(|| weight.decode_row(0, &mut [0.0; 320])).is_err());
}
