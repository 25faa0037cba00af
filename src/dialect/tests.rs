//! What becomes of whole answers, and that it does not matter how they are cut.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const FORMATS: [ToolFormat; 4] =
    [ToolFormat::Hermes, ToolFormat::Llama3Json, ToolFormat::Mistral, ToolFormat::MistralArgs];

fn reader(format: ToolFormat, thinking: Option<Thinking>) -> Reader {
    let names: Arc<[String]> = ["weather", "time"].map(str::to_owned).into();
    Reader::new(thinking, Some((format, names)))
}

fn read_in<'a>(mut reader: Reader, parts: impl IntoIterator<Item = &'a str>) -> Vec<Piece> {
    let mut all = Pieces::default();
    for part in parts {
        reader.push(part).into_iter().for_each(|piece| all.add(piece));
    }
    reader.finish().into_iter().for_each(|piece| all.add(piece));
    all.into_iter().collect()
}

fn read(format: ToolFormat, text: &str) -> Vec<Piece> {
    read_in(reader(format, None), [text])
}

fn text(text: &str) -> Piece {
    Piece::Text(text.into())
}

fn call(name: &str, arguments: &str) -> [Piece; 2] {
    [Piece::Call(name.into()), Piece::Arguments(arguments.into())]
}

fn calls<const N: usize>(calls: [(&str, &str); N]) -> Vec<Piece> {
    calls.iter().flat_map(|(name, arguments)| call(name, arguments)).collect()
}

