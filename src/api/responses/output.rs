//! Deltas as the items of a response, and as the events that tell of them.

use axum::response::sse::Event;
use serde_json::{Map, Value as Json, json};

use crate::api::error::ApiError;
use crate::api::openai::{Adding, Chunks, Envelope, typed_event};
use crate::gateway::{Delta, Ending, Totals};

/// Writes one response.
pub(super) struct Writer {
    envelope: Envelope,
    echoed: Map<String, Json>,
    /// Items that are done.
    output: Vec<Json>,
    open: Option<Open>,
    ending: Ending,
    totals: Option<Totals>,
    /// Events so far.
    sequence: u64,
    /// What went wrong, if something did.
    error: Option<Json>,
}

/// The item under way.
struct Open {
    kind: Kind,
    id: String,
    text: String,
}

enum Kind {
    Message,
    Reasoning,
    Call { id: String, name: String },
}

impl Open {
    fn is(&self, wanted: &Kind) -> bool {
        matches!((&self.kind, wanted), (Kind::Message, Kind::Message) | (Kind::Reasoning, Kind::Reasoning))
    }

    fn part(&self, text: &str) -> Json {
        match self.kind {
            Kind::Reasoning => json!({"type": "reasoning_text", "text": text}),
            _ => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
        }
    }

    /// The item, as far as it is.
    fn item(&self, status: &str) -> Json {
        let begun = status == "in_progress";
        let parts = || if begun { json!([]) } else { json!([self.part(&self.text)]) };
        match &self.kind {
            Kind::Message => json!({
                "id": self.id, "type": "message", "status": status, "role": "assistant", "content": parts()
            }),
            Kind::Reasoning => json!({
                "id": self.id, "type": "reasoning", "status": status, "summary": [], "content": parts()
            }),
            Kind::Call { id, name } => json!({
                "id": self.id, "type": "function_call", "status": status, "call_id": id, "name": name,
                "arguments": self.text
            }),
        }
    }

    /// The event of more of its text, and that of all of it with its member.
    fn words(&self) -> (&'static str, &'static str, &'static str) {
        match self.kind {
            Kind::Message => ("response.output_text.delta", "response.output_text.done", "text"),
            Kind::Reasoning => ("response.reasoning_text.delta", "response.reasoning_text.done", "text"),
            Kind::Call { .. } => (
                "response.function_call_arguments.delta",
                "response.function_call_arguments.done",
                "arguments",
            ),
        }
    }
}

impl Writer {
    pub(super) fn new(envelope: Envelope, echoed: Map<String, Json>) -> Self {
        let (ending, output) = (Ending::Stop, Vec::new());
        Self { envelope, echoed, output, open: None, ending, totals: None, sequence: 0, error: None }
    }

    fn response(&self) -> Json {
        let cut = self.totals.is_some() && self.is_cut();
        let status = match (&self.error, self.totals) {
            (Some(_), _) => "failed",
            (None, None) => "in_progress",
            (None, Some(_)) if cut => "incomplete",
            (None, Some(_)) => "completed",
        };
        let mut response = json!({
            "id": self.envelope.id, "object": "response", "created_at": self.envelope.created, "status": status,
            "background": false, "error": self.error,
            "incomplete_details": cut.then(|| json!({"reason": "max_output_tokens"})),
            "model": self.envelope.model, "output": self.output, "previous_response_id": null, "store": false,
            "truncation": "disabled", "usage": self.totals.map(usage),
            "system_fingerprint": self.envelope.fingerprint
        });
        if let Json::Object(members) = &mut response {
            members.extend(self.echoed.clone());
        }
        response
    }

    fn is_cut(&self) -> bool {
        self.ending == Ending::Length
    }

    fn event(&mut self, kind: &str, members: Json) -> Event {
        let number = json!({"sequence_number": self.sequence});
        self.sequence += 1;
        typed_event(kind, number, members)
    }

    fn whole(&mut self, kind: &str) -> Event {
        let response = self.response();
        self.event(kind, json!({"response": response}))
    }

    fn say(&mut self, kind: Kind, text: &str) -> Vec<Event> {
        if text.is_empty() {
            return Vec::new();
        }
        let goes_on = self.open.as_ref().is_some_and(|open| open.is(&kind));
        let mut events = if goes_on { Vec::new() } else { self.open(kind) };
        events.extend(self.more(text));
        events
    }

