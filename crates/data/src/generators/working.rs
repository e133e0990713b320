//! Sums with their working, in forms that small models learn: digits backwards, or in steps with carries; and which pairs of numbers are held out
//!
//! Digits written backwards make addition learnable for small models, since each digit then follows from what is already there: Lee et al. 2023,
//! "Teaching Arithmetic to Small Transformers" (arXiv 2307.03381), sections 4 (reversed) and 5 (scratchpad).

use serde::Deserialize;

use super::english::push_number;
use super::split::is_held_out;

/// What is done with two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// a + b.
    Add,
    /// a - b.
    Subtract,
    /// a x b.
    Multiply,
}

impl Operation {
    /// As it is written.
    pub fn sign(self) -> &'static str {
        match self {
            Operation::Add => "+",
            Operation::Subtract => "-",
            Operation::Multiply => "x",
        }
    }

    /// The result.
    pub fn apply(self, a: i64, b: i64) -> i64 {
        match self {
            Operation::Add => a + b,
            Operation::Subtract => a - b,
            Operation::Multiply => a * b,
        }
    }
}

/// How a sum is worked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Not at all.
    Plain,
    /// With the digits of all numbers backwards, separated: `8 3 + 7 4 = 5 8`.
    Reversed,
    /// Digit by digit from the right, with carries.
    Steps,
    /// As [`Form::Steps`], behind the sum itself: `38 + 47: 8 + 7 = 15, ...`. The digits are read there then, in one form, and not in a request
    /// of any words.
    Stated,
}

impl Form {
    /// Its name in labels and settings.
    pub fn name(self) -> &'static str {
        match self {
            Form::Plain => "plain",
            Form::Reversed => "reversed",
            Form::Steps => "steps",
            Form::Stated => "stated",
        }
    }
}

/// A set that a pair of numbers belongs to, in both orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairSet {
    /// A digit and a number below 20, which working digit by digit adds, subtracts and multiplies: tables that are known by heart, never held out.
    Table,
    /// Training.
    Training,
    /// Held out.
    HeldOut,
}

/// The set of a pair. It does not depend on the operation.
pub fn pair_set(a: i64, b: i64) -> PairSet {
    let (low, high) = (a.min(b), a.max(b));
    if (0..10).contains(&low) && high < 20 {
        return PairSet::Table;
    }
    let mut key = String::with_capacity(16);
    push_number(low, &mut key);
    key.push(',');
    push_number(high, &mut key);
    if is_held_out(&key) { PairSet::HeldOut } else { PairSet::Training }
}

/// Appends the digits of a number, units first, separated by spaces.
fn backwards(mut number: i64, out: &mut String) {
    loop {
        push_number(number % 10, out);
        number /= 10;
        if number == 0 {
            return;
        }
        out.push(' ');
    }
}

/// Appends the working of a sum of two numbers that are not negative, without the last plain statement. Nothing for [`Form::Plain`] and for sums
/// of one digit each, which have nothing to work out.
pub fn write(operation: Operation, a: i64, b: i64, form: Form, out: &mut String) {
    match (form, operation) {
        (Form::Plain, _) => {}
        _ if a < 10 && b < 10 => {}
        (_, Operation::Subtract) if a < b => {
            let start = out.len();
            write(operation, b, a, form, out);
            if out.len() > start {
                out.push_str("; ");
            }
            plain(operation, b, a, out);
        }
        (Form::Stated, _) => {
            sum(operation, a, b, out);
            out.push_str(": ");
            write(operation, a, b, Form::Steps, out);
        }
        (_, Operation::Multiply) => by_places(a, b, out),
        (Form::Reversed, _) => {
            backwards(a, out);
            out.push(' ');
            out.push_str(operation.sign());
            out.push(' ');
            backwards(b, out);
            out.push_str(" = ");
            backwards(operation.apply(a, b), out);
        }
        (Form::Steps, Operation::Add) => add_in_steps(a, b, out),
        (Form::Steps, Operation::Subtract) => subtract_in_steps(a, b, out),
    }
}

/// Appends `a + b = c`.
pub fn plain(operation: Operation, a: i64, b: i64, out: &mut String) {
    sum(operation, a, b, out);
    out.push_str(" = ");
    push_number(operation.apply(a, b), out);
}

/// Appends `a + b`.
pub fn sum(operation: Operation, a: i64, b: i64, out: &mut String) {
    push_number(a, out);
    out.push(' ');
    out.push_str(operation.sign());
    out.push(' ');
    push_number(b, out);
}

/// `8 + 7 = 15, write 5 carry 1; 3 + 4 + 1 = 8, write 8`.
fn add_in_steps(mut a: i64, mut b: i64, out: &mut String) {
    let mut carry = 0;
    loop {
        let digits = a % 10 + b % 10 + carry;
        sum(Operation::Add, a % 10, b % 10, out);
        if carry > 0 {
            out.push_str(" + 1");
        }
        out.push_str(" = ");
        push_number(digits, out);
        out.push_str(", write ");
        push_number(digits % 10, out);
        carry = digits / 10;
        (a, b) = (a / 10, b / 10);
        if carry > 0 {
            out.push_str(" carry 1");
        }
        if a == 0 && b == 0 {
            if carry > 0 {
                out.push_str("; write 1");
            }
            return;
        }
        out.push_str("; ");
    }
}

