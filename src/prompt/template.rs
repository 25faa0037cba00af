//! A version's chat template, compiled once and rendered per request.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::python;
use crate::model::{ChatTemplateSources, SpecialTokenText};
use crate::sandbox::{BUSY, Failure, Stopped, Templates};

/// The work one rendering may do: about this many template instructions, or 64 times as many bytes of text.
/// A long conversation with tools costs some tens of thousands.
const FUEL: u64 = 500_000;

/// The name under which a template is kept; it is what error messages show.
const NAME: &str = "chat_template";
/// That of the one for conversations with tools.
const WITH_TOOLS: &str = "chat_template (tool_use)";
/// What templates know as the reasoning of a message: the first is what they read, the others are older names.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Why there is no prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// The template's source does not parse: a defect of the version.
    #[error("the chat template does not compile: {0}")]
    Template(String),
    /// The template looked at these messages and raised an exception: a defect of the request.
    #[error("{0}")]
    Refused(String),
    /// The template failed on these messages in another way, such as a filter on a value that lacks it.
    #[error("the chat template failed on these messages: {0}")]
    Failed(String),
    /// The template ran longer than any honest one does.
    #[error("the chat template was stopped: it did not finish within its bounds of work and memory")]
    OutOfFuel,
    /// It was not begun, as too much was being rendered. Neither the template nor the messages are to blame.
    #[error("{BUSY}")]
    Busy,
}

/// Whether the prompt ends with the opening of the assistant's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GenerationPrompt {
    /// It does: the model is asked to answer.
    #[default]
    Add,
    /// It does not: the conversation stands as it is.
    Omit,
}

/// A compiled chat template; cheap to clone.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    templates: Arc<Templates>,
    /// The name of the template for conversations with tools.
    with_tools: &'static str,
}

impl ChatTemplate {
    /// Compiles a template as `transformers` would: `trim_blocks`, `lstrip_blocks`, Python's methods. Blocks.
    pub fn compile(source: &str, special: &SpecialTokenText) -> Result<Self, PromptError> {
        let default = source.to_owned();
        Self::compile_all(&ChatTemplateSources { default, tool_use: None }, special)
    }

    /// Compiles the templates of a model. Blocks.
    pub fn compile_all(
        sources: &ChatTemplateSources,
        special: &SpecialTokenText,
    ) -> Result<Self, PromptError> {
        let mut env = python::environment().map_err(|e| PromptError::Template(e.to_string()))?;
        for (name, token) in &special.others {
            env.add_global(name.clone(), token.clone());
        }
        env.add_global("bos_token", special.bos.clone().unwrap_or_default());
        env.add_global("eos_token", special.eos.clone().unwrap_or_default());
        let named = [(NAME, Some(&sources.default)), (WITH_TOOLS, sources.tool_use.as_ref())];
        let named =
            named.into_iter().filter_map(|(name, source)| Some((name, without_generation_marks(source?))));
        let templates = Templates::compile(env, FUEL, named.collect());
        let templates = templates
            .map_err(|failure| PromptError::Template(failure.told("it is more than may be compiled")))?;
        let with_tools = if sources.tool_use.is_some() { WITH_TOOLS } else { NAME };
        Ok(Self { templates: Arc::new(templates), with_tools })
    }

    /// Renders messages; `extra` holds further variables that templates read, such as `tools` and `documents`, which are
    /// none where it does not have them.
    pub async fn render(
        &self,
        messages: &[Json],
        extra: &Map<String, Json>,
        generation: GenerationPrompt,
    ) -> Result<String, PromptError> {
        let (name, context) = self.context(messages, extra, generation);
        self.templates.render(name, context).await.map_err(classify)
    }

    /// The same. Blocks.
    pub fn render_blocking(
        &self,
        messages: &[Json],
        extra: &Map<String, Json>,
        generation: GenerationPrompt,
    ) -> Result<String, PromptError> {
        let (name, context) = self.context(messages, extra, generation);
        self.templates.render_blocking(name, context).map_err(classify)
    }

    /// The template for a conversation, and what it reads.
    fn context(
        &self,
        messages: &[Json],
        extra: &Map<String, Json>,
        generation: GenerationPrompt,
    ) -> (&'static str, Map<String, Json>) {
        let mut context = extra.clone();
        for name in ["tools", "documents"] {
            context.entry(name).or_insert(Json::Null);
        }
        let name = if context["tools"].is_null() { NAME } else { self.with_tools };
        context.insert("messages".into(), messages.iter().map(as_templates_read).collect());
        context.insert("add_generation_prompt".into(), Json::Bool(generation == GenerationPrompt::Add));
        (name, context)
    }
}

