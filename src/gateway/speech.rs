//! How a version speaks: the formats in which it writes calls of tools and its reasoning, and how its answers are read.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value as Json;
use xxhash_rust::xxh3::xxh3_128;

use super::GatewayError;
use super::backend::Decoder;
use super::command::{ChatCommand, MostCalls, ToolChoice, ToolUse};
use super::structured::{Calls, Offered, Others, Shape, Structure, Thought, calls};
use crate::config::{ReasoningParser, ToolParser};
use crate::dialect::{
    Forced, Piece, Pieces, Reader, THINK_MARKS, Thinking, ToolFormat, detect_tools, mistral_of,
    thinks_at_the_end,
};
use crate::ids::{ResponseId, VersionRef};
use crate::model::Tokenizer;
use crate::quality::Tool;

/// Letters of an id, as one of Mistral's templates must have them.
const SHORT_ID: usize = 9;

/// The formats of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Formats {
    tools: Option<ToolFormat>,
    reasoning: ReasoningParser,
}

impl Formats {
    /// As the configuration says; of tools else as the template tells, where it leaves no doubt.
    pub(super) fn of(tools: Option<ToolParser>, reasoning: ReasoningParser, template: Option<&str>) -> Self {
        let template = template.unwrap_or_default();
        let tools = match tools {
            None => detect_tools(template),
            Some(ToolParser::None) => None,
            Some(ToolParser::Hermes) => Some(ToolFormat::Hermes),
            Some(ToolParser::Llama3Json) => Some(ToolFormat::Llama3Json),
            Some(ToolParser::Mistral) => Some(mistral_of(template)),
        };
        Self { tools, reasoning }
    }

    /// The messages as the template takes them.
    pub(super) fn fit(self, messages: &mut Cow<'_, [Json]>) {
        if self.tools.is_some_and(ToolFormat::has_short_ids) {
            messages.to_mut().iter_mut().for_each(shorten_ids);
        }
    }
}

/// Gives the ids of calls the form that Mistral's templates insist on. Equal ids stay equal.
fn shorten_ids(message: &mut Json) {
    let calls = message.get_mut("tool_calls").and_then(Json::as_array_mut);
    let ids = calls.into_iter().flatten().filter_map(|call| call.get_mut("id"));
    ids.for_each(shorten);
    if let Some(id) = message.get_mut("tool_call_id") {
        shorten(id);
    }
}

fn shorten(id: &mut Json) {
    let Some(text) = id.as_str() else { return };
    if text.len() != SHORT_ID || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        *id = format!("{:032x}", xxh3_128(text.as_bytes()))[..SHORT_ID].into();
    }
}

/// How the answers to one prompt are read.
#[derive(Debug, Clone, Default)]
pub(super) struct Speech {
    thinking: Option<Thinking>,
    tools: Option<(ToolFormat, Arc<[String]>)>,
    most: MostCalls,
    /// What the answer begins with, as the prompt ends with it.
    opening: String,
    /// What keeps calls to the tools, where something does: the first that can be compiled.
    pub(super) calls: Vec<Arc<Structure>>,
    /// What the checks know of the tools.
    pub(super) offered: Arc<[Tool]>,
}

