//! The dialect of templates: what chat templates expect of Python and that Jinja alone does not give, `tojson` as
//! `json.dumps` writes it, `strftime_now`, `raise_exception`, and values printed as Python prints them.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, escape_formatter};
use serde::Serialize;
use serde_json::ser::Formatter;

use super::repr;
use crate::sandbox::{Bounded, Raised};

/// An environment with the syntax (`trim_blocks`, `lstrip_blocks`), the functions, filters and methods of `transformers`'
/// `apply_chat_template`.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(|state, value, method, args| match (value.as_str(), method, args) {
        (Some(text), "title", []) => Ok(Value::from(title(text))),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    });
    env.set_formatter(print_as_python);
    env.add_filter("tojson", tojson);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    env.add_function("strftime_now", |format: String| -> Result<String, Error> {
        // UTC rather than the host's zone: two replicas must render the same prompt.
        let now = jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC);
        jiff::fmt::strtime::format(&format, &now)
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
    });
    Ok(env)
}

/// A text with the first letter of each run of letters large, and the others small.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

fn print_as_python(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Seq | ValueKind::Map => repr::written(state, value)?,
        ValueKind::Number if !value.is_integer() => repr::written(state, value)?,
        _ => return escape_formatter(out, state, value),
    };
    out.write_str(&text).map_err(Error::from)
}

/// A float as Python writes it: the shortest digits that read back as the same number, with an exponent below 1e-4 and
/// from 1e16 on.
pub(super) fn float(x: f64) -> String {
    let written = format!("{x:e}");
    let Some((digits, exponent)) = written.split_once('e') else {
        return if x.is_nan() {
            "nan"
        } else if x > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{x:?}"),
    }
}

/// The widest `indent` of [`tojson`]; nobody reads JSON that is set in further.
const MOST_INDENT: usize = 64;
/// The longest text of one [`tojson`]: values that share their parts can be small in memory and endless in writing.
pub(super) const MOST_JSON_BYTES: usize = 16 << 20;
/// The deepest value of [`tojson`]: writing one is recursive, and the stack is finite.
pub(super) const MOST_JSON_DEPTH: usize = 128;
/// Bytes of text that one unit of fuel pays for, as in what a template prints.
pub(super) const BYTES_A_FUEL: u64 = 64;

/// `json.dumps(value, ensure_ascii=False, indent=.., separators=.., sort_keys=..)`: unlike Jinja's own, no HTML
/// escapes.
#[expect(clippy::needless_pass_by_value, reason = "the shape that a filter has")]
fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let style = Style::read(indent, &options)?;
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut text = written(value, &style)?;
    if sorted {
        // a copy to sort is made only once it is known to be of a bounded size
        let mut json = serde_json::to_value(value).map_err(no_json)?;
        json.sort_all_objects();
        text = written(&json, &style)?;
    }
    state.consume_fuel(text.len() as u64 / BYTES_A_FUEL)?;
    Ok(Value::from(text))
}

fn no_json(e: serde_json::Error) -> Error {
    Error::new(ErrorKind::InvalidOperation, "tojson: this value has no JSON").with_source(e)
}

/// The JSON of a value; an error if it is too long or too deep.
fn written(value: &impl Serialize, style: &Style) -> Result<String, Error> {
    let mut text = Bounded::new(MOST_JSON_BYTES);
    let format = PythonFormatter { style, level: 0, filled: false };
    let done = value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, format));
    done.map_err(|e| match e.io_error_kind() {
        Some(std::io::ErrorKind::QuotaExceeded) => {
            Error::new(ErrorKind::OutOfFuel, "tojson: this value is too long or too deep").with_source(e)
        }
        _ => no_json(e),
    })?;
    String::from_utf8(text.into_bytes())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, "tojson: not UTF-8").with_source(e))
}

/// How JSON is set.
struct Style {
    indent: Option<usize>,
    /// Between items, and between a key and its value.
    separators: (String, String),
    letters: Letters,
}

