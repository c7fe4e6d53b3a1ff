//! What `ALTER COLUMN … TYPE` does to the values of a column.
//!
//! The log announces the new type and not the rows that were written anew for it, nor by which
//! expression (`USING`). PostgreSQL leaves the rows alone where the old type's bytes are those of the
//! new type and every value fits (`ATColumnChangeRequiresRewrite`, PostgreSQL 15); that is told here
//! from the types alone, for the changes that people make. What is not known is a change.

use tidemark_core::source::{ColumnType, Retyped};

use super::types::builtins::builtin::{
    BPCHAR, DATE, FLOAT4, FLOAT8, INT2, INT4, INT8, NUMERIC, TEXT, TIME, TIMESTAMP, TIMESTAMPTZ,
    VARCHAR,
};

const BIT: u32 = 1560;
const VARBIT: u32 = 1562;
const TIMETZ: u32 = 1266;

/// Scale and precision are packed into a modifier behind a header of four bytes (`numeric_typmod`).
const HEADER: i32 = 4;

/// See the module's text.
pub fn retyped(from: ColumnType, to: ColumnType) -> Retyped {
    if is_kept(from, to) {
        Retyped::Kept
    } else if is_wider(from, to) {
        Retyped::Widened
    } else {
        Retyped::Changed
    }
}

fn is_kept(from: ColumnType, to: ColumnType) -> bool {
    match (from.id, to.id) {
        (VARCHAR, TEXT) | (TEXT, VARCHAR) => to.modifier < 0,
        (VARCHAR | VARBIT | TIME | TIMETZ | TIMESTAMP | TIMESTAMPTZ, _) if from.id == to.id => {
            is_no_shorter(from.modifier, to.modifier)
        }
        (NUMERIC, NUMERIC) => keeps_numbers(from.modifier, to.modifier),
        _ => false,
    }
}

/// -1 is without a limit.
fn is_no_shorter(from: i32, to: i32) -> bool {
    to < 0 || (from >= 0 && to >= from)
}

/// The same scale, no lower precision (`numeric_support`).
fn keeps_numbers(from: i32, to: i32) -> bool {
    let parts = |modifier: i32| {
        let packed = modifier - HEADER;
        (packed >> 16, packed & 0xffff)
    };
    if to < HEADER {
        return true;
    }
    let ((from_precision, from_scale), (to_precision, to_scale)) = (parts(from), parts(to));
    from >= HEADER && to_scale == from_scale && to_precision >= from_precision
}

/// Every value has one in the new type that means the same.
fn is_wider(from: ColumnType, to: ColumnType) -> bool {
    match (from.id, to.id) {
        (INT2, INT4 | INT8 | FLOAT4 | FLOAT8)
        | (INT4, INT8 | FLOAT8)
        | (FLOAT4, FLOAT8)
        | (DATE, TIMESTAMP | TIMESTAMPTZ) => true,
        (INT2 | INT4 | INT8, NUMERIC) | (BPCHAR, TEXT) | (BIT, VARBIT) => to.modifier < 0,
        (BPCHAR, VARCHAR | BPCHAR) => is_no_shorter(from.modifier, to.modifier),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::Retyped::{Changed, Kept, Widened};
    use super::*;

    #[test]
    fn values_that_stay_are_told_from_those_that_are_written_anew() {
        let numeric = |precision: i32, scale: i32| ((precision << 16) | scale) + HEADER;
        for (from, to, expected) in [
            ((VARCHAR, 10), (VARCHAR, 24), Kept),
            ((VARCHAR, 24), (VARCHAR, 10), Changed),
            ((VARCHAR, -1), (VARCHAR, 10), Changed),
            ((VARCHAR, 10), (VARCHAR, -1), Kept),
            ((VARCHAR, 10), (TEXT, -1), Kept),
            ((TEXT, -1), (VARCHAR, -1), Kept),
            ((TEXT, -1), (VARCHAR, 24), Changed),
            ((NUMERIC, numeric(6, 2)), (NUMERIC, numeric(12, 2)), Kept),
            ((NUMERIC, numeric(6, 2)), (NUMERIC, numeric(12, 3)), Changed),
            ((NUMERIC, numeric(6, 2)), (NUMERIC, numeric(5, 2)), Changed),
            ((NUMERIC, numeric(6, 2)), (NUMERIC, -1), Kept),
            ((NUMERIC, -1), (NUMERIC, numeric(6, 2)), Changed),
            ((TIMESTAMP, 0), (TIMESTAMP, 3), Kept),
            ((TIMESTAMP, 3), (TIMESTAMP, 0), Changed),
            ((TIMESTAMP, 3), (TIMESTAMP, -1), Kept),
            ((TIMESTAMP, -1), (TIMESTAMPTZ, -1), Changed),
            ((INT4, -1), (INT8, -1), Widened),
            ((INT8, -1), (INT4, -1), Changed),
            ((INT4, -1), (NUMERIC, -1), Widened),
            ((INT4, -1), (NUMERIC, numeric(4, 0)), Changed),
            ((INT4, -1), (TEXT, -1), Changed),
            ((TEXT, -1), (INT4, -1), Changed),
            ((99_999, -1), (99_998, -1), Changed),
        ] {
            let of = |(id, modifier): (u32, i32)| ColumnType { id, modifier };
            assert_eq!(retyped(of(from), of(to)), expected, "{from:?} {to:?}");
        }
    }
}
