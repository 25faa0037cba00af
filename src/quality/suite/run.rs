//! Puts the cases to a version: several conversations at once, the turns of one in their order.

use std::time::Duration;

use futures::{StreamExt, stream};
use serde_json::{Map, Value as Json, json};

use super::assertion::{Unsupported, check, judge, together, unsupported, without_foreign};
use super::door::{Asked, Door};
use super::judge::{Panel, model_of};
use super::render::{messages, render, render_all};
use super::report::{CaseResult, Outcome, Report};
use crate::config::suite::{CaseSpec, Suite, SuitePrompt, SuiteProvider};

/// How a suite is run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Who is asked instead of the model that each provider names. A suite without providers needs it.
    pub model: Option<String>,
    /// Who judges where an assertion names nobody, as `model@version`.
    pub judge: Option<String>,
    /// The model that embeds, for `similar`.
    pub embeddings: Option<String>,
    /// Conversations at once.
    pub concurrency: usize,
    /// What becomes of assertions that are not computed here.
    pub foreign: Foreign,
}

/// What becomes of assertions that are not computed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// The suite is refused.
    Refuse,
    /// They are left out, and counted.
    LeaveOut,
}

/// One way to put the cases: a provider with a prompt.
struct Way<'s> {
    prompt: &'s SuitePrompt,
    provider: SuiteProvider,
    model: String,
}

impl Way<'_> {
    fn asks_what_was_said(&self) -> bool {
        self.prompt.template.contains("_conversation")
    }
}

/// What was said before in a conversation, as promptfoo's `_conversation` has it, and the answers that are variables.
#[derive(Default)]
struct Past {
    turns: Vec<Json>,
    stored: Map<String, Json>,
}

/// Refuses a suite in which something is wrong that can be found before anybody is asked, given who judges and who embeds
/// where nobody is named.
pub fn check_suite(suite: &Suite, judge: Option<&str>, embeddings: Option<&str>) -> Result<(), String> {
    if let Some(Unsupported { line, written }) = unsupported(suite).first() {
        return Err(format!(
            "line {line}: `{written}` is not computed here: remove it, or run the suite by promptfoo"
        ));
    }
    suite.cases.iter().flat_map(|case| &case.assertions).try_for_each(|spec| check(spec, judge, embeddings))
}

/// Runs the cases of a suite. `done` hears of each that is over. An error is one of the suite as a whole: nobody was asked.
pub async fn run(
    suite: &Suite,
    plan: &Plan,
    door: &dyn Door,
    done: &(dyn Fn(&CaseResult) + Sync),
) -> Result<Report, String> {
    let (pruned, left_out) = match plan.foreign {
        Foreign::Refuse => (suite.clone(), 0),
        Foreign::LeaveOut => without_foreign(suite),
    };
    let suite = &pruned;
    check_suite(suite, plan.judge.as_deref(), plan.embeddings.as_deref())?;
    let ways = ways(suite, plan)?;
    let panel = Panel { door, judge: plan.judge.as_deref(), embeddings: plan.embeddings.as_deref() };
    let conversations =
        ways.iter().flat_map(|way| conversations(suite, way).into_iter().map(move |cases| (way, cases)));
    let talks = conversations.map(|(way, cases)| {
        let panel = &panel;
        async move {
            let (mut past, mut results) = (Past::default(), Vec::with_capacity(cases.len()));
            for (index, case) in cases {
                let result = one(way, (index, case), panel, &mut past).await;
                done(&result);
                results.push(result);
            }
            results
        }
    });
    let talks: Vec<_> = talks.collect();
    let mut cases: Vec<CaseResult> =
        stream::iter(talks).buffer_unordered(plan.concurrency.max(1)).collect::<Vec<_>>().await.concat();
    let place = |case: &CaseResult| {
        ways.iter().position(|way| (&way.provider.label, &way.prompt.label) == (&case.provider, &case.prompt))
    };
    cases.sort_by_key(|case| (place(case), case.index));
    Ok(Report { cases, left_out })
}

fn ways<'s>(suite: &'s Suite, plan: &Plan) -> Result<Vec<Way<'s>>, String> {
    let mut providers = suite.providers.clone();
    if providers.is_empty() {
        let Some(model) = &plan.model else {
            return Err("the suite names no provider, and no model is given".to_owned());
        };
        // the label stays the same whoever is asked, so that two reports have the same cases
        let (id, label) = (model.clone(), "model".to_owned());
        providers.push(SuiteProvider { id, label, parameters: Map::new() });
    }
    let mut ways = Vec::new();
    for provider in &providers {
        let model = match &plan.model {
            Some(model) => model.clone(),
            None => model_of(&environment(&provider.id)?)?.to_owned(),
        };
        for prompt in &suite.prompts {
            ways.push(Way { prompt, provider: provider.clone(), model: model.clone() });
        }
    }
    Ok(ways)
}