#[test]
fn each_format_is_read_with_the_text_around_it() {
    use ToolFormat::{Hermes, Llama3Json, Mistral, MistralArgs};
    let weather = ("weather", r#"{"city": "Paris"}"#);
    let both = [weather, ("time", "{}")];
    let cases = [
        (
            Hermes,
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>",
            1,
        ),
        (
            Hermes,
            "\n<tool_call>{\"arguments\": {\"city\": \"Paris\"}, \"name\": \"weather\"}</tool_call>\n\
             <tool_call>\n{\"name\": \"time\"}\n</tool_call>\n",
            2,
        ),
        // the first lacks its end mark
        (
            Hermes,
            "<tool_call>{\"name\":\"weather\",\"arguments\":{\"city\": \"Paris\"}}\n<tool_call>{\"name\":\"time\",\"arguments\":{}}",
            2,
        ),
        (Llama3Json, " {\"name\": \"weather\", \"parameters\": {\"city\": \"Paris\"}}", 1),
        (
            Llama3Json,
            "<|python_tag|>{\"name\": \"weather\", \"parameters\": {\"city\": \"Paris\"}}; {\"name\": \"time\"}\n",
            2,
        ),
        (Mistral, "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}]", 1),
        (
            Mistral,
            "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}, {\"name\": \"time\", \"arguments\": {}}]",
            2,
        ),
        (MistralArgs, "[TOOL_CALLS]weather[ARGS]{\"city\": \"Paris\"}[TOOL_CALLS]time{}", 2),
        (MistralArgs, "[TOOL_CALLS]weather[CALL_ID]abc123def[ARGS]{\"city\": \"Paris\"}", 1),
    ];
    for (format, answer, count) in cases {
        let wanted: Vec<Piece> = both[..count].iter().flat_map(|(name, args)| call(name, args)).collect();
        assert_eq!(read(format, answer), wanted, "{format:?}: {answer}");
    }
}

#[test]
fn text_before_and_after_calls_stays_without_the_blanks_between() {
    let answer = "Let me look.\n\n<tool_call>{\"name\": \"time\", \"arguments\": {}}</tool_call>\nDone.";
    let [name, arguments] = call("time", "{}");
    assert_eq!(read(ToolFormat::Hermes, answer), [text("Let me look."), name, arguments, text("\nDone.")]);
}

#[test]
fn what_only_looks_like_a_call_is_text_to_the_letter() {
    let cases = [
        (ToolFormat::Hermes, "a < b, <tool_cal l>, <tool_call"),
        (ToolFormat::Hermes, "I would write <tool_call> and then {\"name\": ..}"),
        (ToolFormat::Hermes, "<tool_call>{\"name\": 7, \"arguments\": {}}</tool_call>"),
        (ToolFormat::Hermes, "<tool_call>{\"name\": \"weather\", \"arguments\": [1]}</tool_call>"),
        (ToolFormat::Hermes, "<tool_call>\n{\"name\": \"wea"),
        (ToolFormat::Llama3Json, "{\"name\": \"Ada\", \"parameters\": {}}"),
        (ToolFormat::Llama3Json, "{\"answer\": 42} "),
        (ToolFormat::Llama3Json, "Sure: {\"name\": \"weather\", \"parameters\": {}}"),
        (ToolFormat::Llama3Json, "<|python_tag|>print(1)"),
        (ToolFormat::Mistral, "[TOOL_CALLS] I have none"),
        (ToolFormat::Mistral, "[TOOL_CALLS][{\"name\": 1}]"),
        (ToolFormat::MistralArgs, "[TOOL_CALLS]weather[ARG]{}"),
        (ToolFormat::MistralArgs, "[TOOL_CALLS]weather[CALL_ID]1"),
    ];
    for (format, answer) in cases {
        assert_eq!(read(format, answer), [text(answer)], "{format:?}");
    }
}

#[test]
fn arguments_that_break_off_stay_as_the_model_wrote_them() {
    let cut = "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Par";
    assert_eq!(read(ToolFormat::Hermes, cut), call("weather", "{\"city\": \"Par"));
    let open = "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": 1</tool_call>Hm.";
    let [name, arguments] = call("weather", "{\"city\": 1");
    assert_eq!(read(ToolFormat::Hermes, open), [name, arguments, text("Hm.")]);
    let marks =
        "<tool_call>{\"name\": \"time\", \"arguments\": {\"a\": \"</tool_call> \\\" }\"}}</tool_call>";
    assert_eq!(read(ToolFormat::Hermes, marks), call("time", "{\"a\": \"</tool_call> \\\" }\"}"));
}

#[test]
fn arguments_in_a_string_are_unwrapped() {
    let answer = r#"<tool_call>{"name": "weather", "arguments": "{\"city\": \"Paris\"}"}</tool_call>"#;
    assert_eq!(read(ToolFormat::Hermes, answer), call("weather", r#"{"city": "Paris"}"#));
}

#[test]
fn the_name_comes_as_soon_as_the_arguments_begin_and_they_come_as_they_are_written() {
    let mut reader = reader(ToolFormat::Hermes, None);
    let mut pieces = |part: &str| reader.push(part).into_iter().collect::<Vec<_>>();
    assert_eq!(pieces("<tool_call>{\"name\": \"weather\", \"arguments\": "), []);
    assert_eq!(pieces("{\"ci"), call("weather", "{\"ci"));
    assert_eq!(pieces("ty\": 1"), [Piece::Arguments("ty\": 1".into())]);
}

fn think(prompt: &str, answer: &str) -> Vec<Piece> {
    read_in(reader(ToolFormat::Hermes, Some(Thinking::after(prompt))), [answer])
}

#[test]
fn reasoning_is_split_from_the_answer_whoever_opened_it() {
    let both = [Piece::Reasoning("hm, a\nb".into()), text("Yes.")];
    assert_eq!(think("..assistant\n", "<think>\nhm, a\nb\n</think>\n\nYes."), both);
    assert_eq!(think("..assistant\n<think>\n", "hm, a\nb\n</think>\n\nYes."), both);
    // closed in the prompt: it does not think
    assert_eq!(think("<think>\n\n</think>\n\n", "Yes."), [text("Yes.")]);
    assert_eq!(think("", "Yes <think>no</think>"), [text("Yes <think>no</think>")]);
    assert_eq!(think("<think>", "cut off "), [Piece::Reasoning("cut off".into())]);
    assert_eq!(think("", "<think></think>Yes."), [text("Yes.")]);
    assert_eq!(think("", " <thin"), [text(" <thin")]);
}

#[test]
fn a_call_in_the_reasoning_is_none_and_one_behind_it_is() {
    let answer = "<think>I could write <tool_call>{\"name\": \"time\"}</tool_call></think>\n\
        <tool_call>{\"name\": \"time\"}</tool_call>";
    let [name, arguments] = call("time", "{}");
    let thought = Piece::Reasoning("I could write <tool_call>{\"name\": \"time\"}</tool_call>".into());
    assert_eq!(think("", answer), [thought, name, arguments]);
}

#[test]
fn an_answer_that_must_call_is_read_from_its_opening_on() {
    for format in FORMATS {
        let named = format.opening(Forced::Named("weather"), false);
        let CallShape { end, .. } = format.shape();
        let parts = [named.as_str(), " {\"city\": 1}", end];
        assert_eq!(read_in(reader(format, None), parts), call("weather", "{\"city\": 1}"), "{format:?}");
        let any = format.opening(Forced::Any, false);
        let parts = [any.as_str(), "time", format.shape().before_arguments, "{}", end];
        assert_eq!(read_in(reader(format, None), parts), call("time", "{}"), "{format:?}");
    }
    let prompt = "<think>\n";
    let opening = ToolFormat::Hermes.opening(Forced::Any, true);
    let reader = reader(ToolFormat::Hermes, Some(Thinking::after(prompt)));
    let parts = [opening.as_str(), "time\", \"arguments\": {}}"];
    assert_eq!(read_in(reader, parts), calls([("time", "{}")]));
}

/// Text made of what readers look for.
fn answer() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "<tool_",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "<|python_tag|>",
        "<think>",
        "</think>",
        "{\"name\": \"weather\", \"arguments\": ",
        "{\"name\": \"time\", \"parameters\": ",
        "{\"a\": \"}<\\\"\"}",
        "{}",
        "}",
        "[",
        "]",
        ", ",
        ";",
        "weather",
        "\n",
        " ",
        "é",
        "<",
        "\"",
        "\\",
        "x",
    ]);
    prop::collection::vec(fragment, 0..14).prop_map(|fragments| fragments.concat())
}

