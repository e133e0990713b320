//! Registers of 32-bit lanes, one lane a weight row: what block formats are unpacked in, whatever the width of a register.

/// `ROWS` lanes of 32 bits. Methods may only run where the instruction set is present; they are inlined into kernels that see to that.
pub(crate) trait Lanes<const ROWS: usize> {
    /// Integers, or four bytes a lane.
    type I: Copy;
    /// f32.
    type F: Copy;

    /// Sixteen bytes of each row as four vectors of 32-bit words.
    ///
    /// # Safety
    /// Sixteen bytes at `offset` of every row are readable.
    unsafe fn words_16(rows: &[*const u8; ROWS], offset: usize) -> [Self::I; 4];

    /// 32 bytes of each row as eight vectors of 32-bit words.
    ///
    /// # Safety
    /// 32 bytes at `offset` of every row are readable.
    unsafe fn words_32(rows: &[*const u8; ROWS], offset: usize) -> [Self::I; 8];

    /// All lanes the same.
    fn splat(x: i32) -> Self::I;
    /// All bytes the same.
    #[inline(always)]
    fn splat_bytes(x: u8) -> Self::I {
        Self::splat(i32::from_ne_bytes([x; 4]))
    }
    /// a & b
    fn and(a: Self::I, b: Self::I) -> Self::I;
    /// a | b
    fn or(a: Self::I, b: Self::I) -> Self::I;
    /// a ^ b
    fn xor(a: Self::I, b: Self::I) -> Self::I;
    /// a | (b & mask)
    fn or_masked(a: Self::I, b: Self::I, mask: Self::I) -> Self::I;
    /// a + b
    fn add(a: Self::I, b: Self::I) -> Self::I;
    /// Each lane left by `by`; zeros come in.
    fn left(v: Self::I, by: i32) -> Self::I;
    /// Each lane right by `by`; zeros come in.
    fn right(v: Self::I, by: i32) -> Self::I;
    /// Each lane right by `by`; its sign comes in.
    fn right_signed(v: Self::I, by: i32) -> Self::I;
    /// Each lane left by `by`, or right by `-by`; what comes in is left open.
    fn shifted(v: Self::I, by: i32) -> Self::I;
    /// Lanes of `a` where `x` is below `bound` (signed), else of `b`.
    fn below(x: Self::I, bound: i32, a: Self::I, b: Self::I) -> Self::I;
    /// The bytes of a table that the bytes of `v`, all below 16, number.
    fn look_up(table: &[u8; 16], v: Self::I) -> Self::I;
    /// 16 where a bit is set: bit `4 * j + i` of a lane is for its byte i of vector j.
    fn fifth_bits(bits: Self::I) -> [Self::I; 8];

    /// To f32; exact for what fits in 24 bits.
    fn to_f(v: Self::I) -> Self::F;
    /// The lanes' bits as f32.
    fn as_f(v: Self::I) -> Self::F;
    /// The f16 in the low 16 bits of each lane.
    fn low_halves(v: Self::I) -> Self::F;
    /// a * b
    fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// -a
    fn negate(a: Self::F) -> Self::F;
    /// To an array.
    fn put(out: &mut [f32; ROWS], v: Self::F);
}
