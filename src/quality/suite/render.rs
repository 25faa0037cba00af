//! Variables put into texts: the Jinja in which promptfoo's templates are written, in a box: no file, bounded work.

use std::sync::LazyLock;

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};
use serde_json::{Map, Value as Json};

use crate::sandbox::{BUSY, Bounded, Stopped, Texts};

/// Template instructions of one rendering.
const FUEL: u64 = 50_000;
/// The largest text that comes of one.
const LARGEST: usize = 1 << 20;

/// Where the texts of all suites are rendered, so that those that never end take no more threads than one suite's would.
static TEXTS: LazyLock<Texts> = LazyLock::new(|| Texts::new(FUEL));

/// Puts variables into a text. A name that is no variable is an error, as a case that asks for something else than was meant
/// tells nothing. Blocks.
pub(super) fn render(text: &str, vars: &Map<String, Json>) -> Result<String, String> {
    if !text.contains("{{") && !text.contains("{%") && !text.contains("{#") {
        return Ok(text.to_owned());
    }
    let rendered = TEXTS.render_blocking(environment(), text, vars.clone());
    let rendered = rendered.map_err(|failure| match failure.stopped {
        Stopped::OutOfFuel => "the template does too much".to_owned(),
        Stopped::Busy => BUSY.to_owned(),
        Stopped::Raised(why) | Stopped::Failed(why) => format!("the template fails: {why}"),
    })?;
    if rendered.len() > LARGEST {
        return Err(format!("the template makes {} bytes; {LARGEST} at most are sent", rendered.len()));
    }
    Ok(rendered)
}

/// The names that a text reads and that are no function's. Blocks.
pub(super) fn names(text: &str) -> Result<Vec<String>, String> {
    TEXTS.unknown_names(environment(), text).map_err(|failure| failure.told("does too much"))
}

/// What promptfoo's templates know.
fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    // promptfoo's texts are put in as they are, whatever the file's name
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.add_filter("dump", |value: Value| -> Result<String, minijinja::Error> {
        let failed = |why: String| minijinja::Error::new(ErrorKind::BadSerialization, why);
        let mut json = Bounded::new(LARGEST);
        serde_json::to_writer(&mut json, &value).map_err(|e| match e.io_error_kind() {
            Some(_) => failed(format!("more than {LARGEST} bytes of JSON")),
            None => failed(e.to_string()),
        })?;
        String::from_utf8(json.into_bytes()).map_err(|e| failed(e.to_string()))
    });
    env
}

