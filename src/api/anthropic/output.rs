//! Deltas as content blocks of a message, and as the events that tell of them.

use axum::response::sse::Event;
use serde_json::{Map, Value as Json, json};

use super::error::AnthropicError;
use crate::api::error::ApiError;
use crate::api::openai::{Adding, Chunks, Envelope, typed_event};
use crate::gateway::{Answer, Delta, Ending, Totals};

/// Writes one message.
pub(super) struct Writer {
    envelope: Envelope,
    /// Blocks that are done.
    content: Vec<Json>,
    open: Option<Open>,
    ending: Option<Ending>,
    /// Tokens of the prompt, until all is known.
    totals: Totals,
}

/// The block under way.
struct Open {
    kind: Kind,
    text: String,
}

#[derive(PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
    Tool { id: String, name: String },
}

impl Open {
    /// The block at its beginning.
    fn begun(&self) -> Json {
        match &self.kind {
            Kind::Text => json!({"type": "text", "text": ""}),
            Kind::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
            Kind::Tool { id, name } => json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
        }
    }

    /// The whole block. Arguments that are no object, as a model may write them, are given under a name of their own.
    fn whole(self) -> Json {
        match self.kind {
            Kind::Text => json!({"type": "text", "text": self.text}),
            Kind::Thinking => json!({"type": "thinking", "thinking": self.text, "signature": ""}),
            Kind::Tool { id, name } => {
                let input = serde_json::from_str::<Map<String, Json>>(&self.text).map(Json::Object);
                let input = input.unwrap_or_else(|_| json!({"invalid_json": self.text}));
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        }
    }

    fn delta(&self, text: &str) -> Json {
        match self.kind {
            Kind::Text => json!({"type": "text_delta", "text": text}),
            Kind::Thinking => json!({"type": "thinking_delta", "thinking": text}),
            Kind::Tool { .. } => json!({"type": "input_json_delta", "partial_json": text}),
        }
    }
}

impl Writer {
    pub(super) fn new(envelope: Envelope, answer: &Answer) -> Self {
        let mut totals = Totals::default();
        totals.usage.prompt_tokens = answer.prompts.iter().map(|prompt| prompt.tokens).sum();
        Self { envelope, content: Vec::new(), open: None, ending: None, totals }
    }

    fn message(&self) -> Json {
        json!({
            "id": self.envelope.id, "type": "message", "role": "assistant", "model": self.envelope.model,
            "content": self.content, "stop_reason": self.stop_reason(), "stop_sequence": null,
            "usage": self.usage()
        })
    }

    fn stop_reason(&self) -> Option<&'static str> {
        self.ending.map(|ending| match ending {
            Ending::Stop => "end_turn",
            Ending::Length => "max_tokens",
            Ending::ToolCalls => "tool_use",
        })
    }

    fn usage(&self) -> Json {
        let usage = self.totals.usage;
        json!({
            "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens),
            "cache_read_input_tokens": usage.cached_tokens, "cache_creation_input_tokens": 0,
            "output_tokens": usage.completion_tokens
        })
    }

    fn say(&mut self, kind: Kind, text: &str) -> Vec<Event> {
        if text.is_empty() {
            return Vec::new();
        }
        let goes_on = self.open.as_ref().is_some_and(|open| open.kind == kind);
        let mut events = if goes_on { Vec::new() } else { self.open(kind) };
        events.extend(self.more(text));
        events
    }

    fn open(&mut self, kind: Kind) -> Vec<Event> {
        let mut events = self.close();
        let open = Open { kind, text: String::new() };
        let members = json!({"index": self.content.len(), "content_block": open.begun()});
        events.push(event("content_block_start", members));
        self.open = Some(open);
        events
    }

    fn more(&mut self, text: &str) -> Vec<Event> {
        let Some(open) = &mut self.open else { return Vec::new() };
        open.text.push_str(text);
        vec![event("content_block_delta", json!({"index": self.content.len(), "delta": open.delta(text)}))]
    }

    fn close(&mut self) -> Vec<Event> {
        let Some(open) = self.open.take() else { return Vec::new() };
        let index = self.content.len();
        self.content.push(open.whole());
        vec![event("content_block_stop", json!({"index": index}))]
    }
}

fn event(kind: &str, members: Json) -> Event {
    typed_event(kind, members, Json::Null)
}

impl Chunks for Writer {
    fn opening(&mut self) -> Vec<Event> {
        vec![event("message_start", json!({"message": self.message()}))]
    }

    fn on(&mut self, delta: Delta) -> Vec<Event> {
        match delta {
            Delta::Text { text, .. } => self.say(Kind::Text, &text),
            Delta::Reasoning { text, .. } => self.say(Kind::Thinking, &text),
            Delta::Call { id, name, .. } => self.open(Kind::Tool { id, name }),
            Delta::Arguments { text, .. } => self.more(&text),
            Delta::Finished { reason, .. } => {
                self.ending = Some(reason);
                self.close()
            }
            Delta::Done(totals) => {
                self.totals = totals;
                let delta = json!({"stop_reason": self.stop_reason(), "stop_sequence": null});
                let delta = event("message_delta", json!({"delta": delta, "usage": self.usage()}));
                vec![delta, event("message_stop", Json::Null)]
            }
            Delta::Prompt { .. } => Vec::new(),
        }
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Event> {
        vec![event("error", json!({"error": AnthropicError::of(error).error}))]
    }

    fn closing(&mut self) -> Vec<Event> {
        Vec::new()
    }
}

impl Adding for Writer {
    fn object(&self) -> Json {
        self.message()
    }
}