/// Puts the environment into a provider's id, as in `openai:chat:{{env.MODEL}}`.
fn environment(id: &str) -> Result<String, String> {
    if !id.contains("{{") {
        return Ok(id.to_owned());
    }
    let env: Map<String, Json> = std::env::vars().map(|(name, value)| (name, Json::String(value))).collect();
    render(id, &Map::from_iter([("env".to_owned(), Json::Object(env))]))
}

/// The cases of a way, cut where one need not wait for the other.
fn conversations<'s>(suite: &'s Suite, way: &Way<'_>) -> Vec<Vec<(usize, &'s CaseSpec)>> {
    let provider = &way.provider;
    let is_asked = |case: &CaseSpec| {
        case.providers.is_empty()
            || case.providers.iter().any(|name| *name == provider.label || *name == provider.id)
    };
    let cases = suite.cases.iter().enumerate().filter(|(_, case)| is_asked(case));
    // as in promptfoo, cases without a conversation of their own have one together, where the prompt asks what was said
    let shares = way.asks_what_was_said();
    // an answer that is kept may be a variable of any later case
    if suite.cases.iter().any(|case| case.store_as.is_some()) {
        return vec![cases.collect()];
    }
    let mut conversations: Vec<Vec<(usize, &CaseSpec)>> = Vec::new();
    for (index, case) in cases {
        let same = |cases: &&mut Vec<(usize, &CaseSpec)>| cases[0].1.conversation == case.conversation;
        match conversations.iter_mut().find(same).filter(|_| shares || case.conversation.is_some()) {
            Some(conversation) => conversation.push((index, case)),
            None => conversations.push(vec![(index, case)]),
        }
    }
    conversations
}

async fn one(
    way: &Way<'_>,
    (index, case): (usize, &CaseSpec),
    panel: &Panel<'_>,
    past: &mut Past,
) -> CaseResult {
    let mut vars = case.vars.clone();
    vars.extend(past.stored.clone());
    let mut result = CaseResult {
        index,
        line: case.line,
        title: title(case),
        tags: case.tags.clone(),
        prompt: way.prompt.label.clone(),
        provider: way.provider.label.clone(),
        model: way.model.clone(),
        vars: vars.clone(),
        messages: Vec::new(),
        output: String::new(),
        response_id: None,
        outcome: Outcome::Passed,
        score: 0.0,
        output_tokens: 0,
        latency: Duration::ZERO,
        assertions: Vec::new(),
    };
    let turns = past.turns.iter().filter(|turn| turn["conversation"] == json!(case.conversation));
    vars.insert("_conversation".to_owned(), Json::Array(turns.cloned().collect()));
    if let Err(why) = put(way, case, &vars, panel, &mut result).await {
        result.outcome = Outcome::Error { why };
    }
    if let Some(name) = &case.store_as {
        past.stored.insert(name.clone(), Json::String(result.output.clone()));
    }
    if way.asks_what_was_said() {
        past.turns.push(json!({
            "conversation": case.conversation,
            "prompt": result.messages,
            "input": result.messages.last().map(|message| message["content"].clone()),
            "output": result.output,
        }));
    }
    result
}

/// Asks, and judges what comes back.
async fn put(
    way: &Way<'_>,
    case: &CaseSpec,
    vars: &Map<String, Json>,
    panel: &Panel<'_>,
    result: &mut CaseResult,
) -> Result<(), String> {
    let parameters = render_all(&Json::Object(way.provider.parameters.clone()), vars)?;
    let parameters = parameters.as_object().cloned().unwrap_or_default();
    let asked =
        Asked { model: way.model.clone(), messages: messages(&way.prompt.template, vars)?, parameters };
    result.messages.clone_from(&asked.messages);
    let answer = asked.answer(panel.door).await.map_err(|e| e.to_string())?;
    let response = answer.response;
    result.output.clone_from(&response.text);
    (result.response_id, result.output_tokens, result.latency) =
        (answer.id, response.output_tokens, response.elapsed);
    for spec in &case.assertions {
        result.assertions.push(judge(spec, vars, (&asked, &response), panel).await?);
    }
    let (passed, score) = together(&result.assertions, case.threshold);
    result.score = score;
    result.outcome = if passed { Outcome::Passed } else { Outcome::Failed };
    Ok(())
}

/// What a case is called: its description, else what it puts in.
fn title(case: &CaseSpec) -> String {
    if let Some(description) = &case.description {
        return description.clone();
    }
    let texts = case.vars.values().map(|value| match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    });
    texts.collect::<Vec<_>>().join(", ").chars().take(80).collect()
}
