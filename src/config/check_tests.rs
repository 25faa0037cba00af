//! `checks:` as operators write them, well and badly.

use std::path::Path;
use std::time::Duration;

use insta::assert_snapshot;
use serde_json::json;

use super::*;
use crate::ids::Weight;

fn read(checks: &str) -> Result<ModelConfig, ConfigErrors> {
    read_in(Path::new("/etc/sb.yaml"), checks)
}

fn read_in(file: &Path, checks: &str) -> Result<ModelConfig, ConfigErrors> {
    let text =
        format!("server: {{ mode: dev }}\nmodels:\n  m:\n    versions: {{ v1: {{ image: a }} }}\n{checks}");
    let config = parse(&text, file, &|_| None)?;
    Ok(config.models[&"m".parse().unwrap()].clone())
}

fn kinds(checks: &str) -> Vec<CheckKind> {
    read(checks).unwrap().checks.into_iter().map(|spec| spec.kind).collect()
}

fn errors(checks: &str) -> String {
    read(checks).expect_err("the checks were taken").to_string()
}

#[test]
fn every_kind_is_read_with_its_options() {
    let found = kinds(
        r#"
    checks:
      - is-json
      - type: json-schema
        schema: { type: object, required: [a], properties: { a: { minimum: 0.5, enum: [null, true, "x", -3] } } }
      - { type: regex, value: "A-[0-9]+" }
      - { type: not-regex, value: foo }
      - { type: icontains, value: Refund }
      - { type: contains-any, value: [a, b] }
      - { type: not-icontains-all, value: [a, b] }
      - { type: equals, value: "yes" }
      - { type: not-equals, value: { a: [1] } }
      - { type: starts-with, value: "{" }
      - { type: length, unit: words, min: 3, max: 80 }
      - { type: refusal, phrases: ["not my job"], list: replace }
      - { type: language, value: [en, de] }
      - { type: latency, max: 2s, of: first-token }
      - { type: finish-reason, value: [stop, tool_calls] }
      - tool-call-valid
"#,
    );
    let text = |rule, expect| CheckKind::Text { rule, expect };
    let contains = |needles: &[&str], needed, case| TextRule::Contains {
        needles: needles.iter().map(|n| (*n).to_owned()).collect(),
        needed,
        case,
    };
    let schema = json!({"type": "object", "required": ["a"],
        "properties": {"a": {"minimum": 0.5, "enum": [null, true, "x", -3]}}});
    let wanted = [
        CheckKind::IsJson,
        CheckKind::JsonSchema { schema },
        text(TextRule::Regex("A-[0-9]+".into()), Expect::Match),
        text(TextRule::Regex("foo".into()), Expect::NoMatch),
        text(contains(&["Refund"], Needed::All, Case::Insensitive), Expect::Match),
        text(contains(&["a", "b"], Needed::Any, Case::Sensitive), Expect::Match),
        text(contains(&["a", "b"], Needed::All, Case::Insensitive), Expect::NoMatch),
        text(TextRule::Equals(EqualTo::Text("yes".into())), Expect::Match),
        text(TextRule::Equals(EqualTo::Json(json!({"a": [1]}))), Expect::NoMatch),
        text(TextRule::StartsWith("{".into()), Expect::Match),
        CheckKind::Length { unit: LengthUnit::Words, min: Some(3), max: Some(80) },
        CheckKind::Refusal { phrases: vec!["not my job".into()], list: PhraseList::Replace },
        CheckKind::Language { codes: vec!["en".into(), "de".into()] },
        CheckKind::Latency { of: Clock::FirstToken, max: Duration::from_secs(2) },
        CheckKind::FinishReason { allowed: vec![FinishReason::Stop, FinishReason::ToolCalls] },
        CheckKind::ToolCallValid,
    ];
    assert_eq!(found, wanted);
}

