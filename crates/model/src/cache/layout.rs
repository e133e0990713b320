//! The layout of the cache as data: which rows each layer keeps, for how many tokens, how wide and in which format; and the bytes that follow.

use kernels::{Numbers, SIX_BYTES, SMALL};

/// Positions of a page, at least. Attention computes the partial softmax of so many positions from scratch, whatever a page holds.
pub const PAGE: usize = 64;

/// How the cache stores its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    /// Exact.
    F32,
    /// Half the bytes.
    Bf16,
    /// 8 bits and a scale for 16 numbers: 9 bits a number.
    Eight,
    /// 6 bits and a scale for 16 numbers: 7 bits a number.
    Six,
}

impl CacheFormat {
    /// All of them, and their names.
    pub const ALL: [(CacheFormat, &'static str); 4] =
        [(CacheFormat::F32, "f32"), (CacheFormat::Bf16, "bf16"), (CacheFormat::Eight, "q8"), (CacheFormat::Six, "q6")];

    /// That of these numbers.
    pub fn of(numbers: &Numbers) -> CacheFormat {
        match numbers {
            Numbers::F32(_) => CacheFormat::F32,
            Numbers::Bf16(_) => CacheFormat::Bf16,
            Numbers::Eight(..) => CacheFormat::Eight,
            Numbers::Six(..) => CacheFormat::Six,
        }
    }

    /// Bytes of so many numbers.
    pub const fn bytes_of(self, numbers: usize) -> usize {
        match self {
            CacheFormat::F32 => numbers.saturating_mul(4),
            CacheFormat::Bf16 => numbers.saturating_mul(2),
            CacheFormat::Eight => numbers.saturating_add(numbers / SMALL * 2),
            CacheFormat::Six => (numbers / SMALL).saturating_mul(SIX_BYTES + 2),
        }
    }
}

/// What a row is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// So many tokens, aligned: 1 for a key or a latent, 4 or 128 for an entry that stands for several tokens.
    Tokens(usize),
    /// A page: the state of a sequence after the last token that its last page holds, such as a window or sums that still grow. It lies in the page,
    /// so that whoever goes on after a page that was shared, or was on disk, has it.
    Page,
}

/// Rows of one kind that a layer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowKind {
    /// What a row is kept for.
    pub every: Every,
    /// Numbers of a row.
    pub width: usize,
    /// Pieces of a row that are written or read by themselves begin at multiples of this.
    pub part: usize,
    /// How the numbers are stored.
    pub format: CacheFormat,
}

/// Everything that decides what the cache's bytes are. A page holds the rows of as many tokens as all rows are kept for a whole number of times; the
/// scheduler's pages, blocks of the prefix cache and blocks on disk are this long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    layers: Vec<Vec<RowKind>>,
    page: usize,
}

impl RowKind {
    /// One for each token.
    pub fn each_token(width: usize, part: usize, format: CacheFormat) -> RowKind {
        RowKind { every: Every::Tokens(1), width, part, format }
    }
}

impl CacheLayout {
    /// The rows of each layer. A page has the least common multiple of `PAGE` and the tokens of all rows.
    ///
    /// # Panics
    /// When a row is kept for no token.
    pub fn new(layers: Vec<Vec<RowKind>>) -> CacheLayout {
        let tokens = layers.iter().flatten().filter_map(|rows| match rows.every {
            Every::Tokens(tokens) => Some(tokens),
            Every::Page => None,
        });
        let page = tokens.fold(PAGE, |page, tokens| page / common(page, tokens) * tokens);
        assert!(page > 0, "a row is kept for at least one token");
        CacheLayout { layers, page }
    }

    /// The same in pages of `times` times as many tokens: states, which every page has, take fewer bytes a token.
    pub fn in_longer_pages(self, times: usize) -> CacheLayout {
        CacheLayout { page: self.page * times.max(1), ..self }
    }

    /// Tokens of a page.
    pub fn page(&self) -> usize {
        self.page
    }

    /// Kinds of rows of each layer.
    pub fn layers(&self) -> &[Vec<RowKind>] {
        &self.layers
    }

    /// Rows of a kind in a page.
    pub fn rows_of_page(&self, rows: &RowKind) -> usize {
        match rows.every {
            Every::Tokens(tokens) => self.page / tokens,
            Every::Page => 1,
        }
    }

    /// Numbers of all rows that `of` picks in a page, by format.
    fn numbers(&self, of: impl Fn(&RowKind) -> bool) -> impl Iterator<Item = (CacheFormat, usize)> {
        CacheFormat::ALL.into_iter().map(move |(format, _)| {
            let picked = self.layers.iter().flatten().filter(|rows| rows.format == format && of(rows));
            let numbers = picked.map(|rows| rows.width.saturating_mul(self.rows_of_page(rows)));
            (format, numbers.fold(0usize, usize::saturating_add))
        })
    }

    /// Bytes of a page, which are those of a block of the prefix cache, in memory and on disk: all rows, states included.
    pub fn page_bytes(&self) -> usize {
        self.numbers(|_| true).fold(0, |sum, (format, numbers)| sum.saturating_add(format.bytes_of(numbers)))
    }

    /// Bytes of a sequence's state, of which every page holds one.
    pub fn state_bytes(&self) -> usize {
        let states = self.numbers(|rows| rows.every == Every::Page);
        states.fold(0, |sum, (format, numbers)| sum.saturating_add(format.bytes_of(numbers)))
    }

    /// Bytes of `tokens` tokens of one sequence: whole pages.
    pub fn bytes_of(&self, tokens: usize) -> u64 {
        (tokens.div_ceil(self.page) as u64).saturating_mul(self.page_bytes() as u64)
    }

    /// Tokens that fit into so many bytes.
    pub fn tokens_within(&self, bytes: u64) -> usize {
        usize::try_from(bytes / (self.page_bytes() as u64).max(1)).unwrap_or(usize::MAX).saturating_mul(self.page)
    }

    /// Bytes a token, rounded up: a page's share.
    pub fn bytes_per_token(&self) -> usize {
        self.page_bytes().div_ceil(self.page)
    }

    /// Whether every row's format suits it: scales are shared by 16 numbers of one part of a row.
    pub fn is_sound(&self) -> bool {
        let whole = |rows: &RowKind| rows.part.is_multiple_of(SMALL) && rows.width.is_multiple_of(SMALL);
        let exact = |rows: &RowKind| matches!(rows.format, CacheFormat::F32 | CacheFormat::Bf16);
        self.layers.iter().flatten().all(|rows| exact(rows) || whole(rows))
    }
}

/// The greatest common divisor.
pub(crate) fn common(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common(b, a % b) }
}
