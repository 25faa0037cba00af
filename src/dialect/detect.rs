//! What a chat template tells of the format in which its model calls tools.

use super::format::ToolFormat;
use super::{hermes, llama, mistral};

/// Marks of formats that begin as a known one does and are another.
const OTHERS: [&str; 4] = ["<function=", "<arg_key>", "<tool_sep>", "<parameter="];

/// The format, where the template leaves no doubt: it writes the tools that a request offers, and calls in one format.
pub fn detect_tools(template: &str) -> Option<ToolFormat> {
    let has = |text: &str| template.contains(text);
    if !has("tools") || OTHERS.iter().any(|other| has(other)) {
        return None;
    }
    let hermes = has(hermes::OPEN) && has(hermes::CLOSE);
    let mistral = has(mistral::OPEN);
    let llama = has("<|start_header_id|>") && (has(llama::TAG) || has("\"parameters\""));
    match (hermes, mistral, llama) {
        (true, false, false) => Some(ToolFormat::Hermes),
        (false, true, false) => Some(mistral_of(template)),
        (false, false, true) => Some(ToolFormat::Llama3Json),
        _ => None,
    }
}

/// Which of Mistral's two formats a template writes.
pub fn mistral_of(template: &str) -> ToolFormat {
    if template.contains(mistral::ARGUMENTS) { ToolFormat::MistralArgs } else { ToolFormat::Mistral }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_writes_calls_in_one_format_tells_it() {
        let cases = [
            ("{% if tools %}..<tool_call>\\n{..}\\n</tool_call>", Some(ToolFormat::Hermes)),
            ("{{ tools }} [AVAILABLE_TOOLS] [TOOL_CALLS] [{..}]", Some(ToolFormat::Mistral)),
            ("{{ tools }} [TOOL_CALLS]{{ name }}[ARGS]", Some(ToolFormat::MistralArgs)),
            (
                "{{ tools }} <|start_header_id|> {\"name\": .., \"parameters\": ..}",
                Some(ToolFormat::Llama3Json),
            ),
            ("{% if tools %}<tool_call>\\n<function={{ name }}>\\n</tool_call>", None),
            ("{% if tools %}<tool_call>{{ name }}\\n<arg_key></tool_call>", None),
            ("{{ tools }} <tool_call></tool_call> [TOOL_CALLS]", None),
            ("<tool_call></tool_call>, and no word of the request's", None),
            ("{{ messages }}", None),
        ];
        for (template, wanted) in cases {
            assert_eq!(detect_tools(template), wanted, "{template}");
        }
    }
}
