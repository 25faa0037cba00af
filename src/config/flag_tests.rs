use std::path::Path;

use insta::assert_snapshot;

use super::*;
use crate::ids::Weight;

fn read(model: &str, v4: &str) -> Result<Config, ConfigErrors> {
    let text = format!(
        "server: {{ mode: dev }}\nmodels:\n  desk:\n    flag: {model}\n    versions:\n      v1: {{ image: a }}\n      \
         v4: {{ image: b, flag: {v4} }}\n    route: {{ v1: 100 }}\n"
    );
    parse(&text, Path::new("sb.yaml"), &|_| None)
}

#[test]
fn flags_of_a_model_and_of_a_version_are_read() {
    let v4 = "{percentage: 1, cohorts: [{header: X-Plan, is: [beta]}, {user_prefix: staff-}, {users: [a, b]}], otherwise: v1}";
    let config = read("{enabled: false}", v4).unwrap();
    let desk = &config.models[&"desk".parse().unwrap()];
    let flag = desk.flag.as_ref().unwrap();
    assert_eq!((flag.enabled, &flag.otherwise, flag.percentage), (false, &Otherwise::Refuse, Weight::FULL));
    assert!(desk.versions[&"v1".parse().unwrap()].flag.is_none());
    let flag = desk.versions[&"v4".parse().unwrap()].flag.clone().unwrap();
    let json = serde_json::to_string(&flag).unwrap();
    assert_snapshot!(json);
    assert_eq!(serde_json::from_str::<Flag>(&json).unwrap(), flag);
}

#[test]
fn a_text_stands_where_a_version_may() {
    let config =
        read("{otherwise: {answer: \"rest\"}}", "{enabled: false, otherwise: {answer: Later.}}").unwrap();
    let desk = &config.models[&"desk".parse().unwrap()];
    let flag = desk.flag.clone().unwrap();
    assert_eq!(flag.otherwise, Otherwise::Answer("rest".into()));
    let json = serde_json::to_string(&flag).unwrap();
    assert!(json.ends_with(r#""otherwise":{"answer":"rest"}}"#), "{json}");
    assert_eq!(serde_json::from_str::<Flag>(&json).unwrap(), flag);
    for (bad, told) in [
        ("{otherwise: {answer: ''}}", "an answer of 0 bytes"),
        ("{otherwise: {text: a}}", "a mapping that is no answer"),
        ("{otherwise: {answer: [a]}}", "models.desk.flag.otherwise"),
    ] {
        let error = read(bad, "{}").unwrap_err().to_string();
        assert!(error.contains(told) && error.contains("sb.yaml:4: "), "{error}");
    }
}

#[test]
fn mistakes_in_flags_are_told_with_line_and_fix() {
    let told = |model: &str, v4: &str| read(model, v4).unwrap_err().to_string();
    let cases = [
        told("{enable: true, percentage: 101, otherwise: rest}", "{otherwise: v4}"),
        told(
            "{otherwise: v9}",
            "{otherwise: v, cohorts: [{header: 'a b', is: [x]}, {users: ada}, {is: [x]}]}",
        ),
        told(
            "{cohorts: {users: [a]}}",
            "{cohorts: [{user_prefix: a, users: [b]}, {header: x-plan}, {users: []}]}",
        ),
        told("{otherwise: rest}", "{cohorts: [{user_prefix: ''}]}"),
        told("true", "{cohorts: [{users: []}]}"),
        told("{cohorts: [{user_prefix: }]}", "{cohorts: [{header: , is: [beta]}]}"),
    ];
    assert_snapshot!(cases.join("\n\n"));
}

#[test]
fn a_cohort_in_json_is_one_kind_whole_and_alone() {
    let read = serde_json::from_str::<Cohort>;
    assert!(
        read(r#"{"header": "X-Plan", "is": ["a"]}"#)
            .is_ok_and(|c| matches!(c, Cohort::Header(h) if h.header == "x-plan"))
    );
    for bad in [r#"{"header": "x"}"#, "{}", r#"{"users": ["a"], "is": ["b"]}"#, r#"{"user": "a"}"#] {
        assert!(read(bad).is_err(), "{bad}");
    }
}