/// What becomes of letters that ASCII lacks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Letters {
    Kept,
    Escaped,
}

impl Style {
    fn read(indent: Option<Value>, options: &Kwargs) -> Result<Self, Error> {
        let refused = |what: String| Err(Error::new(ErrorKind::InvalidOperation, what));
        let indent = match indent {
            Some(given) => Some(given),
            None => options.get::<Option<Value>>("indent")?,
        };
        let indent = match indent {
            Some(given) if !given.is_none() => Some(usize::try_from(given)?),
            _ => None,
        };
        if let Some(indent) = indent.filter(|indent| *indent > MOST_INDENT) {
            return refused(format!("tojson: indent={indent} is more than {MOST_INDENT}"));
        }
        let given = options.get::<Option<Vec<String>>>("separators")?;
        let separators = match given.as_deref() {
            Some([item, key]) => (item.clone(), key.clone()),
            Some(other) => {
                return refused(format!("tojson: separators={other:?} is not a pair such as (\",\", \":\")"));
            }
            // Python's own: a line break follows where there is an indent
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        };
        let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
        Ok(Self { indent, separators, letters: if ascii { Letters::Escaped } else { Letters::Kept } })
    }
}

/// Writes as Python's `json` does.
struct PythonFormatter<'a> {
    style: &'a Style,
    level: usize,
    filled: bool,
}

impl PythonFormatter<'_> {
    fn open<W: ?Sized + std::io::Write>(&mut self, w: &mut W, bracket: &[u8]) -> std::io::Result<()> {
        self.level += 1;
        if self.level > MOST_JSON_DEPTH {
            return Err(std::io::ErrorKind::QuotaExceeded.into());
        }
        self.filled = false;
        w.write_all(bracket)
    }

    fn close<W: ?Sized + std::io::Write>(&mut self, w: &mut W, bracket: &[u8]) -> std::io::Result<()> {
        self.level -= 1;
        if self.filled {
            self.line(w)?;
        }
        self.filled = true;
        w.write_all(bracket)
    }

    fn line<W: ?Sized + std::io::Write>(&self, w: &mut W) -> std::io::Result<()> {
        match self.style.indent {
            Some(width) => write!(w, "\n{:1$}", "", width * self.level),
            None => Ok(()),
        }
    }

    fn item<W: ?Sized + std::io::Write>(&self, w: &mut W, first: bool) -> std::io::Result<()> {
        if !first {
            w.write_all(self.style.separators.0.as_bytes())?;
        }
        self.line(w)
    }
}

impl Formatter for PythonFormatter<'_> {
    fn begin_array<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        self.open(w, b"[")
    }
    fn end_array<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        self.close(w, b"]")
    }
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.item(w, first)
    }
    fn end_array_value<W: ?Sized + std::io::Write>(&mut self, _: &mut W) -> std::io::Result<()> {
        self.filled = true;
        Ok(())
    }
    fn begin_object<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        self.open(w, b"{")
    }
    fn end_object<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        self.close(w, b"}")
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.item(w, first)
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(self.style.separators.1.as_bytes())
    }
    fn end_object_value<W: ?Sized + std::io::Write>(&mut self, _: &mut W) -> std::io::Result<()> {
        self.filled = true;
        Ok(())
    }
    fn write_f64<W: ?Sized + std::io::Write>(&mut self, w: &mut W, value: f64) -> std::io::Result<()> {
        w.write_all(float(value).as_bytes())
    }
    fn write_string_fragment<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        fragment: &str,
    ) -> std::io::Result<()> {
        if self.style.letters == Letters::Kept {
            return w.write_all(fragment.as_bytes());
        }
        let mut units = [0; 2];
        for c in fragment.chars() {
            if c.is_ascii() && c != '\u{7f}' {
                write!(w, "{c}")?;
            } else {
                for unit in c.encode_utf16(&mut units) {
                    write!(w, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}
