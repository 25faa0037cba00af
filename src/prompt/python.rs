//! What chat templates expect of Python and that Jinja alone does not give: `tojson` as `json.dumps` writes it,
//! `strftime_now`, `raise_exception`, and values printed as Python prints them.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, escape_formatter};
use serde::Serialize;
use serde_json::ser::Formatter;

/// Marks an error that the template itself raised, so that it is told from a defect of the template.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

/// Teaches an environment the functions, filters and methods of `transformers`' `apply_chat_template`.
pub(super) fn install(env: &mut Environment<'_>) {
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
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
}

fn print_as_python(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        _ => return escape_formatter(out, state, value),
    };
    out.write_str(text).map_err(Error::from)
}

/// `json.dumps(value, ensure_ascii=False, indent=.., sort_keys=..)`: unlike Jinja's own, no HTML escapes.
#[expect(clippy::needless_pass_by_value, reason = "the shape that a filter has")]
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(given) => Some(given),
        None => options.get::<Option<Value>>("indent")?,
    };
    let indent = match indent {
        Some(given) if !given.is_none() => Some(usize::try_from(given)?),
        _ => None,
    };
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    options.assert_all_used()?;

    let wrong = |e: serde_json::Error| {
        Error::new(ErrorKind::InvalidOperation, "tojson: this value has no JSON").with_source(e)
    };
    let mut json = serde_json::to_value(value).map_err(wrong)?;
    if sorted {
        json.sort_all_objects();
    }
    let mut bytes = Vec::new();
    let format = PythonFormatter { indent, level: 0, filled: false, ascii };
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format)).map_err(wrong)?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, "tojson: not UTF-8").with_source(e))?;
    Ok(Value::from(text))
}

/// Python's separators: `", "` and `": "` on one line; `","` and a line break when indented.
struct PythonFormatter {
    indent: Option<usize>,
    level: usize,
    filled: bool,
    ascii: bool,
}

impl PythonFormatter {
    fn open<W: ?Sized + std::io::Write>(&mut self, w: &mut W, bracket: &[u8]) -> std::io::Result<()> {
        self.level += 1;
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
        match self.indent {
            Some(width) => write!(w, "\n{:1$}", "", width * self.level),
            None => Ok(()),
        }
    }

    fn item<W: ?Sized + std::io::Write>(&self, w: &mut W, first: bool) -> std::io::Result<()> {
        match (first, self.indent) {
            (true, _) => {}
            (false, Some(_)) => w.write_all(b",")?,
            (false, None) => w.write_all(b", ")?,
        }
        self.line(w)
    }
}

impl Formatter for PythonFormatter {
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
        w.write_all(b": ")
    }
    fn end_object_value<W: ?Sized + std::io::Write>(&mut self, _: &mut W) -> std::io::Result<()> {
        self.filled = true;
        Ok(())
    }
    fn write_string_fragment<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        fragment: &str,
    ) -> std::io::Result<()> {
        if !self.ascii {
            return w.write_all(fragment.as_bytes());
        }
        let mut units = [0; 2];
        for c in fragment.chars() {
            if c.is_ascii() {
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