/// Puts variables into all texts of a value.
pub(super) fn render_all(value: &Json, vars: &Map<String, Json>) -> Result<Json, String> {
    Ok(match value {
        Json::String(text) => Json::String(render(text, vars)?),
        Json::Array(items) => {
            Json::Array(items.iter().map(|item| render_all(item, vars)).collect::<Result<_, _>>()?)
        }
        Json::Object(members) => {
            let member = |(name, value): (&String, &Json)| Ok((name.clone(), render_all(value, vars)?));
            Json::Object(members.iter().map(member).collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

/// The messages that a prompt is, with variables in it: a list of them in JSON or YAML, else one of the user's. In a template
/// that is JSON by itself, variables are put into its texts, whatever they hold.
pub(super) fn messages(template: &str, vars: &Map<String, Json>) -> Result<Vec<Json>, String> {
    let is_json = template.trim_start().starts_with(['[', '{']);
    let whole: Option<Json> = if is_json { serde_json::from_str(template).ok() } else { None };
    if let Some(json) = whole {
        return listed(render_all(&json, vars)?);
    }
    let rendered = render(template, vars)?;
    let text = rendered.trim();
    if text.is_empty() {
        return Err("the prompt is empty".to_owned());
    }
    if text.starts_with(['[', '{']) {
        let json = serde_json::from_str(text);
        let none = |e| format!("the prompt begins as JSON and is none: {e}; put texts into it by `| dump`");
        return listed(json.map_err(none)?);
    }
    if text.starts_with("- role:") {
        let yaml: Result<Json, _> = serde_saphyr::from_str(text);
        return listed(yaml.map_err(|e| format!("the prompt begins as YAML and is none: {e}"))?);
    }
    Ok(vec![serde_json::json!({"role": "user", "content": rendered})])
}

fn listed(json: Json) -> Result<Vec<Json>, String> {
    match json {
        Json::Array(messages) if messages.iter().all(|message| message["role"].is_string()) => Ok(messages),
        _ => Err("the prompt is JSON or YAML, and no list of messages with a `role`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vars(value: Json) -> Map<String, Json> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn variables_stand_for_themselves_in_all_texts() {
        let vars = vars(json!({"name": "<Ada>", "order": {"id": 7}, "list": ["a", "b"]}));
        let value = json!({"a": ["{{name}} {{ order.id }}"], "b": 3, "c": "{{ list | dump }}{% for i in list %}{{i}}{% endfor %}"});
        let expected = json!({"a": ["<Ada> 7"], "b": 3, "c": "[\"a\",\"b\"]ab"});
        assert_eq!(render_all(&value, &vars).unwrap(), expected);
        assert!(render("{{nobody}}", &vars).unwrap_err().contains("undefined"));
    }

    #[test]
    fn poison_is_stopped() {
        for text in [
            "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
            "{% for i in range(100000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 1000 }}{% endfor %}",
            "{% include '/etc/passwd' %}",
            "{{ ''.__class__ }}",
            "{{ x",
        ] {
            assert!(render(text, &Map::new()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_that_holds_itself_many_times_is_not_written_out() {
        let bomb = "{% set ns = namespace(x=['a']) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}\
                    {{ ns.x | dump }}";
        assert!(render(bomb, &Map::new()).is_err());
    }

    /// The deepest value that the fuel pays for, and one for which it does not suffice.
    #[test]
    fn a_value_that_is_nested_without_end_overflows_no_stack() {
        let rendered = |times: usize, end: &str| {
            let nest = format!("{{% for i in range({times}) %}}{{% set ns.x = [ns.x] %}}{{% endfor %}}");
            render(&format!("{{% set ns = namespace(x='a') %}}{nest}{end}"), &Map::new())
        };
        for end in ["", "{{ ns.x }}", "{{ ns.x | dump }}", "{{ ns.x ~ '' }}", "{{ ns.x == ns.x }}"] {
            let deepest = (1..40).rev().find(|hundreds| rendered(hundreds * 100, end).is_ok());
            assert!(deepest.is_some_and(|hundreds| hundreds >= 10), "{end}: {deepest:?}");
            assert!(rendered(100_000, end).is_err(), "{end}");
        }
    }

    #[test]
    fn a_prompt_is_a_list_of_messages_or_one() {
        let said = vars(json!({"say": "\"quoted\"\nand more"}));
        let list = json!([
            {"role": "system", "content": "a"},
            {"role": "user", "content": "\"quoted\"\nand more"},
        ]);
        for template in [
            r#"[{"role": "system", "content": "a"}, {"role": "user", "content": "{{say}}"}]"#,
            r#"{% if true %}[{"role": "system", "content": "a"}, {"role": "user", "content": {{say | dump}}}]{% endif %}"#,
            "- role: system\n  content: a\n- role: user\n  content: {{say | dump}}\n",
        ] {
            assert_eq!(Json::Array(messages(template, &said).unwrap()), list, "{template}");
        }
        assert_eq!(messages("say {{say}}", &said).unwrap().len(), 1);
        for bad in [
            " ",
            "[not json",
            "[1, 2]",
            "{\"role\": \"user\"}",
            "{% if true %}[{\"role\": \"{{say}}\"}]{% endif %}",
        ] {
            assert!(messages(bad, &said).is_err(), "{bad}");
        }
    }
}
