//! Products of weights, shown before they are computed: for whoever measures what weights are multiplied with.

use std::cell::RefCell;
use std::rc::Rc;

use crate::operands::{Input, Matrix, Rows};

/// A product that is about to be computed.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// What is multiplied.
    pub weight: Matrix<'a>,
    /// What it is multiplied with.
    pub input: Input<'a>,
    /// Rows of the input that are.
    pub rows: Rows<'a>,
}

/// Who is shown products.
pub type Observer = Rc<dyn Fn(&Seen<'_>)>;

thread_local! {
    static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
}

/// Does `work`, and shows `observer` every product of [`crate::matmul`] and [`crate::gated`] that this thread begins meanwhile.
pub fn observed<T>(observer: Observer, work: impl FnOnce() -> T) -> T {
    /// Puts back who observed before, also where `work` panics.
    struct Before(Option<Observer>);
    impl Drop for Before {
        fn drop(&mut self) {
            OBSERVER.set(self.0.take());
        }
    }
    let _before = Before(OBSERVER.replace(Some(observer)));
    work()
}

/// Shows a product to whoever observes this thread.
pub(crate) fn show(weight: Matrix<'_>, input: Input<'_>, rows: Rows<'_>) {
    // An observer may compute products of its own.
    if let Some(observer) = OBSERVER.with_borrow(Option::clone) {
        observer(&Seen { weight, input, rows });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{Format, Pool, Product, matmul};

    #[test]
    fn products_are_shown_while_somebody_looks() {
        let bytes: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let weight = Matrix::new(Format::F32, 2, 2, &bytes);
        let (pool, x) = (Pool::new(1), [1f32, 1.0, 2.0, 2.0]);
        let product = || {
            let (input, mut out) = (Input { x: &x, rows: 2, cols: 2, quantized: None }, [0f32; 2]);
            matmul(&pool, &mut [Product { weight, input, rows: Rows::Range(1, 1), out: &mut out }]);
            out
        };
        let seen = Rc::new(Cell::new(0));
        let counted = Rc::clone(&seen);
        let observer: Observer = Rc::new(move |product| {
            assert!(product.weight.bytes.len() == 16 && product.rows.len(2) == 1 && product.input.x[3] == 2.0);
            counted.set(counted.get() + 1);
        });
        assert_eq!(observed(observer, product), [6.0, 14.0]);
        product();
        assert_eq!(seen.get(), 1);
    }
}
