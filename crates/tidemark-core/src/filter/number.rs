//! Numbers in text form, compared exactly and without allocating.

use std::cmp::Ordering;

/// Reads a whole number as PostgreSQL prints it.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// An exact decimal, its digits where they were: zeros that do not count are cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decimal<'a> {
    NegativeInfinity,
    Finite {
        is_negative: bool,
        whole: &'a [u8],
        fraction: &'a [u8],
    },
    Infinity,
    /// Equal to itself and above everything else (PostgreSQL 15, 8.1.2).
    NaN,
}

/// Compares two decimals in the form in which PostgreSQL prints them (no exponent). `None` where
/// one of them is not a decimal.
pub(super) fn compare_decimals(left: &[u8], right: &[u8]) -> Option<Ordering> {
    Some(order(decimal(left)?, decimal(right)?))
}

fn decimal(text: &[u8]) -> Option<Decimal<'_>> {
    match text {
        b"NaN" => return Some(Decimal::NaN),
        b"Infinity" => return Some(Decimal::Infinity),
        b"-Infinity" => return Some(Decimal::NegativeInfinity),
        _ => {}
    }
    let (is_negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let point = memchr::memchr(b'.', digits).unwrap_or(digits.len());
    let whole = &digits[..point];
    let fraction = digits.get(point + 1..).unwrap_or_default();
    let has_digits = !(whole.is_empty() && fraction.is_empty());
    if !has_digits || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let whole = &whole[whole.iter().take_while(|digit| **digit == b'0').count()..];
    let zeros = fraction
        .iter()
        .rev()
        .take_while(|digit| **digit == b'0')
        .count();
    let fraction = &fraction[..fraction.len() - zeros];
    let is_zero = whole.is_empty() && fraction.is_empty();
    Some(Decimal::Finite {
        is_negative: is_negative && !is_zero,
        whole,
        fraction,
    })
}

fn order(left: Decimal<'_>, right: Decimal<'_>) -> Ordering {
    let rank = |decimal: &Decimal<'_>| match decimal {
        Decimal::NegativeInfinity => 0,
        Decimal::Finite {
            is_negative: true, ..
        } => 1,
        Decimal::Finite {
            is_negative: false, ..
        } => 2,
        Decimal::Infinity => 3,
        Decimal::NaN => 4,
    };
    match (left, right) {
        (
            Decimal::Finite {
                is_negative,
                whole,
                fraction,
            },
            Decimal::Finite {
                is_negative: other,
                whole: other_whole,
                fraction: other_fraction,
            },
        ) if is_negative == other => {
            let size = whole
                .len()
                .cmp(&other_whole.len())
                .then_with(|| whole.cmp(other_whole))
                // Without trailing zeros the longer of two fractions with a common start is larger.
                .then_with(|| fraction.cmp(other_fraction));
            if is_negative { size.reverse() } else { size }
        }
        _ => rank(&left).cmp(&rank(&right)),
    }
}

/// A number of a filter in the form of [`compare_decimals`], its exponent worked in. `None` where
/// it is none, or where it would have more digits than PostgreSQL's `numeric` can (documentation
/// 15, 8.1.2: 131,072 before and 16,383 after the point).
pub(super) fn plain_decimal(literal: &str) -> Option<String> {
    let (is_negative, unsigned) = match literal.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, literal.strip_prefix('+').unwrap_or(literal)),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: String = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    if exponent.unsigned_abs() > 150_000 || digits.len() > 150_000 {
        return None;
    }
    let point = i64::try_from(whole.len()).ok()? + i64::from(exponent);
    let (whole, fraction) = if point <= 0 {
        let zeros = usize::try_from(-point).ok()?;
        ("0".to_owned(), format!("{}{digits}", "0".repeat(zeros)))
    } else {
        let point = usize::try_from(point).ok()?;
        match digits.split_at_checked(point) {
            Some((whole, fraction)) => (whole.to_owned(), fraction.to_owned()),
            None => (
                format!("{digits}{}", "0".repeat(point - digits.len())),
                String::new(),
            ),
        }
    };
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    if whole.len() > 131_072 || fraction.len() > 16_383 {
        return None;
    }
    let sign = if is_negative { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(if fraction.is_empty() {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    })
}