impl Speech {
    /// Of a conversation that was rendered as `prompt`. Adds what the answer must begin with.
    pub(super) fn of(
        version: &VersionRef,
        decoder: &Decoder,
        chat: &ChatCommand,
        prompt: &mut String,
    ) -> Result<Self, GatewayError> {
        let Formats { tools: format, reasoning } = decoder.formats;
        // a grammar leaves no place for thoughts
        let thinks = reasoning == ReasoningParser::ThinkTags && chat.decoding.structure.is_none();
        let thinking = thinks.then(|| Thinking::after(prompt));
        let Some(tool_use) = &chat.tools else { return Ok(Self { thinking, ..Self::default() }) };
        let Some(format) = format else {
            let message = format!(
                "`tools`: `{version}` does not tell how it writes calls; its operators can say so with `tool_parser`"
            );
            return Err(GatewayError::invalid("tools", message));
        };
        let ToolUse { tools, choice, most, .. } = tool_use;
        if *choice != ToolChoice::Auto && chat.decoding.structure.is_some() {
            let message = "`tool_choice` demands a call, and the shape that is asked for has no place for one; give one of them";
            return Err(GatewayError::invalid("tool_choice", message));
        }
        let in_thought = thinks && thinks_at_the_end(prompt);
        let opening = match choice {
            ToolChoice::Auto => String::new(),
            ToolChoice::Required => format.opening(Forced::Any, in_thought),
            ToolChoice::Named(name) => format.opening(Forced::Named(name), in_thought),
        };
        prompt.push_str(&opening);
        let thought = thinks.then_some(if in_thought { Thought::Begun } else { Thought::Perhaps });
        let calls = match chat.decoding.structure {
            // that shape leaves no place for calls
            Some(_) => Vec::new(),
            None => constrained(format, tool_use, thought, &decoder.model.tokenizer)?,
        };
        let names: Arc<[String]> = tools.iter().map(|tool| tool.name.clone()).collect();
        let offered = Arc::clone(tools);
        Ok(Self { thinking, tools: Some((format, names)), most: *most, opening, calls, offered })
    }

    /// Special tokens that the reading needs to see.
    pub(super) fn marks(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let thought = self.thinking.iter().flat_map(|_| THINK_MARKS);
        let calls = self.tools.iter().flat_map(|(format, _)| format.marks()).copied();
        let ids = thought.chain(calls).filter_map(|mark| tokenizer.id_of(mark));
        ids.filter(|id| tokenizer.is_special(*id)).collect()
    }

    /// Reads one of the answers.
    pub(super) fn reading(&self) -> Reading {
        let is_plain = self.thinking.is_none() && self.tools.is_none();
        let reader = (!is_plain).then(|| {
            let mut reader = Reader::new(self.thinking.clone(), self.tools.clone());
            // nothing comes of it: it breaks off before the arguments
            drop(reader.push(&self.opening));
            reader
        });
        let reasoning_tokens = self.thinking.as_ref().map(|_| 0);
        Reading { reader, most: self.most, calls: 0, reasoning_tokens }
    }
}

/// The grammars of calls, where a call is demanded or a tool is strict: the second, of tools that are not, for any object.
/// Calls that nobody demands, of tools that are not strict, are the model's doing.
fn constrained(
    format: ToolFormat,
    tool_use: &ToolUse,
    thought: Option<Thought>,
    tokenizer: &Tokenizer,
) -> Result<Vec<Arc<Structure>>, GatewayError> {
    let ToolUse { tools, strict, choice, most } = tool_use;
    let (which, tools) = match choice {
        ToolChoice::Auto if strict.is_empty() => return Ok(Vec::new()),
        ToolChoice::Auto => (Calls::Free(*most, thought), &tools[..]),
        ToolChoice::Required => (Calls::Begun(Forced::Any, *most), &tools[..]),
        ToolChoice::Named(name) => {
            let named = tools.iter().position(|tool| tool.name == *name);
            let tools = named.map_or(&[][..], |i| &tools[i..=i]);
            (Calls::Begun(Forced::Named(name), MostCalls::One), tools)
        }
    };
    let special = |mark: &str| tokenizer.id_of(mark).filter(|id| tokenizer.is_special(*id));
    let grammar = |others: Others| {
        let lark = calls(format, &Offered { tools, strict, others }, which, &special)?;
        Structure::new("tools", Shape::Calls(lark), None).map(Arc::new)
    };
    let refused = |why: String| GatewayError::invalid("tools", format!("`tools`: {why}"));
    if tools.iter().all(|tool| strict.contains(&tool.name)) {
        return Ok(vec![grammar(Others::Kept).map_err(refused)?]);
    }
    // what of the second is too large or wrong is so of the first
    let loose = grammar(Others::AnyObject).map_err(refused)?;
    Ok(grammar(Others::Kept).into_iter().chain([loose]).collect())
}