    fn open(&mut self, kind: Kind) -> Vec<Event> {
        let mut events = self.close("completed");
        let prefix = match kind {
            Kind::Message => "msg",
            Kind::Reasoning => "rs",
            Kind::Call { .. } => "fc",
        };
        let index = self.output.len();
        let digits = self.envelope.id.trim_start_matches("resp_");
        let open = Open { kind, id: format!("{prefix}_{digits}{index}"), text: String::new() };
        let item = open.item("in_progress");
        events.push(self.event("response.output_item.added", json!({"output_index": index, "item": item})));
        if !matches!(open.kind, Kind::Call { .. }) {
            let part = open.part("");
            let members =
                json!({"item_id": open.id, "output_index": index, "content_index": 0, "part": part});
            events.push(self.event("response.content_part.added", members));
        }
        self.open = Some(open);
        events
    }

    fn more(&mut self, text: &str) -> Vec<Event> {
        let Some(open) = &mut self.open else { return Vec::new() };
        open.text.push_str(text);
        let (kind, ..) = open.words();
        let mut members = json!({"item_id": open.id, "output_index": self.output.len(), "delta": text});
        if !matches!(open.kind, Kind::Call { .. }) {
            members["content_index"] = json!(0);
        }
        if matches!(open.kind, Kind::Message) {
            members["logprobs"] = json!([]);
        }
        vec![self.event(kind, members)]
    }

    fn close(&mut self, status: &str) -> Vec<Event> {
        let Some(open) = self.open.take() else { return Vec::new() };
        let (index, mut events) = (self.output.len(), Vec::new());
        let (_, kind, member) = open.words();
        let mut members = json!({"item_id": open.id, "output_index": index});
        members[member] = json!(open.text);
        match &open.kind {
            Kind::Call { name, .. } => members["name"] = json!(name),
            Kind::Message | Kind::Reasoning => members["content_index"] = json!(0),
        }
        if matches!(open.kind, Kind::Message) {
            members["logprobs"] = json!([]);
        }
        events.push(self.event(kind, members));
        if !matches!(open.kind, Kind::Call { .. }) {
            let part = open.part(&open.text);
            let members =
                json!({"item_id": open.id, "output_index": index, "content_index": 0, "part": part});
            events.push(self.event("response.content_part.done", members));
        }
        let item = open.item(status);
        self.output.push(item.clone());
        events.push(self.event("response.output_item.done", json!({"output_index": index, "item": item})));
        events
    }
}

impl Chunks for Writer {
    fn opening(&mut self) -> Vec<Event> {
        vec![self.whole("response.created"), self.whole("response.in_progress")]
    }

    fn on(&mut self, delta: Delta) -> Vec<Event> {
        match delta {
            Delta::Text { text, .. } => self.say(Kind::Message, &text),
            Delta::Reasoning { text, .. } => self.say(Kind::Reasoning, &text),
            Delta::Call { id, name, .. } => self.open(Kind::Call { id, name }),
            Delta::Arguments { text, .. } => self.more(&text),
            Delta::Finished { reason, .. } => {
                self.ending = reason;
                // an answer that says nothing is a message that does
                let mut events = if self.open.is_none() && self.output.is_empty() {
                    self.open(Kind::Message)
                } else {
                    Vec::new()
                };
                events.extend(self.close(if self.is_cut() { "incomplete" } else { "completed" }));
                events
            }
            Delta::Done(totals) => {
                self.totals = Some(totals);
                vec![self.whole(if self.is_cut() { "response.incomplete" } else { "response.completed" })]
            }
            Delta::Prompt { .. } => Vec::new(),
        }
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Event> {
        let body = error.body().error;
        self.error = Some(json!({"code": body.code, "message": body.message}));
        let members = json!({"code": body.code, "message": body.message, "param": body.param});
        vec![self.event("error", members), self.whole("response.failed")]
    }

    fn closing(&mut self) -> Vec<Event> {
        Vec::new()
    }
}

impl Adding for Writer {
    fn object(&self) -> Json {
        self.response()
    }
}

fn usage(Totals { usage, reasoning_tokens }: Totals) -> Json {
    json!({
        "input_tokens": usage.prompt_tokens,
        // OpenAI bills what is written to its cache; here it costs nothing
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens.unwrap_or(0)},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens
    })
}
