//! Lists and dictionaries as Python prints them: `{'a': [1, None]}`.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::python::{BYTES_A_FUEL, MOST_JSON_BYTES, MOST_JSON_DEPTH, float};

/// The text of a value; an error if it is too long or too deep.
pub(super) fn written(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    write(&mut text, value, 0)?;
    state.consume_fuel(text.len() as u64 / BYTES_A_FUEL)?;
    Ok(text)
}

fn write(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MOST_JSON_DEPTH || out.len() > MOST_JSON_BYTES {
        return Err(Error::new(ErrorKind::OutOfFuel, "a value that is too long or too deep to print"));
    }
    match value.kind() {
        ValueKind::None | ValueKind::Undefined => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if !value.is_integer() => out.push_str(&float(f64::try_from(value.clone())?)),
        ValueKind::String => quote(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write(out, &item, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write(out, &key, depth + 1)?;
                out.push_str(": ");
                write(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// In single quotes, or in double ones where only those save an escape.
fn quote(out: &mut String, text: &str) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(mark);
}
