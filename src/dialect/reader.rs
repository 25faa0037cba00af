//! One answer, read: its reasoning first, then text and calls.

use std::sync::Arc;

use super::format::ToolFormat;
use super::hermes::Hermes;
use super::llama::Llama;
use super::mistral::Mistral;
use super::object::Names;
use super::pieces::Pieces;
use super::think::Thinking;

/// Reads one answer.
#[derive(Debug)]
pub struct Reader {
    thinking: Thinking,
    calls: Calls,
    called: bool,
}

#[derive(Debug)]
enum Calls {
    /// None are looked for.
    None,
    Hermes(Hermes),
    Llama(Llama),
    Mistral(Mistral),
}

impl Reader {
    /// Of an answer whose reasoning begins so, if it has any, and that may call these tools in this format.
    pub fn new(thinking: Option<Thinking>, tools: Option<(ToolFormat, Arc<[String]>)>) -> Self {
        let calls = match tools {
            None => Calls::None,
            Some((ToolFormat::Hermes, _)) => Calls::Hermes(Hermes::new()),
            Some((ToolFormat::Llama3Json, names)) => Calls::Llama(Llama::new(Names::Of(names))),
            Some((ToolFormat::Mistral | ToolFormat::MistralArgs, _)) => Calls::Mistral(Mistral::new()),
        };
        Self { thinking: thinking.unwrap_or(Thinking::Over), calls, called: false }
    }

    /// Whether the text is in its reasoning.
    pub const fn is_reasoning(&self) -> bool {
        self.thinking.is_under_way()
    }

    /// Takes the next of the text.
    pub fn push(&mut self, text: &str) -> Pieces {
        let mut out = Pieces::default();
        for c in text.chars() {
            if let Some(answer) = self.thinking.push(c, &mut out) {
                self.answer(&answer, &mut out);
            }
        }
        self.called |= out.has_call();
        out
    }

    /// What is left when no more comes.
    pub fn finish(&mut self) -> Pieces {
        let mut out = Pieces::default();
        let answer = self.thinking.finish(&mut out);
        self.answer(&answer, &mut out);
        self.called |= out.has_call();
        let left = match std::mem::replace(&mut self.calls, Calls::None) {
            Calls::None => String::new(),
            Calls::Hermes(calls) => calls.finish(),
            Calls::Llama(calls) => calls.finish(),
            Calls::Mistral(calls) => calls.finish(),
        };
        // what stands behind the last call is no answer, where it is nothing but a line's end
        if !(self.called && left.trim().is_empty()) {
            out.text(left);
        }
        out
    }

    fn answer(&mut self, text: &str, out: &mut Pieces) {
        for c in text.chars() {
            match &mut self.calls {
                Calls::None => out.text(c),
                Calls::Hermes(calls) => calls.push(c, out),
                Calls::Llama(calls) => calls.push(c, out),
                Calls::Mistral(calls) => calls.push(c, out),
            }
        }
    }
}
