//! Types that come with the server: their oids are the same everywhere (`pg_type.dat`).

use tidemark_core::schema::ValueClass;

/// `FirstNormalObjectId` (PostgreSQL 15, `transam.h`): lower oids are given out by `initdb` alone.
pub(crate) const FIRST_USER_OID: u32 = 16_384;

/// Oids of types that code asks for by name.
pub mod builtin {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const JSON: u32 = 114;
    pub const XML: u32 = 142;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const TSQUERY: u32 = 3615;
    pub const JSONB: u32 = 3802;
}

pub(super) fn class(oid: u32) -> ValueClass {
    match oid {
        builtin::INT2 | builtin::INT4 | builtin::INT8 | builtin::OID => ValueClass::Integer,
        builtin::NUMERIC => ValueClass::Decimal,
        builtin::FLOAT4 | builtin::FLOAT8 => ValueClass::Float,
        builtin::BOOL => ValueClass::Boolean,
        builtin::TEXT | builtin::VARCHAR | builtin::BPCHAR | builtin::NAME => ValueClass::Text,
        builtin::DATE => ValueClass::Date,
        builtin::TIMESTAMP => ValueClass::Timestamp,
        builtin::TIMESTAMPTZ => ValueClass::TimestampTz,
        builtin::UUID => ValueClass::Uuid,
        builtin::BYTEA => ValueClass::Bytes,
        builtin::JSON | builtin::JSONB => ValueClass::Json,
        _ => ValueClass::Other,
    }
}

/// Whether a type's values are oids of catalog rows: `regproc`, `regprocedure`, `regoper`,
/// `regoperator`, `regclass`, `regtype`, `regconfig`, `regdictionary`, `regnamespace`, `regrole`,
/// `regcollation`. Their text is a name.
pub(super) fn is_catalog_reference(oid: u32) -> bool {
    matches!(oid, 24 | 2202..=2206 | 3734 | 3769 | 4089 | 4096 | 4191)
}

/// Whether what a type sends is not always what it receives: `tsqueryrecv` refuses the empty query
/// that `tsquerysend` gives ("operand not found", PostgreSQL 14 to 18).
pub(super) fn is_receive_faulty(oid: u32) -> bool {
    oid == builtin::TSQUERY
}

/// Whether the order of a type's values is the same on every server. For text this also needs the
/// collation `C`.
pub fn is_order_safe(type_id: u32) -> bool {
    matches!(
        type_id,
        builtin::INT2
            | builtin::INT4
            | builtin::INT8
            | builtin::UUID
            | builtin::DATE
            | builtin::TIMESTAMP
            | builtin::TIMESTAMPTZ
            | builtin::BYTEA
            | builtin::TEXT
            | builtin::VARCHAR
    )
}
