//! Buffers that kernels keep from call to call.

/// The first `len` of a buffer, which is made longer where it is short. What it held is not cleared.
pub(crate) fn room<T: Clone>(buffer: &mut Vec<T>, len: usize, new: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, new);
    }
    &mut buffer[..len]
}

/// As `room`, of plain numbers.
pub(crate) fn sized<T: Default + Clone>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    room(buffer, len, T::default())
}

/// As `sized`, of words of four bytes from the start of a cache line on.
pub(crate) fn aligned<T: Default + Clone>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    let room = sized(buffer, len + LINE_WORDS);
    let skip = room.as_ptr().align_offset(4 * LINE_WORDS).min(LINE_WORDS);
    &mut room[skip..][..len]
}

const LINE_WORDS: usize = 16;
