//! Registers of 32-bit lanes, one lane a weight row: what block formats are unpacked in, whatever the width of a register.

/// `ROWS` lanes of 32 bits. A value is the proof that the processor has the instruction set, as with `Vectors`.
pub(crate) trait Lanes<const ROWS: usize>: Copy {
    /// Integers, or four bytes a lane.
    type I: Copy;
    /// f32.
    type F: Copy;

    /// Sixteen bytes of each row as four vectors of 32-bit words.
    ///
    /// # Safety
    /// Sixteen bytes at `offset` of every row are readable.
    unsafe fn words_16(self, rows: &[*const u8; ROWS], offset: usize) -> [Self::I; 4];

    /// 32 bytes of each row as eight vectors of 32-bit words.
    ///
    /// # Safety
    /// 32 bytes at `offset` of every row are readable.
    unsafe fn words_32(self, rows: &[*const u8; ROWS], offset: usize) -> [Self::I; 8];

    /// All lanes the same.
    fn splat(self, x: i32) -> Self::I;
    /// All bytes the same.
    #[inline(always)]
    fn splat_bytes(self, x: u8) -> Self::I {
        self.splat(i32::from_ne_bytes([x; 4]))
    }
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// a | (b & mask)
    fn or_masked(self, a: Self::I, b: Self::I, mask: Self::I) -> Self::I;
    fn add(self, a: Self::I, b: Self::I) -> Self::I;
    /// Each lane left by `by`; zeros come in.
    fn left(self, v: Self::I, by: i32) -> Self::I;
    /// Each lane right by `by`; zeros come in.
    fn right(self, v: Self::I, by: i32) -> Self::I;
    /// Each lane right by `by`; its sign comes in.
    fn right_signed(self, v: Self::I, by: i32) -> Self::I;
    /// Each lane left by `by`, or right by `-by`; what comes in is left open.
    fn shifted(self, v: Self::I, by: i32) -> Self::I;
    /// Lanes of `a` where `x` is below `bound` (signed), else of `b`.
    fn below(self, x: Self::I, bound: i32, a: Self::I, b: Self::I) -> Self::I;
    /// The bytes of a table that the bytes of `v`, all below 16, number.
    fn look_up(self, table: &[u8; 16], v: Self::I) -> Self::I;
    /// 16 where a bit is set: bit `4 * j + i` of a lane is for its byte i of vector j.
    fn fifth_bits(self, bits: Self::I) -> [Self::I; 8];

    /// To f32; exact for what fits in 24 bits.
    fn to_f(self, v: Self::I) -> Self::F;
    /// The lanes' bits as f32.
    fn as_f(self, v: Self::I) -> Self::F;
    /// The f16 in the low 16 bits of each lane.
    fn low_halves(self, v: Self::I) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn negate(self, a: Self::F) -> Self::F;
    /// To an array.
    fn put(self, out: &mut [f32; ROWS], v: Self::F);
}
