//! Products of bf16: two a lane and instruction.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::Avx512;
use crate::training::multiply::Multiply;
use crate::training::{Kernel, kernel};
use crate::vectors::for_features;

/// Products of f32 matrices whose numbers are rounded to bf16.
pub(super) const KERNEL: Kernel = kernel!(
    Avx512,
    Avx512::proof(),
    Bf16,
    Bf16::proof(),
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16"
);

/// The instructions, where the processor has them.
#[derive(Clone, Copy)]
struct Bf16(());

impl Bf16 {
    /// The proof of a function that is compiled for them: whoever calls that function answers for the processor.
    #[target_feature(enable = "avx512bf16")]
    #[inline]
    fn proof() -> Self {
        Bf16(())
    }

    for_features! {
        "avx512f,avx512bw,avx512vl,avx512bf16";
        /// Two numbers a lane, in their order.
        fn in_sequence(self, low: __m512, high: __m512) -> __m512i {
            // SAFETY: both are 64 bytes of plain numbers.
            unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
        }
        /// A number of each a lane.
        fn paired(self, even: __m512, odd: __m512) -> __m512i {
            // Number i to place 2 i, number 16 + i to the one after.
            let places = _mm512_set_epi32(
                0x1f_000f, 0x1e_000e, 0x1d_000d, 0x1c_000c, 0x1b_000b, 0x1a_000a, 0x19_0009, 0x18_0008,
                0x17_0007, 0x16_0006, 0x15_0005, 0x14_0004, 0x13_0003, 0x12_0002, 0x11_0001, 0x10_0000,
            );
            // SAFETY: both are 64 bytes of plain numbers.
            let both = unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even)) };
            _mm512_permutexvar_epi16(places, both)
        }
        fn dot(self, sum: __m512, a: i32, b: __m512i) -> __m512 {
            // SAFETY: all are 64 bytes of plain numbers.
            unsafe {
                let a = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a));
                _mm512_dpbf16_ps(sum, a, transmute::<__m512i, __m512bh>(b))
            }
        }
    }
}

impl Multiply<Avx512> for Bf16 {
    const NUMBERS: usize = 2;
    const SWAPPED: usize = 0;

    fn words(numbers: usize) -> usize {
        numbers.div_ceil(2)
    }

    #[inline(always)]
    fn along(self, isa: Avx512, row: &[f32]) -> __m512i {
        use crate::vectors::Vectors;
        self.in_sequence(isa.load(row), isa.load(&row[16..]))
    }

    #[inline(always)]
    fn across(self, _: Avx512, even: __m512, odd: __m512) -> [__m512i; 2] {
        let pairs = self.paired(even, odd);
        [pairs, pairs]
    }

    #[inline(always)]
    fn in_order(self, _: Avx512, low: __m512, high: __m512) -> [__m512i; 2] {
        let words = self.in_sequence(low, high);
        [words, words]
    }

    #[inline(always)]
    fn step(self, _: Avx512, sum: __m512, a: i32, b: __m512i) -> __m512 {
        self.dot(sum, a, b)
    }
}