/// A message as `transformers` gives it to templates: without keys that are null, which many templates would print, and
/// with its reasoning under the name that they read.
fn as_templates_read(message: &Json) -> Json {
    let Json::Object(members) = message else { return message.clone() };
    let mut members: Map<String, Json> =
        members.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    if let Some(reasoning) = REASONING.iter().find_map(|name| members.get(*name)).cloned() {
        members.insert(REASONING[0].to_owned(), reasoning.clone());
        members.entry(REASONING[1]).or_insert(reasoning);
    }
    Json::Object(members)
}

fn classify(failure: Failure) -> PromptError {
    match failure.stopped {
        Stopped::Raised(why) => PromptError::Refused(why),
        Stopped::OutOfFuel => PromptError::OutOfFuel,
        Stopped::Busy => PromptError::Busy,
        Stopped::Failed(why) => PromptError::Failed(why),
    }
}

/// Turns `{% generation %}` and `{% endgeneration %}` into comments. They mark the assistant's words for
/// training and print nothing; our Jinja does not know them. Their whitespace control stays.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        out.push_str(&rest[..start]);
        let tag = &rest[start..];
        // looked for behind the opening, as `{%}` does not close itself
        let Some(end) = tag[2..].find("%}").map(|at| at + 4) else { break };
        let inner = &tag[2..end - 2];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        if matches!(word, "generation" | "endgeneration") {
            let sign =
                |c: Option<char>| c.filter(|c| matches!(c, '-' | '+')).map(String::from).unwrap_or_default();
            let (first, last) = (sign(inner.chars().next()), sign(inner.chars().last()));
            out.extend(["{#", &first, " ", &last, "#}"]);
        } else {
            out.push_str(&tag[..end]);
        }
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CHATML: &str = "{% for message in messages %}\n\
        {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
        {% endfor %}\n{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn special() -> SpecialTokenText {
        SpecialTokenText { bos: Some("<s>".into()), eos: Some("</s>".into()), ..SpecialTokenText::default() }
    }

    fn render(source: &str, messages: &Json, extra: Json) -> Result<String, PromptError> {
        let Json::Object(extra) = extra else { panic!("extra must be an object") };
        let messages = messages.as_array().unwrap();
        ChatTemplate::compile(source, &special())?.render_blocking(messages, &extra, GenerationPrompt::Add)
    }

    #[test]
    fn a_tag_that_opens_and_closes_in_one_character_is_an_error_and_no_panic() {
        for source in ["{%}", "a {%} b", "{%", "{%}%}"] {
            assert!(ChatTemplate::compile(source, &special()).is_err(), "{source:?} was taken");
        }
    }

    #[test]
    fn chatml_renders_as_transformers_does() {
        let messages = json!([
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "a < b & \"c\""}
        ]);
        assert_eq!(
            render(CHATML, &messages, json!({})).unwrap(),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\na < b & \"c\"<|im_end|>\n\
             <|im_start|>assistant\n"
        );
    }

    #[test]
    fn the_generation_prompt_can_be_left_out() {
        let template = ChatTemplate::compile(CHATML, &special()).unwrap();
        let messages = [json!({"role": "user", "content": "hi"})];
        let text = template.render_blocking(&messages, &Map::new(), GenerationPrompt::Omit).unwrap();
        assert_eq!(text, "<|im_start|>user\nhi<|im_end|>\n");
    }

    #[test]
    fn a_conversation_with_tools_has_the_template_that_is_for_them() {
        let sources = ChatTemplateSources {
            default: "{{ tools }}".into(),
            tool_use: Some("{{ tools | length }}".into()),
        };
        let template = ChatTemplate::compile_all(&sources, &special()).unwrap();
        let render = |extra: Json| {
            template.render_blocking(&[], extra.as_object().unwrap(), GenerationPrompt::Add).unwrap()
        };
        assert_eq!(render(json!({"tools": [1, 2]})), "2");
        assert_eq!((render(json!({})), render(json!({"tools": null}))), ("None".into(), "None".into()));
    }

    #[test]
    fn a_message_has_no_nulls_and_its_reasoning_by_the_usual_name() {
        let source =
            "{% for m in messages %}{{ m.content is defined }} {{ m.reasoning_content }}{% endfor %}";
        let messages = json!([{"role": "assistant", "content": null, "reasoning": "Hm."}]);
        assert_eq!(render(source, &messages, json!({})).unwrap(), "False Hm.");
    }

    #[test]
    fn a_llama_3_like_template_reads_its_tools() {
        let source = r#"{{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'].strip() %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"#;
        let messages = json!([{"role": "system", "content": " Help. "}, {"role": "user", "content": " Hi "}]);
        let tools = json!({"tools": [{"name": "wetter_für", "args": ["a", "b"], "none": [], "o": {}}]});
        assert_eq!(
            render(source, &messages, tools).unwrap(),
            "<s><|start_header_id|>system<|end_header_id|>\n\n{\n    \"name\": \"wetter_für\",\n    \"args\": [\n        \
             \"a\",\n        \"b\"\n    ],\n    \"none\": [],\n    \"o\": {}\n}\n\nHelp.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        );
        assert!(render(source, &messages, json!({})).unwrap().starts_with("<s><|start_header_id|>system"));
    }

    #[test]
    fn tojson_writes_what_pythons_json_writes() {
        let value = json!({"v": {"b": [1, 2.5, null, true], "a": "<é>"}});
        assert_eq!(
            render("{{ v | tojson }}|{{ v | tojson(sort_keys=true, ensure_ascii=true) }}", &json!([]), value)
                .unwrap(),
            r#"{"b": [1, 2.5, null, true], "a": "<é>"}|{"a": "<\u00e9>", "b": [1, 2.5, null, true]}"#
        );
    }

    #[test]
    fn tojson_takes_the_separators_that_pythons_json_takes() {
        let value = json!({"v": {"b": [1, 2], "a": {}}});
        let source =
            "{{ v | tojson(separators=(',', ':')) }}|{{ v | tojson(indent=1, separators=['; ', '=']) }}";
        assert_eq!(
            render(source, &json!([]), value.clone()).unwrap(),
            "{\"b\":[1,2],\"a\":{}}|{\n \"b\"=[\n  1; \n  2\n ]; \n \"a\"={}\n}"
        );
        let error = render("{{ v | tojson(separators=[',']) }}", &json!([]), value).unwrap_err();
        assert!(matches!(&error, PromptError::Failed(why) if why.contains("separators")), "{error}");
    }

    #[test]
    fn tojson_is_bounded_in_width_length_and_depth() {
        let value = json!({"v": [1]});
        for indent in [65, 70_000] {
            let source = format!("{{{{ v | tojson(indent={indent}) }}}}");
            let error = render(&source, &json!([]), value.clone()).unwrap_err();
            assert!(matches!(&error, PromptError::Failed(why) if why.contains("indent")), "{error}");
        }
        assert!(render("{{ v | tojson(indent=64) }}", &json!([]), value).is_ok());
        // a few lists that hold each other are small, and their text is not
        let doubled = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}\
            {% endfor %}{{ ns.x | tojson }}";
        assert_eq!(render(doubled, &json!([]), json!({})).unwrap_err(), PromptError::OutOfFuel);
        let sorted = doubled.replace("tojson", "tojson(sort_keys=true, indent=64)");
        assert_eq!(render(&sorted, &json!([]), json!({})).unwrap_err(), PromptError::OutOfFuel);
        let deep = "{% set ns = namespace(x=[1]) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}\
            {% endfor %}{{ ns.x | tojson }}";
        assert_eq!(render(deep, &json!([]), json!({})).unwrap_err(), PromptError::OutOfFuel);
        // a text that is written again and again and thrown away costs fuel, too
        let again =
            "{% set big = 'x' * 10000000 %}{% for i in range(90000) %}{% set y = big | tojson %}{% endfor %}";
        assert_eq!(render(again, &json!([]), json!({})).unwrap_err(), PromptError::OutOfFuel);
    }

    #[test]
    fn what_the_template_raises_is_told_as_it_was_raised() {
        let source =
            "{% if messages[0].role != 'user' %}{{ raise_exception('Roles must alternate') }}{% endif %}";
        let error = render(source, &json!([{"role": "system", "content": ""}]), json!({})).unwrap_err();
        assert_eq!(error, PromptError::Refused("Roles must alternate".into()));
    }

    #[test]
    fn an_endless_loop_runs_out_of_fuel() {
        let nested = "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}";
        assert_eq!(render(nested, &json!([]), json!({})).unwrap_err(), PromptError::OutOfFuel);
        let huge = "{{ 'x' * 100000000000 }}";
        assert_eq!(render(huge, &json!([]), json!({})).unwrap_err(), PromptError::OutOfFuel);
    }

    #[test]
    fn a_template_that_does_not_parse_says_where() {
        let error = render("{% for %}", &json!([]), json!({})).unwrap_err();
        assert!(matches!(&error, PromptError::Template(why) if why.contains("chat_template:1")), "{error}");
    }

    #[test]
    fn pythons_words_and_methods_are_known() {
        let source = "{{ none }} {{ true }} {{ 'a,b'.split(',')[1] }} {{ {'k': 1}.get('z', 2) }}\
            {% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}\
            {%- generation -%} x {%- endgeneration %}";
        assert_eq!(render(source, &json!([]), json!({})).unwrap(), "None True b 201x");
        assert_eq!(render("{{ strftime_now('%Y') }}", &json!([]), json!({})).unwrap().len(), 4);
    }
}
