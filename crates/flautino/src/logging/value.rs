//! A value as text. The server sends it in binary, and sqlx decodes it only into a type that is
//! known when the program is built, so the common types are decoded here.

use std::fmt::{self, Formatter, Write};

use sqlx::postgres::{PgTypeKind, PgValueFormat, PgValueRef};
use sqlx::{TypeInfo, ValueRef};
use time::macros::date;

/// Writes the value as PostgreSQL writes it in text; a type that is not known here, as `\x…`.
pub(super) fn write(f: &mut Formatter<'_>, value: &PgValueRef<'_>) -> fmt::Result {
    if value.is_null() {
        return f.write_str("NULL");
    }
    let Ok(bytes) = value.as_bytes() else {
        return f.write_str("?");
    };
    if value.format() == PgValueFormat::Text {
        return write!(f, "{:?}", String::from_utf8_lossy(bytes));
    }
    let info = value.type_info();
    let text = match info.kind() {
        PgTypeKind::Array(element) => array(element.name(), bytes),
        _ => decode(info.name(), bytes),
    };
    match text {
        Some(text) => f.write_str(&text),
        None => hex(f, bytes),
    }
}

fn hex(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str("\\x")?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// The binary formats stand in PostgreSQL's `*_send` functions (`src/backend/utils/adt`).
fn decode(type_name: &str, bytes: &[u8]) -> Option<String> {
    Some(match type_name {
        "BOOL" => (*bytes.first()? != 0).to_string(),
        "INT2" => i16::from_be_bytes(bytes.try_into().ok()?).to_string(),
        "INT4" => i32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        "INT8" => i64::from_be_bytes(bytes.try_into().ok()?).to_string(),
        "OID" => u32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        "FLOAT4" => f32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        "FLOAT8" => f64::from_be_bytes(bytes.try_into().ok()?).to_string(),
        "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "CITEXT" | "UNKNOWN" => {
            format!("{:?}", std::str::from_utf8(bytes).ok()?)
        }
        "JSON" => std::str::from_utf8(bytes).ok()?.to_owned(),
        // A version byte stands before the text.
        "JSONB" => std::str::from_utf8(bytes.get(1..)?).ok()?.to_owned(),
        "UUID" => uuid(bytes)?,
        "DATE" => match i32::from_be_bytes(bytes.try_into().ok()?) {
            i32::MAX => "infinity".to_owned(),
            i32::MIN => "-infinity".to_owned(),
            days => {
                let days = time::Duration::days(days.into());
                date!(2000 - 01 - 01).checked_add(days)?.to_string()
            }
        },
        "TIMESTAMP" => timestamp(bytes, "")?,
        "TIMESTAMPTZ" => timestamp(bytes, "+00")?,
        "TIME" => time_of_day(i64::from_be_bytes(bytes.try_into().ok()?)),
        "NUMERIC" => numeric(bytes)?,
        _ => return None,
    })
}

fn timestamp(bytes: &[u8], zone: &str) -> Option<String> {
    Some(match i64::from_be_bytes(bytes.try_into().ok()?) {
        i64::MAX => "infinity".to_owned(),
        i64::MIN => "-infinity".to_owned(),
        micros => {
            let day = time::Duration::days(micros.div_euclid(MICROS_OF_DAY));
            let date = date!(2000 - 01 - 01).checked_add(day)?;
            format!("{date} {}{zone}", time_of_day(micros.rem_euclid(MICROS_OF_DAY)))
        }
    })
}

const MICROS_OF_DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// `03:04:05.25`, from microseconds since midnight.
fn time_of_day(micros: i64) -> String {
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let text = format!("{hours:02}:{minutes:02}:{:02}.{fraction:06}", seconds % 60);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `{1,NULL,3}`, nested for each dimension. The bytes are the number of dimensions, flags and the
/// element's type, then length and lower bound of each dimension, then the elements, each behind
/// its length.
fn array(element: &str, bytes: &[u8]) -> Option<String> {
    let mut rest = bytes;
    let dimensions = take_int(&mut rest)?;
    let (_flags, _type) = (take_int(&mut rest)?, take_int(&mut rest)?);
    let mut lengths = Vec::new();
    for _ in 0..dimensions {
        lengths.push(take_int(&mut rest)?);
        take_int(&mut rest)?;
    }
    if lengths.is_empty() {
        return Some("{}".to_owned());
    }
    let mut text = String::new();
    elements(&mut text, element, &lengths, &mut rest)?;
    Some(text)
}

fn elements(text: &mut String, kind: &str, lengths: &[i32], rest: &mut &[u8]) -> Option<()> {
    let (length, inner) = lengths.split_first()?;
    text.push('{');
    for index in 0..*length {
        if index > 0 {
            text.push(',');
        }
        if !inner.is_empty() {
            elements(text, kind, inner, rest)?;
            continue;
        }
        let size = take_int(rest)?;
        if size == -1 {
            text.push_str("NULL");
            continue;
        }
        let (bytes, after) = rest.split_at_checked(size.try_into().ok()?)?;
        *rest = after;
        match (kind, bytes) {
            // The server writes `t` and `f` inside an array.
            ("BOOL", [byte]) => text.push(if *byte == 0 { 'f' } else { 't' }),
            _ => text.push_str(&decode(kind, bytes)?),
        }
    }
    text.push('}');
    Some(())
}

fn take_int(rest: &mut &[u8]) -> Option<i32> {
    let (bytes, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(i32::from_be_bytes(*bytes))
}

fn uuid(bytes: &[u8]) -> Option<String> {
    if bytes.len() != 16 {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").ok()?;
    }
    Some(text)
}

/// The bytes are the number of groups, the weight of the first, the sign and the scale, then the
/// groups of four decimal digits.
fn numeric(bytes: &[u8]) -> Option<String> {
    let mut words = bytes.chunks_exact(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]]));
    let count = words.next()?;
    let weight = words.next()?;
    let sign = words.next()?.cast_unsigned();
    let scale = usize::try_from(words.next()?).ok()?;
    let digits: Vec<i16> = words.take(count.try_into().ok()?).collect();
    let mut text = match sign {
        0x0000 => String::new(),
        0x4000 => "-".to_owned(),
        0xC000 => return Some("NaN".to_owned()),
        0xD000 => return Some("Infinity".to_owned()),
        0xF000 => return Some("-Infinity".to_owned()),
        _ => return None,
    };
    let group = |index: i32| {
        usize::try_from(index).ok().and_then(|index| digits.get(index)).copied().unwrap_or(0)
    };
    let weight = i32::from(weight);
    if weight < 0 {
        text.push('0');
    }
    for index in 0..=weight {
        let width = if index == 0 { 1 } else { 4 };
        write!(text, "{:0width$}", group(index)).ok()?;
    }
    if scale > 0 {
        let mut fraction = String::new();
        let mut index = weight + 1;
        while fraction.len() < scale {
            write!(fraction, "{:04}", group(index)).ok()?;
            index += 1;
        }
        fraction.truncate(scale);
        write!(text, ".{fraction}").ok()?;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_bytes_are_no_panic() {
        for name in
            ["BOOL", "INT4", "UUID", "DATE", "TIMESTAMP", "TIME", "NUMERIC", "JSONB", "TEXT"]
        {
            for len in 0..20 {
                decode(name, &vec![0xff; len]);
                decode(name, &vec![0x7f; len]);
                array(name, &vec![0x7f; 4 * len]);
                array(name, &[&[0, 0, 0, 2], vec![0; len].as_slice()].concat());
            }
        }
    }
}