#[test]
fn a_similar_check_has_references_and_a_threshold_and_needs_an_embedding_model() {
    let embedding = "embedding: { image: minilm }\n";
    let found = kinds(&format!(
        r#"
    checks:
      - {{ type: similar, value: "it is on its way" }}
      - {{ type: not-similar, value: [a, b], threshold: 1 }}
{embedding}"#
    ));
    let similar = |references: &[&str], threshold, expect| CheckKind::Similar {
        references: references.iter().map(|r| (*r).to_owned()).collect(),
        threshold: Cosine::new(threshold).unwrap(),
        expect,
    };
    let wanted =
        [similar(&["it is on its way"], 0.75, Expect::Match), similar(&["a", "b"], 1.0, Expect::NoMatch)];
    assert_eq!(found, wanted);

    let wrong =
        |threshold: &str| format!("      - {{ type: similar, value: x, name: t, threshold: {threshold} }}\n");
    let thresholds = ["0", "-0.5", "1.01", "\"0.8\"", "[1]"];
    for threshold in thresholds {
        let error = errors(&format!("    checks:\n{}{embedding}", wrong(threshold)));
        assert_eq!(error.lines().count(), 1, "{error}");
        let place = "/etc/sb.yaml:6: models.m.checks[0].threshold: ";
        let fix = "is not a threshold; give a cosine above 0 and at most 1, such as 0.75";
        assert!(error.starts_with(place) && error.ends_with(fix), "{threshold}: {error}");
    }
    // Numbers that are none are refused before, as no YAML that is taken has them.
    for threshold in [".nan", ".inf"] {
        let error = errors(&format!("    checks:\n{}{embedding}", wrong(threshold)));
        assert!(error.starts_with("/etc/sb.yaml:6: ") && error.contains(threshold), "{error}");
    }
    assert!(Cosine::new(f64::NAN).is_none() && Cosine::new(f64::INFINITY).is_none());
    assert_snapshot!(errors("    checks:\n      - refusal\n      - { type: similar, value: x }\n"), @"/etc/sb.yaml:7: models.m.checks[1]: the check compares by meaning, and no embedding model is configured; add one at the top level: `embedding: { image: .., digest: .. }`, or use contains or regex");
    assert_snapshot!(errors("    checks: [{ type: similar }, { type: not-similar, value: [] }]\n"), @r"
/etc/sb.yaml:5: models.m.checks[0].value: missing; give the text, or a list of texts, that the answer is compared with: `value: ...`
/etc/sb.yaml:5: models.m.checks[1].value: an empty list; write at least one text
");
    assert_snapshot!(errors(&format!("    checks: [refusal]\n{embedding}")), @"/etc/sb.yaml:6: embedding: no check compares by meaning; add a check of type `similar` or `not-similar` to a model, or remove this");
}

#[test]
fn an_embedding_model_is_pinned_as_a_version_is() {
    let version = r#"versions: { v1: { image: a, digest: "DIGEST" } }"#;
    let digest = format!("sha256:{}", "0".repeat(64));
    let read = |embedding: &str| {
        let text = format!(
            "models:\n  m: {{ {version}, checks: [{{ type: similar, value: x }}] }}\nembedding: {embedding}\n"
        );
        parse(&text.replace("DIGEST", &digest), Path::new("/etc/sb.yaml"), &|_| None)
    };
    let config = read("{ image: minilm, digest: \"DIGEST\" }").unwrap();
    let embedding = config.embedding.unwrap();
    assert_eq!((embedding.line, embedding.pinning()), (3, Pinning::Pinned));
    assert_eq!(embedding.image, ImageRef::Local("/etc/minilm".into()));
    for wrong in [
        "{ image: minilm }",
        "{ image: \"hf://org/name@main\", digest: \"DIGEST\" }",
        "{ imag: x }",
        "minilm",
    ] {
        let error = read(wrong).unwrap_err().to_string();
        assert!(error.lines().all(|line| line.starts_with("/etc/sb.yaml:3: embedding")), "{error}");
    }
    assert_snapshot!(read("{ image: minilm }").unwrap_err().to_string(), @r#"/etc/sb.yaml:3: embedding.digest: missing; add the digest that `switchback images add` or `pull` prints, or set server.mode to dev"#);
}

#[test]
fn a_check_is_named_by_its_kind_or_by_its_name_and_knows_its_line() {
    let model = read("    checks:\n      - is-json\n      - { type: is-json, name: strict }\n").unwrap();
    let names: Vec<_> = model.checks.iter().map(|c| (c.name.as_str(), c.line)).collect();
    assert_eq!(names, [("is-json", 6), ("strict", 7)]);
    assert_eq!(model.check_sample, Weight::FULL);
    let model = read("    checks: [refusal]\n    check_sample: 12.5%\n").unwrap();
    assert_eq!(model.check_sample, Weight::from_percent(12.5).unwrap());
    assert!(read("    checks:\n").unwrap().checks.is_empty());
}

#[test]
fn a_schema_file_lies_beside_the_config() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("answer.json"), r#"{"type": "object"}"#).unwrap();
    std::fs::write(folder.path().join("broken.json"), "{").unwrap();
    std::fs::write(folder.path().join("list.json"), "[]").unwrap();
    let read = |file: &str| {
        let checks = format!("    checks: [{{ type: json-schema, schema_file: {file} }}]\n");
        read_in(&folder.path().join("sb.yaml"), &checks)
    };
    let schema = CheckKind::JsonSchema { schema: json!({"type": "object"}) };
    assert_eq!(read("answer.json").unwrap().checks[0].kind, schema);
    for (file, why) in [
        ("missing.json", "cannot read"),
        ("broken.json", "is not JSON"),
        ("list.json", "holds no JSON object"),
        (".", "is no file"),
    ] {
        let error = read(file).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(":5: models.m.checks[0].schema_file"), "{error}");
    }
}