/// Reads a float as PostgreSQL prints it (`extra_float_digits` ≥ 1: the shortest text that reads
/// back as the same number). A `real` is widened, which changes nothing about its value.
pub(super) fn float(text: &[u8], width: FloatWidth) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    match width {
        FloatWidth::Real => text.parse::<f32>().ok().map(f64::from),
        FloatWidth::Double => text.parse().ok(),
    }
}

/// Which of the two float types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatWidth {
    Real,
    Double,
}

/// PostgreSQL's order of floats: NaN equals itself and is above everything else, and the two zeros
/// are equal (documentation 15, 8.1.3).
pub(super) fn compare_floats(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right)
        .unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_have_the_order_of_the_server() {
        let ascending = [
            "-Infinity",
            "-100",
            "-10.5",
            "-10.25",
            "-0.001",
            "0",
            "0.0009",
            "0.001",
            "0.01",
            "1.1",
            "9.99",
            "10",
            "99999999999999999999999999999.1",
            "Infinity",
            "NaN",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(
                    compare_decimals(a.as_bytes(), b.as_bytes()),
                    Some(i.cmp(&j)),
                    "{a} {b}"
                );
            }
        }
        for (a, b) in [
            ("1.10", "1.1"),
            ("-0.00", "0"),
            ("007", "7"),
            ("1.", "1"),
            (".5", "0.5"),
        ] {
            assert_eq!(
                compare_decimals(a.as_bytes(), b.as_bytes()),
                Some(Ordering::Equal),
                "{a} {b}"
            );
        }
        for bad in ["", "-", ".", "1e5", "abc", "1.2.3", "--1"] {
            assert_eq!(compare_decimals(bad.as_bytes(), b"1"), None, "{bad}");
        }
    }

    #[test]
    fn exponents_are_worked_in() {
        for (literal, plain) in [
            ("1e3", "1000"),
            ("1.5e3", "1500"),
            ("1.2345e2", "123.45"),
            ("12e-3", "0.012"),
            ("-1.50", "-1.5"),
            (".5", "0.5"),
            ("5.", "5"),
            ("0e99", "0"),
            ("00012", "12"),
            ("+7", "7"),
        ] {
            assert_eq!(plain_decimal(literal).as_deref(), Some(plain), "{literal}");
        }
        for bad in ["1e200000", "1e-20000", "1e", "e5", "", "1e99999999999"] {
            assert_eq!(plain_decimal(bad), None, "{bad}");
        }
    }

    #[test]
    fn floats_have_the_order_of_the_server() {
        let nan = f64::NAN;
        assert_eq!(compare_floats(nan, nan), Ordering::Equal);
        assert_eq!(compare_floats(nan, f64::INFINITY), Ordering::Greater);
        assert_eq!(compare_floats(f64::INFINITY, nan), Ordering::Less);
        assert_eq!(compare_floats(-0.0, 0.0), Ordering::Equal);
        // SELECT '0.1'::real = 0.1 is false: the real is widened, not the literal narrowed.
        let widened = float(b"0.1", FloatWidth::Real).unwrap();
        assert_ne!(compare_floats(widened, 0.1), Ordering::Equal);
        assert_eq!(
            float(b"-Infinity", FloatWidth::Double),
            Some(f64::NEG_INFINITY)
        );
    }

    proptest! {
        #[test]
        fn decimals_agree_with_integers(a: i64, b: i64) {
            let (left, right) = (a.to_string(), b.to_string());
            prop_assert_eq!(compare_decimals(left.as_bytes(), right.as_bytes()), Some(a.cmp(&b)));
        }

        #[test]
        fn decimals_agree_with_scaled_integers(a: i32, b: i32, scale in 0_u32..9) {
            let power = 10_i64.pow(scale);
            let print = |n: i32| {
                let n = i64::from(n);
                let sign = if n < 0 { "-" } else { "" };
                let width = usize::try_from(scale).unwrap();
                format!("{sign}{}.{:0width$}", n.abs() / power, n.abs() % power)
            };
            prop_assume!(scale > 0);
            let order = compare_decimals(print(a).as_bytes(), print(b).as_bytes());
            prop_assert_eq!(order, Some(a.cmp(&b)));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            std::hint::black_box(compare_decimals(&bytes, b"1"));
            std::hint::black_box((integer(&bytes), float(&bytes, FloatWidth::Real)));
        }
    }
}