fn cut<'a>(text: &'a str, at: &[usize]) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let mut rest = text;
    for length in at.iter().cycle().take(text.len()) {
        let (part, more) = rest.split_at(rest.floor_char_boundary(*length));
        parts.push(part);
        rest = more;
    }
    parts.push(rest);
    parts
}

proptest! {
    #[test]
    fn any_cut_of_any_answer_gives_the_same_pieces(
        answer in answer(),
        at in prop::collection::vec(1usize..9, 1..8),
        thinks in prop::sample::select(vec![None, Some(""), Some("<think>\n")]),
        format in prop::sample::select(FORMATS.to_vec()),
    ) {
        let thinking = || thinks.map(Thinking::after);
        let whole = read_in(reader(format, thinking()), [answer.as_str()]);
        prop_assert_eq!(read_in(reader(format, thinking()), cut(&answer, &at)), whole);
    }

    #[test]
    fn an_answer_without_a_mark_is_text_to_the_letter(
        answer in "[a-z \n\"{}\\[\\]:,;<>/é]{0,60}",
        format in prop::sample::select(FORMATS.to_vec()),
    ) {
        let wanted = if answer.is_empty() { Vec::new() } else { vec![text(&answer)] };
        prop_assert_eq!(read(format, &answer), wanted);
    }

    #[test]
    fn a_call_that_is_written_in_a_format_is_read_from_it(
        city in "\\PC{0,20}",
        count in 0u32..1000,
        format in prop::sample::select(FORMATS.to_vec()),
    ) {
        let arguments = serde_json::json!({"city": city, "count": count, "list": [1, {"a": []}]}).to_string();
        let CallShape { before_name, before_arguments, end, .. } = format.shape();
        let written = format!("{before_name}weather{before_arguments}{arguments}{end}");
        prop_assert_eq!(read(format, &written), calls([("weather", arguments.as_str())]));
    }
}