/// `12 - 8 = 4, write 4 borrow 1; 5 - 3 - 1 = 1, write 1`. Leading zeros are written too, and left out of the result.
fn subtract_in_steps(mut a: i64, mut b: i64, out: &mut String) {
    let mut borrow = 0;
    loop {
        let difference = a % 10 - b % 10 - borrow;
        let lent = if difference < 0 { 10 } else { 0 };
        sum(Operation::Subtract, a % 10 + lent, b % 10, out);
        if borrow > 0 {
            out.push_str(" - 1");
        }
        out.push_str(" = ");
        push_number(difference + lent, out);
        out.push_str(", write ");
        push_number(difference + lent, out);
        borrow = lent / 10;
        (a, b) = (a / 10, b / 10);
        if borrow > 0 {
            out.push_str(" borrow 1");
        }
        if a == 0 && b == 0 {
            return;
        }
        out.push_str("; ");
    }
}

/// The summands of a product of a number of one digit and one of more, largest place first, without zeros: 46 x 7 gives 280 and 42.
fn places(one_digit: i64, other: i64) -> Vec<(i64, i64)> {
    let mut places = Vec::new();
    let mut place = 1;
    while place <= other {
        let part = other / place % 10 * place;
        if part > 0 {
            places.push((part, part * one_digit));
        }
        place *= 10;
    }
    places.reverse();
    places
}

/// The two factors, the one of one digit first.
fn factors(a: i64, b: i64) -> (i64, i64) {
    if a < 10 { (a, b) } else { (b, a) }
}

/// `40 x 7 = 280, 6 x 7 = 42, 280 + 42 = 322`.
fn by_places(a: i64, b: i64, out: &mut String) {
    let (one_digit, other) = factors(a, b);
    let mut total: Option<i64> = None;
    for (part, product) in places(one_digit, other) {
        if total.is_some() {
            out.push_str(", ");
        }
        plain(Operation::Multiply, part, one_digit, out);
        if let Some(total) = total {
            out.push_str(", ");
            plain(Operation::Add, total, product, out);
        }
        total = Some(total.unwrap_or(0) + product);
    }
}

/// The pairs of numbers that a product's working adds or multiplies besides its own, so that none of them is held out in training.
pub fn inner_pairs(a: i64, b: i64) -> Vec<(i64, i64)> {
    if a < 10 && b < 10 {
        return Vec::new();
    }
    let (one_digit, other) = factors(a, b);
    let mut pairs = Vec::new();
    let mut total = 0;
    for (part, product) in places(one_digit, other) {
        // A product that is its own only part, such as 40 x 7, is the sum itself.
        if part != other {
            pairs.push((part, one_digit));
        }
        if total > 0 {
            pairs.push((total, product));
        }
        total += product;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worked(operation: Operation, a: i64, b: i64, form: Form) -> String {
        let mut out = String::new();
        write(operation, a, b, form, &mut out);
        out
    }

    #[test]
    fn workings_as_written_by_hand() {
        use Operation::{Add, Multiply, Subtract};
        assert_eq!(worked(Add, 38, 47, Form::Reversed), "8 3 + 7 4 = 5 8");
        assert_eq!(worked(Add, 38, 47, Form::Steps), "8 + 7 = 15, write 5 carry 1; 3 + 4 + 1 = 8, write 8");
        assert_eq!(
            worked(Add, 995, 7, Form::Steps),
            "5 + 7 = 12, write 2 carry 1; 9 + 0 + 1 = 10, write 0 carry 1; 9 + 0 + 1 = 10, write 0 carry 1; write 1"
        );
        assert_eq!(worked(Subtract, 52, 38, Form::Reversed), "2 5 - 8 3 = 4 1");
        assert_eq!(worked(Subtract, 52, 38, Form::Steps), "12 - 8 = 4, write 4 borrow 1; 5 - 3 - 1 = 1, write 1");
        assert_eq!(
            worked(Subtract, 100, 98, Form::Steps),
            "10 - 8 = 2, write 2 borrow 1; 10 - 9 - 1 = 0, write 0 borrow 1; 1 - 0 - 1 = 0, write 0"
        );
        assert_eq!(worked(Subtract, 38, 52, Form::Reversed), "2 5 - 8 3 = 4 1; 52 - 38 = 14");
        assert_eq!(worked(Multiply, 7, 46, Form::Steps), "40 x 7 = 280, 6 x 7 = 42, 280 + 42 = 322");
        assert_eq!(worked(Add, 38, 47, Form::Stated), "38 + 47: 8 + 7 = 15, write 5 carry 1; 3 + 4 + 1 = 8, write 8");
        assert_eq!(
            worked(Subtract, 8, 52, Form::Stated),
            "52 - 8: 12 - 8 = 4, write 4 borrow 1; 5 - 0 - 1 = 4, write 4; 52 - 8 = 44"
        );
        assert_eq!(worked(Multiply, 7, 46, Form::Stated), "7 x 46: 40 x 7 = 280, 6 x 7 = 42, 280 + 42 = 322");
        assert_eq!([Form::Steps, Form::Stated].map(|form| worked(Add, 3, 9, form)), ["", ""]);
        assert_eq!(inner_pairs(7, 46), [(40, 7), (6, 7), (280, 42)]);
    }

    #[test]
    fn pairs_are_held_out_in_both_orders() {
        let mut held_out = 0;
        for a in 0..200 {
            for b in 0..200 {
                assert_eq!(pair_set(a, b), pair_set(b, a));
                held_out += i32::from(pair_set(a, b) == PairSet::HeldOut);
            }
        }
        assert!((3_200..4_800).contains(&held_out), "{held_out} of 40,000");
        assert_eq!(pair_set(7, 8), PairSet::Table);
    }
}
