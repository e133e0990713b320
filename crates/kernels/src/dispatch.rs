//! The table of kernels in use, chosen once by what the processor has. `FARTHING_ISA` (scalar, avx2, avx512) pins a lower one.

use std::sync::OnceLock;

use crate::table::{Table, kernels};

static SCALAR: Table = kernels!("scalar", crate::vectors::Scalar, crate::vectors::Scalar, Pairs);

/// The tables this processor can run, best first. The last is the plain one.
pub fn tables() -> Vec<&'static Table> {
    #[allow(unused_mut)] // only x86 adds to it
    let mut tables = vec![&SCALAR];
    #[cfg(target_arch = "x86_64")]
    {
        if crate::avx2::available() {
            tables.insert(0, &crate::avx2::TABLE);
        }
        if crate::avx512::bf16_available() {
            tables.insert(0, &crate::avx512::WITH_BF16);
        } else if crate::avx512::available() {
            tables.insert(0, &crate::avx512::TABLE);
        }
    }
    tables
}

static CHOSEN: OnceLock<&'static Table> = OnceLock::new();

thread_local! {
    static FORCED: std::cell::Cell<Option<&'static Table>> = const { std::cell::Cell::new(None) };
}

#[inline]
pub(crate) fn table() -> &'static Table {
    FORCED.get().unwrap_or_else(|| CHOSEN.get_or_init(|| tables()[0]))
}

/// Run `f` with another table on this thread (tests compare them; a pool of one thread stays on it).
pub fn with_table<T>(table: &'static Table, f: impl FnOnce() -> T) -> T {
    let before = FORCED.replace(Some(table));
    let result = f();
    FORCED.set(before);
    result
}

/// Names of all sets that this processor has, best first; the last is the plain one.
pub fn instruction_sets() -> Vec<&'static str> {
    tables().iter().map(|t| t.name).collect()
}

/// The instruction set in use.
pub fn instruction_set() -> &'static str {
    table().name
}

/// Obey `FARTHING_ISA`; to be called once, before any kernel.
///
/// # Errors
/// A name that this processor does not have.
pub fn instruction_set_from_env() -> Result<(), String> {
    let Some(wanted) = std::env::var_os("FARTHING_ISA") else { return Ok(()) };
    let Some(table) = tables().into_iter().find(|t| wanted == t.name) else {
        let (wanted, names) = (wanted.to_string_lossy(), instruction_sets().join(", "));
        return Err(format!("FARTHING_ISA={wanted}: this processor has {names}; set one of them or none"));
    };
    let _ = CHOSEN.set(table);
    Ok(())
}
