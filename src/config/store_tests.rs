use std::path::Path;

use super::*;

const MODEL: &str = "models: { m: { versions: { v1: { image: a } } } }";

fn read(store: &str) -> Result<StoreAt, String> {
    let text = format!("server: {{ mode: dev, store: {store} }}\n{MODEL}");
    let env = |name: &str| match name {
        "STATE" => Some("postgres://ada:hush-hush@db.internal/switchback".to_owned()),
        "FILE" => Some("state.db".to_owned()),
        _ => None,
    };
    let config = parse(&text, Path::new("/etc/sb.yaml"), &env).map_err(|errors| errors.to_string())?;
    assert!(!format!("{config:?}").contains("hush-hush"), "a secret shows");
    Ok(config.server.store)
}

#[test]
fn a_store_is_a_file_or_a_database() {
    for (written, file) in
        [("state.db", "/etc/state.db"), ("/var/state.db", "/var/state.db"), ("{env: FILE}", "/etc/state.db")]
    {
        assert_eq!(read(written), Ok(StoreAt::File(file.into())), "{written}");
    }
    for written in ["\"postgres://ada:hush-hush@db.internal/switchback\"", "{env: STATE}"] {
        let Ok(StoreAt::Postgres(url)) = read(written) else { panic!("{written} is no database") };
        assert_eq!(url.expose(), "postgres://ada:hush-hush@db.internal/switchback");
        assert_eq!(format!("{url:?}"), "PostgresUrl(db.internal, ..)");
    }
    assert!(matches!(read("\"postgresql:///switchback?host=/run/postgresql\""), Ok(StoreAt::Postgres(_))));
}

#[test]
fn what_was_meant_to_be_an_address_is_not_shown_where_it_is_wrong() {
    for (written, told) in [
        ("\"mysql://ada:hush-hush@db/x\"", "not an address of PostgreSQL"),
        ("\"postgres://ada:hush-hush@db:port/x\"", "not an address of PostgreSQL"),
        ("\"postgres://ada:${hush-hush}@db/x\"", "write `store: {env: NAME}`"),
        ("{env: NOWHERE}", "NOWHERE is not set"),
        ("\"\"", "an empty path"),
    ] {
        let error = read(written).expect_err(written);
        assert!(error.contains("server.store") && error.contains(told), "{written}: {error}");
        assert!(!error.contains("hush-hush"), "{error}");
    }
}