#[test]
fn every_mistake_in_checks_has_its_line_and_a_fix() {
    assert_snapshot!(errors(
        r#"
    check_sample: 200
    checks:
      - is-jsn
      - { type: similarity, value: x }
      - { type: is-refusal }
      - { type: regex }
      - { type: regex, value: "" }
      - { type: is-json, value: {} }
      - { type: length, name: l1 }
      - { type: length, name: l2, min: 9, max: 3 }
      - { type: length, name: l3, unit: lines, max: -1 }
      - { type: contains-any, value: [] }
      - { type: finish-reason, value: ended }
      - { type: language, value: english }
      - { type: latency, max: 2000 }
      - { type: refusal, list: replace }
      - { type: json-schema }
      - { type: json-schema, schema: "x", name: s2 }
      - { type: json-schema, schema: { a: 1 }, schema_file: y, name: s3 }
      - { value: x }
      - { type: 7 }
      - 7
      - tool-call-valid
      - tool-call-valid
      - { type: is-json, name: "my check" }
      - { type: is-json, name: overall }
"#
    ), @r#"
/etc/sb.yaml:6: models.m.check_sample: the number 200 is not a weight; give a percentage from 0 to 100 with at most two decimals
/etc/sb.yaml:8: models.m.checks[0]: "is-jsn" is no kind of check; did you mean `is-json`?
/etc/sb.yaml:9: models.m.checks[1].type: "similarity" is no kind of check; write `similar`, as promptfoo does: `{ type: similar, value: .., threshold: 0.75 }`
/etc/sb.yaml:10: models.m.checks[2].type: "is-refusal" is no kind of check; write `refusal`, which passes when the answer does not refuse
/etc/sb.yaml:11: models.m.checks[3].value: missing; say what is looked for: `value: ...`
/etc/sb.yaml:12: models.m.checks[4].value: an empty text, which every answer has; write what is looked for
/etc/sb.yaml:13: models.m.checks[5].value: is-json takes no schema; write `type: json-schema` with `schema:`
/etc/sb.yaml:14: models.m.checks[6]: neither `min` nor `max` is given; give one of them: `max: 400`
/etc/sb.yaml:15: models.m.checks[7]: min 9 is above max 3; no answer could pass; exchange them
/etc/sb.yaml:16: models.m.checks[8].unit: found "lines"; write chars or words or tokens
/etc/sb.yaml:16: models.m.checks[8].max: found the number -1; give a whole number from 1 to 1073741824
/etc/sb.yaml:17: models.m.checks[9].value: an empty list; write at least one text
/etc/sb.yaml:18: models.m.checks[10].value: found "ended"; write stop or length or tool_calls or content_filter
/etc/sb.yaml:19: models.m.checks[11].value: "english" is no ISO 639-1 code; write two small letters, such as en, de, fr or es
/etc/sb.yaml:20: models.m.checks[12].max: the number 2000 is not a duration; write a number and ms, s, m or h: 30s
/etc/sb.yaml:21: models.m.checks[13].phrases: missing; give the phrases that take the place of the built-in ones
/etc/sb.yaml:22: models.m.checks[14].schema_file: missing; give `schema:` or `schema_file:`
/etc/sb.yaml:23: models.m.checks[15].schema: found "x"; write the schema as a mapping, or name its file in `schema_file`
/etc/sb.yaml:24: models.m.checks[16].schema_file: `schema` is given, too; keep one of the two
/etc/sb.yaml:25: models.m.checks[17]: the check has no `type`; add one, such as `type: regex`
/etc/sb.yaml:26: models.m.checks[18].type: not a text; write one of: is-json, json-schema, regex, not-regex, contains, not-contains, icontains, not-icontains, contains-any, not-contains-any, icontains-any, not-icontains-any, contains-all, not-contains-all, icontains-all, not-icontains-all, equals, not-equals, starts-with, not-starts-with, similar, not-similar, length, refusal, language, latency, finish-reason, tool-call-valid, feedback
/etc/sb.yaml:27: models.m.checks[19]: found the number 7; write a kind such as `is-json`, or a mapping with `type:`
/etc/sb.yaml:29: models.m.checks[21]: the check on line 28 is named `tool-call-valid`, too; give one of them another `name:`
/etc/sb.yaml:30: models.m.checks[22].name: "my check" is not a usable name; use 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-', starting with a letter or digit
/etc/sb.yaml:31: models.m.checks[23].name: `overall` is the name of a measure that is always there; give the check another `name:`
"#);
    assert_snapshot!(errors("    check_sample: 10\n    checks: []\n"), @r#"/etc/sb.yaml:5: models.m.check_sample: the model has no checks; add `checks:` or remove this"#);
    assert_snapshot!(errors("    checks: is-json\n"), @r#"/etc/sb.yaml:5: models.m.checks: found "is-json"; write a list: `- is-json`, or `- { type: length, max: 400 }`"#);
    let named: Vec<_> = (0..65).map(|i| format!("{{ type: is-json, name: c{i} }}")).collect();
    let many = format!("    checks: [{}]\n", named.join(", "));
    assert!(errors(&many).contains("65 checks; keep to 64"));
}