/// One answer as it is read.
#[derive(Debug)]
pub(super) struct Reading {
    /// None where all of it is plain text.
    reader: Option<Reader>,
    most: MostCalls,
    calls: usize,
    /// Where reasoning is told from the answer.
    reasoning_tokens: Option<usize>,
}

impl Reading {
    /// What a token brings.
    pub(super) fn token(&mut self, text: &str) -> Pieces {
        let Some(reader) = &mut self.reader else { return plain(text) };
        let was = reader.is_reasoning();
        let pieces = reader.push(text);
        if let Some(count) = &mut self.reasoning_tokens {
            *count += usize::from(was || reader.is_reasoning());
        }
        self.few(pieces)
    }

    /// What text brings that had been held back.
    pub(super) fn text(&mut self, text: &str) -> Pieces {
        let Some(reader) = &mut self.reader else { return plain(text) };
        let pieces = reader.push(text);
        self.few(pieces)
    }

    /// What the end brings.
    pub(super) fn end(&mut self) -> Pieces {
        let pieces = self.reader.as_mut().map(Reader::finish).unwrap_or_default();
        self.few(pieces)
    }

    /// How many tokens were reasoning, the marks around it included; none where that is not told.
    pub(super) const fn reasoning_tokens(&self) -> Option<usize> {
        self.reasoning_tokens
    }

    /// The pieces that the client wants.
    fn few(&mut self, pieces: Pieces) -> Pieces {
        let mut wanted = Pieces::default();
        for piece in pieces {
            let begins = matches!(piece, Piece::Call(_));
            let is_over = self.most == MostCalls::One && self.calls + usize::from(begins) > 1;
            self.calls += usize::from(begins);
            if !is_over {
                wanted.add(piece);
            }
        }
        wanted
    }
}

fn plain(text: &str) -> Pieces {
    let mut pieces = Pieces::default();
    pieces.add(Piece::Text(text.to_owned()));
    pieces
}

/// The id of a call: another one for each call of each answer.
pub(super) fn call_id(response: ResponseId, choice: usize, call: usize) -> String {
    let name = format!("{response}/{choice}/{call}");
    format!("call_{}", &format!("{:032x}", xxh3_128(name.as_bytes()))[..24])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_that_mistral_would_refuse_are_shortened_alike_in_calls_and_results() {
        let mut messages = Cow::Owned(vec![
            json!({"role": "assistant", "tool_calls": [{"id": "call_1"}, {"id": "abcDEF123"}]}),
            json!({"role": "tool", "tool_call_id": "call_1"}),
        ]);
        let formats = Formats::of(Some(ToolParser::Mistral), ReasoningParser::None, None);
        formats.fit(&mut messages);
        let id = messages[0]["tool_calls"][0]["id"].as_str().unwrap();
        assert!(id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
        assert_eq!(messages[1]["tool_call_id"], id);
        assert_eq!(messages[0]["tool_calls"][1]["id"], "abcDEF123");
    }

    #[test]
    fn of_an_answer_that_may_call_once_the_rest_is_left_out() {
        let names: Arc<[String]> = Arc::new([]);
        let speech =
            Speech { tools: Some((ToolFormat::Hermes, names)), most: MostCalls::One, ..Speech::default() };
        let mut reading = speech.reading();
        let call = |name: &str| format!("<tool_call>{{\"name\": \"{name}\"}}</tool_call>");
        let pieces = reading.text(&format!("a{}{}b", call("f"), call("g")));
        let pieces: Vec<Piece> = pieces.into_iter().chain(reading.end()).collect();
        let wanted = [Piece::Text("a".into()), Piece::Call("f".into()), Piece::Arguments("{}".into())];
        assert_eq!(pieces, wanted);
    }

    #[test]
    fn tokens_of_the_reasoning_are_counted_with_its_marks() {
        let speech = Speech { thinking: Some(Thinking::after("")), ..Speech::default() };
        let mut reading = speech.reading();
        for token in ["<think>", "hm", "\n", "</think>", "\n\n", "Yes", "."] {
            reading.token(token);
        }
        assert_eq!(reading.reasoning_tokens(), Some(4));
    }
}
