//! Suites put to a server that is made up.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use insta::assert_snapshot;
use serde_json::{Value as Json, json};

use super::*;
use crate::config::suite::{Suite, read_suite};

fn suite(text: &str) -> Suite {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("suite.yaml");
    std::fs::write(&file, text).unwrap();
    read_suite(&file).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Answers with what it makes of a body, and notes how many it answers at once.
struct Made<F> {
    answer: F,
    now: AtomicUsize,
    most: AtomicUsize,
    bodies: Mutex<Vec<Json>>,
}

impl<F: Fn(&str, &Json) -> Result<Json, String> + Send + Sync> Door for Made<F> {
    fn post(&self, path: &'static str, body: Json) -> BoxFuture<'_, Result<Json, DoorError>> {
        async move {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            let answer = (self.answer)(path, &body).map_err(DoorError::Failed);
            self.bodies.lock().unwrap().push(body);
            self.now.fetch_sub(1, Ordering::SeqCst);
            answer
        }
        .boxed()
    }
}

fn door<F: Fn(&str, &Json) -> Result<Json, String> + Send + Sync>(answer: F) -> Made<F> {
    Made { answer, now: AtomicUsize::new(0), most: AtomicUsize::new(0), bodies: Mutex::default() }
}

fn says(text: &str) -> Json {
    json!({
        "id": "chatcmpl-1",
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 3},
    })
}

/// The last message of a body.
fn message(body: &Json) -> &str {
    body["messages"].as_array().and_then(|messages| messages.last()?["content"].as_str()).unwrap_or_default()
}

fn plan() -> Plan {
    Plan {
        model: Some("desk@v1".to_owned()),
        judge: None,
        embeddings: None,
        concurrency: 4,
        foreign: Foreign::Refuse,
    }
}

async fn ran(suite: &Suite, plan: &Plan, door: &dyn Door) -> Report {
    run(suite, plan, door, &|_| ()).await.unwrap()
}

/// Each case's verdict with the reasons that it failed for.
fn told(report: &Report) -> String {
    let case = |case: &CaseResult| {
        let failed = case.assertions.iter().filter(|assertion| !assertion.passed);
        let reasons =
            failed.map(|a| format!("\n    {}: {}", a.assertion, a.reason)).collect::<Vec<_>>().concat();
        match &case.outcome {
            Outcome::Passed => format!("{}: passed", case.title),
            Outcome::Failed => format!("{}: failed at {:.2}{reasons}", case.title, case.score),
            Outcome::Error { why } => format!("{}: error, {why}", case.title),
        }
    };
    report.cases.iter().map(case).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn each_assertion_passes_and_fails() {
    // what is asked is what is answered
    let echo = door(|_, body| Ok(says(message(body).strip_prefix("say: ").unwrap())));
    let text = |assertion: &str, good: &str, bad: &str| {
        [good, bad]
            .map(|say| {
                let say = serde_json::to_string(say).unwrap();
                format!("  - {{ vars: {{ say: {say} }}, assert: [{assertion}] }}\n")
            })
            .concat()
    };
    let cases = [
        text("{ type: equals, value: Yes }", "Yes", "yes"),
        text("{ type: equals, value: { a: 1, b: 2 } }", r#"{"b":2,"a":1}"#, r#"{"a":1}"#),
        text("{ type: contains, value: 12 }", "a12b", "a21b"),
        text("{ type: not-icontains, value: ABC }", "xyz", "xabcx"),
        text("{ type: contains-any, value: 'red, green' }", "a green one", "a blue one"),
        text("{ type: icontains-all, value: [RED, green] }", "red and green", "red"),
        text("{ type: starts-with, value: So }", "So it is", "It is so"),
        text("{ type: regex, value: '^[a-z]+$' }", "abc", "ABC"),
        text("{ type: is-json, value: { type: object, required: [a] } }", r#"{"a":1}"#, r#"{"b":1}"#),
        text("{ type: contains-json, value: { required: [a] } }", r#"so: {"a":1}!"#, r#"so: {"b":1}!"#),
        text("{ type: not-contains-json }", "nothing", "[1]"),
        text("{ type: is-refusal }", "I'm sorry, but I can't help with that.", "Of course."),
        text("{ type: word-count, min: 2, max: 3 }", "two words", "one"),
        text("{ type: word-count, value: 1 }", "one", "two words"),
        text("{ type: levenshtein, value: kitten, threshold: 3 }", "sitting", "sitting down"),
        text("{ type: finish-reason, value: [stop, length] }, { type: latency, threshold: 60000 }", "a", "b"),
        text("{ type: is-valid-openai-tools-call }", "no call", "no call"),
        text(
            "{ type: language, value: de }",
            "Das Paket kommt leider erst morgen an.",
            "We are very sorry, the parcel will only arrive tomorrow in the afternoon.",
        ),
        text(
            "{ type: assert-set, threshold: 0.5, assert: [{ type: contains, value: a }, { type: contains, value: b }] }",
            "only a",
            "only c",
        ),
    ];
    let suite = suite(&format!("prompts: ['say: {{{{say}}}}']\ntests:\n{}", cases.concat()));
    let report = ran(&suite, &plan(), &echo).await;
    assert_snapshot!(told(&report), @r###"
    Yes: passed
    yes: failed at 0.00
        equals: the answer is "yes"; compared with "Yes"
    {"b":2,"a":1}: passed
    {"a":1}: failed at 0.00
        equals: the answer is "{\"a\":1}"; compared with "{\"a\":1,\"b\":2}"
    a12b: passed
    a21b: failed at 0.00
        contains: none of "12" occurs in "a21b"
    xyz: passed
    xabcx: failed at 0.00
        not-icontains: contains "abc"
    a green one: passed
    a blue one: failed at 0.00
        contains-any: none of "red", "green" occurs in "a blue one"
    red and green: passed
    red: failed at 0.00
        icontains-all: "green" does not occur in "red"
    So it is: passed
    It is so: failed at 0.00
        starts-with: the answer starts "It is so"; compared with "So"
    abc: passed
    ABC: failed at 0.00
        regex: nothing matches "^[a-z]+$" in "ABC"
    {"a":1}: passed
    {"b":1}: failed at 0.00
        is-json: the answer: "a" is a required property; found {"b":1}
    so: {"a":1}!: passed
    so: {"b":1}!: failed at 0.00
        contains-json: the answer: "a" is a required property; found {"b":1}
    nothing: passed
    [1]: failed at 0.00
        not-contains-json: some of it is JSON
    I'm sorry, but I can't help with that.: passed
    Of course.: failed at 0.00
        is-refusal: no phrase of a refusal
    two words: passed
    one: failed at 0.00
        word-count: 1 words, fewer than 2
    one: passed
    two words: failed at 0.00
        word-count: 2 words, more than 1
    sitting: passed
    sitting down: failed at 0.00
        levenshtein: 8 edits from "kitten", at most 3
    a: passed
    b: passed
    no call: failed at 0.00
        is-valid-openai-tools-call: no tool is called
    no call: failed at 0.00
        is-valid-openai-tools-call: no tool is called
    Das Paket kommt leider erst morgen an.: passed
    We are very sorry, the parcel will only arrive tomorrow in the afternoon.: failed at 0.00
        language: English, not de: "We are very sorry, the parcel will only arrive tomorrow in the afternoon."
    only a: passed
    only c: failed at 0.00
        assert-set: contains: none of "a" occurs in "only c"; contains: none of "b" occurs in "only c"
    "###);
}

#[tokio::test]
async fn weights_and_thresholds_decide_and_metrics_add_up() {
    let suite = suite(
        "prompts: [hi]\ndefaultTest:\n  metadata: { tags: all }\n  assert: [{ type: contains, value: a, metric: a }]\ntests:\n  \
         - { description: enough, threshold: 0.5, assert: [{ type: contains, value: z }] }\n  \
         - { description: too little, threshold: 0.5, metadata: { tags: [weak] }, assert: [{ type: contains, value: z, weight: 3 }] }\n  \
         - { description: no matter, assert: [{ type: contains, value: z, weight: 0, metric: z }] }\n",
    );
    let report = ran(&suite, &plan(), &door(|_, _| Ok(says("abc")))).await;
    let outcomes: Vec<_> =
        report.cases.iter().map(|case| (&*case.title, &case.outcome, case.score)).collect();
    assert_eq!(
        outcomes,
        [
            ("enough", &Outcome::Passed, 0.5),
            ("too little", &Outcome::Failed, 0.25),
            ("no matter", &Outcome::Passed, 1.0)
        ]
    );
    let tally = |cases, passed| Tally { cases, passed, failed: cases - passed, errors: 0 };
    assert_eq!(
        report.by_tag().into_iter().collect::<Vec<_>>(),
        [("all", tally(3, 2)), ("weak", tally(1, 0))]
    );
    assert_eq!(report.by_metric().into_iter().collect::<Vec<_>>(), [("a", 1.0), ("z", 0.0)]);
}

#[tokio::test]
async fn conversations_know_what_was_said_and_run_beside_each_other() {
    let turns = |name: &str| {
        format!(
            "  - {{ vars: {{ say: my name is {name} }}, metadata: {{ conversationId: {name} }} }}\n  \
               - {{ vars: {{ say: who am I }}, metadata: {{ conversationId: {name} }}, assert: [{{ type: contains, value: {name} }}] }}\n"
        )
    };
    let prompt = "prompts:\n  - |\n    [{% for turn in _conversation %}{\"role\": \"user\", \"content\": {{ turn.input | dump }}},\n     \
                  {\"role\": \"assistant\", \"content\": {{ turn.output | dump }}},{% endfor %}\n     \
                  {\"role\": \"user\", \"content\": {{ say | dump }}}]\n";
    let suite = suite(&format!("{prompt}tests:\n{}{}", turns("Ada"), turns("Bob")));
    // it knows what stands first
    let remembers = door(|_, body| Ok(says(&format!("first: {}", body["messages"][0]["content"]))));
    let report = ran(&suite, &plan(), &remembers).await;
    assert_eq!(report.tally().passed, 4, "{}", told(&report));
    assert_eq!(remembers.most.load(Ordering::SeqCst), 2, "one at a time of each conversation");
    let lengths: Vec<_> = report.cases.iter().map(|case| case.messages.len()).collect();
    assert_eq!(lengths, [1, 3, 1, 3]);
}

/// As in promptfoo, cases without a conversation of their own have one together, where the prompt asks for it.
#[tokio::test]
async fn without_an_id_all_cases_are_one_conversation() {
    let suite = suite(
        "prompts: ['{{_conversation | length}} before {{say}}']\ntests: [{ vars: { say: [a, b, c] } }]\n",
    );
    let report = ran(&suite, &plan(), &door(|_, body| Ok(says(message(body))))).await;
    let outputs: Vec<_> = report.cases.iter().map(|case| case.output.as_str()).collect();
    assert_eq!(outputs, ["0 before a", "1 before b", "2 before c"]);
}

#[tokio::test]
async fn an_answer_is_a_variable_of_later_cases() {
    let suite = suite(
        "prompts: ['{{say}}']\ntests:\n  - { vars: { say: one }, options: { storeOutputAs: first } }\n  \
         - { vars: { say: two }, assert: [{ type: equals, value: '{{first}} and more' }] }\n",
    );
    let report = ran(
        &suite,
        &plan(),
        &door(|_, body| Ok(says(if message(body) == "one" { "this" } else { "this and more" }))),
    )
    .await;
    assert_eq!(report.tally().passed, 2, "{}", told(&report));
}

#[tokio::test]
async fn a_case_that_cannot_be_asked_or_judged_is_an_error_and_the_others_go_on() {
    let suite = suite(
        "prompts: ['{{say}}']\ntests:\n  - { vars: { say: break } }\n  - { vars: { say: odd } }\n  - { vars: { tell: x } }\n  \
         - { vars: { say: a, like: '(' }, assert: [{ type: regex, value: '{{like}}' }] }\n  \
         - { vars: { say: fine } }\n",
    );
    let report = ran(
        &suite,
        &plan(),
        &door(|_, body| match message(body) {
            "break" => Err("500: it broke".to_owned()),
            "odd" => Ok(json!({"choices": []})),
            said => Ok(says(said)),
        }),
    )
    .await;
    assert_snapshot!(told(&report), @r###"
    break: error, 500: it broke
    odd: error, an answer without a message: {"choices":[]}
    x: error, the template fails: undefined value: `say` is undefined (in <string>:1)
    a, (: error, "(" is no regular expression: unclosed group; write it in the syntax of Rust's regex crate, which has no look-around and no back-references
    fine: passed
    "###);
}

#[tokio::test]
async fn a_model_judges_by_a_rubric_and_by_facts() {
    let suite = suite(
        "prompts: ['{{say}}']\ntests:\n  \
         - { vars: { say: kind }, assert: [{ type: llm-rubric, value: 'is {{say}}', threshold: 0.8 }] }\n  \
         - { vars: { say: rude }, assert: [{ type: llm-rubric, value: is kind }] }\n  \
         - { vars: { say: rude }, assert: [{ type: not-llm-rubric, value: is kind, provider: 'openai:chat:other@v2' }] }\n  \
         - { vars: { say: Paris }, assert: [{ type: factuality, value: Paris is the capital }] }\n  \
         - { vars: { say: Rome }, assert: [{ type: factuality, value: Paris is the capital }] }\n  \
         - { vars: { say: kind, like: '{{nobody}}' }, assert: [{ type: llm-rubric, value: '{{like}}' }] }\n",
    );
    let judged = door(|_, body| {
        if body.get("response_format").is_none() {
            return Ok(says(message(body)));
        }
        assert_eq!((&body["temperature"], &body["seed"]), (&json!(0), &json!(0)));
        let asked = message(body);
        let kind = asked.contains("Answer:\nkind");
        let verdict = if asked.starts_with("Rubric:\n") {
            json!({"reason": "I read it", "score": if kind { 0.9 } else { 0.1 }, "pass": kind})
        } else {
            json!({"reason": "I know it", "category": if asked.contains("Submission:\nParis") { "C" } else { "D" }})
        };
        Ok(says(&verdict.to_string()))
    });
    let report = ran(&suite, &Plan { judge: Some("judge@v1".to_owned()), ..plan() }, &judged).await;
    let asked = judged.bodies.lock().unwrap().iter().map(|body| message(body).to_owned()).collect::<Vec<_>>();
    assert!(asked.contains(&"Rubric:\n{{nobody}}\n\nAnswer:\nkind".to_owned()), "put in once: {asked:?}");
    assert_snapshot!(told(&report), @r###"
    kind: passed
    rude: failed at 0.10
        llm-rubric: I read it
    rude: passed
    Paris: passed
    Rome: failed at 0.00
        factuality: (D) I know it
    kind, {{nobody}}: passed
    "###);
    let bodies = judged.bodies.lock().unwrap();
    let judges = bodies.iter().filter(|body| body.get("response_format").is_some());
    let judges: std::collections::BTreeSet<_> = judges.map(|body| body["model"].as_str().unwrap()).collect();
    assert_eq!(judges.into_iter().collect::<Vec<_>>(), ["judge@v1", "other@v2"]);
}

#[tokio::test]
async fn what_an_answer_means_is_compared_by_its_vector() {
    let suite = suite(
        "prompts: ['{{say}}']\ntests:\n  - { vars: { say: up }, assert: [{ type: similar, value: [down, up] }] }\n  \
         - { vars: { say: up }, assert: [{ type: similar, value: down }] }\n",
    );
    let embeds = door(|path, body| {
        if path != "/v1/embeddings" {
            return Ok(says(message(body)));
        }
        let vectors = body["input"].as_array().unwrap().iter();
        let vectors =
            vectors.map(|text| json!({"embedding": if text == "up" { [0.0, 1.0] } else { [1.0, 0.5] }}));
        Ok(json!({"data": vectors.collect::<Vec<_>>()}))
    });
    let report = ran(&suite, &Plan { embeddings: Some("encoder".to_owned()), ..plan() }, &embeds).await;
    assert_snapshot!(told(&report), @r###"
    up: passed
    up: failed at 0.45
        similar: the nearest reference has a cosine of 0.447, at least 0.75
    "###);
}

#[tokio::test]
async fn what_is_not_computed_here_is_refused_or_left_out_and_counted() {
    let suite = suite(
        "prompts: [hi]\ndefaultTest: { assert: [{ type: javascript, value: output.length > 1 }] }\ntests:\n  \
         - { assert: [{ type: contains, value: a }] }\n  - { assert: [{ type: contains, value: b }] }\n  - {}\n  \
         - { assert: [{ type: assert-set, assert: [{ type: python, value: x }, { type: contains, value: c }] }] }\n",
    );
    assert_eq!(unsupported(&suite).len(), 2, "once, though it is of all cases");
    let answers = door(|_, _| Ok(says("a")));
    let refused = run(&suite, &plan(), &answers, &|_| ()).await.unwrap_err();
    assert!(refused.contains("`javascript` is not computed here"), "{refused}");
    let left_out = ran(&suite, &Plan { foreign: Foreign::LeaveOut, ..plan() }, &answers).await;
    // the case that has nothing else is no pass, and of a set the rest is left
    assert_eq!((left_out.tally().passed, left_out.tally().failed, left_out.left_out), (1, 2, 5));
}

#[tokio::test]
async fn what_no_version_could_pass_is_found_before_anybody_is_asked() {
    let answers = door(|_, _| panic!("nobody is to be asked"));
    for (assertion, why) in [
        ("{ type: llm-rubric, value: kind }", "it needs a judge"),
        ("{ type: llm-rubric, value: kind, provider: judge }", "name its version, such as `judge@v1`"),
        ("{ type: factuality, value: x, provider: 'anthropic:messages:x' }", "is not asked here"),
        ("{ type: similar, value: x }", "it needs a model that embeds"),
        ("{ type: contains, value: '' }", "which every answer has"),
        ("{ type: contains-any, value: ' , ' }", "its `value` is empty"),
        ("{ type: word-count, min: two, max: 3 }", "is no count of words"),
        ("{ type: latency }", "it has no `threshold`"),
        ("{ type: finish-reason, value: end }", "is no reason to end"),
    ] {
        let suite = suite(&format!("prompts: [hi]\ntests: [{{ assert: [{assertion}] }}]\n"));
        let refused = run(&suite, &plan(), &answers, &|_| ()).await.unwrap_err();
        assert!(refused.contains(why), "{assertion}: {refused}");
    }
}

#[tokio::test]
async fn one_who_is_busy_is_asked_again() {
    struct Busy(AtomicUsize);
    impl Door for Busy {
        fn post(&self, _: &'static str, _: Json) -> BoxFuture<'_, Result<Json, DoorError>> {
            let tries = self.0.fetch_add(1, Ordering::SeqCst);
            let busy =
                DoorError::Busy { after: Some(Duration::from_millis(1)), why: "429: later".to_owned() };
            async move { if tries % 8 < 3 { Err(busy) } else { Ok(says("a")) } }.boxed()
        }
    }
    let suite = suite("prompts: [hi]\ntests: [{ assert: [{ type: contains, value: a }] }]\n");
    let report = ran(&suite, &plan(), &Busy(AtomicUsize::new(0))).await;
    assert_eq!(report.tally().passed, 1, "{}", told(&report));
}

#[tokio::test]
async fn who_says_nothing_refuses() {
    let suite = suite("prompts: [hi]\ntests: [{ assert: [{ type: not-is-refusal }] }]\n");
    assert_eq!(ran(&suite, &plan(), &door(|_, _| Ok(says(" ")))).await.tally().failed, 1);
}

#[tokio::test]
async fn providers_are_asked_with_their_parameters_and_their_cases() {
    let suite = suite(
        "prompts: [{ label: short, raw: 'a' }, { label: long, raw: 'b' }]\nproviders:\n  - openai:chat:one\n  \
         - { id: 'openai:two', label: second, config: { temperature: 0, apiBaseUrl: x, stop: ['{{end}}'] } }\ntests:\n  \
         - { vars: { end: '.' } }\n  - { vars: { end: '!' }, providers: second }\n",
    );
    let answers = door(|_, _| Ok(says("a")));
    let report = ran(&suite, &Plan { model: None, concurrency: 1, ..plan() }, &answers).await;
    let who: Vec<_> = report.cases.iter().map(|case| (&*case.model, &*case.prompt, case.index)).collect();
    assert_eq!(
        who,
        [
            ("one", "short", 0),
            ("one", "long", 0),
            ("two", "short", 0),
            ("two", "short", 1),
            ("two", "long", 0),
            ("two", "long", 1)
        ]
    );
    let bodies = answers.bodies.lock().unwrap().clone();
    let last = bodies.iter().find(|body| body["stop"] == json!(["!"])).unwrap();
    let expected = json!({"temperature": 0, "stop": ["!"], "model": "two", "messages": last["messages"]});
    assert_eq!(*last, expected);
    let foreign = Suite {
        providers: vec![crate::config::suite::SuiteProvider {
            id: "anthropic:x".to_owned(),
            ..suite.providers[0].clone()
        }],
        ..suite.clone()
    };
    let refused = run(&foreign, &Plan { model: None, ..plan() }, &answers, &|_| ()).await.unwrap_err();
    assert!(refused.contains("anthropic:x") && refused.contains("openai:chat:"), "{refused}");
}

#[tokio::test]
async fn two_reports_are_set_beside_each_other_case_by_case() {
    let suite = suite(
        "prompts: ['{{say}}']\ndefaultTest: { assert: [{ type: not-contains, value: bad }] }\ntests:\n  \
         - vars: { say: [both, neither, first, second] }\n",
    );
    let of = |which: &'static str| {
        door(move |_, body| {
            let said = message(body);
            Ok(says(if said == "both" || said == which { "good" } else { "bad" }))
        })
    };
    let (now, before) = (ran(&suite, &plan(), &of("first")).await, ran(&suite, &plan(), &of("second")).await);
    let found = compare(&now, &before);
    assert_eq!(found.changes, [Change::BothPass, Change::BothFail, Change::Fixed, Change::Broken]);
    assert_eq!((found.fixed, found.broken, found.same, found.unknown), (1, 1, 2, 0));
}
