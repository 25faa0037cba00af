//! `switchback flag`: shows the flags of a model, and sets them.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::admin_client::{Change, Patience, Target, print_json};
use super::error::CliError;
use super::table::Table;
use crate::ids::{IdError, ModelName, VersionName, Weight};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the flags of a model and of its versions
    List(List),
    /// Change who is let in, and what the others get; what is not named stays
    Set(Set),
    /// Let in whom the flag names
    On(Switch),
    /// Let nobody in, from the next request on
    Off(Switch),
}

#[derive(Debug, clap::Args)]
struct List {
    /// The model
    model: ModelName,
    #[command(flatten)]
    target: Target,
}

/// A model, or one of its versions.
#[derive(Debug, Clone)]
struct Place {
    model: ModelName,
    version: Option<VersionName>,
}

#[derive(Debug, clap::Args)]
struct Set {
    /// The model or version whose flag is meant
    #[arg(value_name = "MODEL[@VERSION]", value_parser = parse_place)]
    place: Place,
    /// The share that is let in, of those in the cohorts
    #[arg(long, value_name = "PERCENT")]
    percentage: Option<Weight>,
    /// Let in requests whose header has one of these values; can be given several times
    #[arg(long = "header", value_name = "NAME=VALUE[,VALUE]", value_parser = parse_header)]
    headers: Vec<Value>,
    /// Let in users whose names begin like this; can be given several times
    #[arg(long = "user-prefix", value_name = "PREFIX")]
    prefixes: Vec<String>,
    /// Let in these users
    #[arg(long, value_name = "USER", value_delimiter = ',')]
    users: Vec<String>,
    /// Let in everybody, in the place of cohorts
    #[arg(long, conflicts_with_all = ["headers", "prefixes", "users"])]
    everybody: bool,
    /// What the others get: refuse, a version, or, of a version's flag, rest
    #[arg(long, value_name = "WHAT")]
    otherwise: Option<String>,
    /// Answer the others with this text
    #[arg(long, value_name = "TEXT", conflicts_with = "otherwise")]
    answer: Option<String>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Switch {
    /// The model or version whose flag is meant
    #[arg(value_name = "MODEL[@VERSION]", value_parser = parse_place)]
    place: Place,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    target: Target,
}

fn parse_place(text: &str) -> Result<Place, String> {
    let (model, version) = text.split_once('@').map_or((text, None), |(m, v)| (m, Some(v)));
    let told = |e: IdError| e.to_string();
    let version = version.map(str::parse).transpose().map_err(told)?;
    Ok(Place { model: model.parse().map_err(told)?, version })
}

fn parse_header(text: &str) -> Result<Value, String> {
    let (name, values) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE, such as x-plan=beta"))?;
    Ok(json!({ "header": name, "is": values.split(',').collect::<Vec<_>>() }))
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    match args.what {
        What::List(list) => {
            let flags = list.target.get(&format!("/admin/models/{}/flags", list.model)).await?;
            print(&flags, &list.target);
            Ok(())
        }
        What::Set(set) => {
            let body = body(&set)?;
            change(&set.place, body, &set.change, &set.target).await
        }
        What::On(switch) => turn(&switch, json!({ "enabled": true })).await,
        What::Off(switch) => turn(&switch, json!({ "enabled": false })).await,
    }
}

async fn turn(switch: &Switch, body: Value) -> Result<(), CliError> {
    change(&switch.place, body, &switch.change, &switch.target).await
}

fn body(set: &Set) -> Result<Value, CliError> {
    let mut body = Map::new();
    if let Some(percentage) = set.percentage {
        body.insert("percentage".to_owned(), json!(percentage));
    }
    if let Some(otherwise) = &set.otherwise {
        body.insert("otherwise".to_owned(), json!(otherwise));
    }
    if let Some(answer) = &set.answer {
        body.insert("otherwise".to_owned(), json!({ "answer": answer }));
    }
    let mut cohorts = set.headers.clone();
    cohorts.extend(set.prefixes.iter().map(|prefix| json!({ "user_prefix": prefix })));
    if !set.users.is_empty() {
        cohorts.push(json!({ "users": set.users }));
    }
    if set.everybody || !cohorts.is_empty() {
        body.insert("cohorts".to_owned(), cohorts.into());
    }
    if body.is_empty() {
        let message = "nothing is to change; name a --percentage, cohorts, --otherwise or --answer";
        return Err(CliError::Usage(message.to_owned()));
    }
    Ok(body.into())
}

async fn change(place: &Place, body: Value, change: &Change, target: &Target) -> Result<(), CliError> {
    let Place { model, version } = place;
    let path = match version {
        Some(version) => format!("/admin/models/{model}/versions/{version}/flag"),
        None => format!("/admin/models/{model}/flag"),
    };
    print(&target.change(Method::PATCH, &path, body, change, Patience::Short).await?, target);
    Ok(())
}

fn print(flags: &Value, target: &Target) {
    if target.json {
        print_json(flags);
        return;
    }
    let mut table = Table::new(&["flag of", "is", "share", "cohorts", "otherwise"]);
    let mut row = |of: String, flag: &Value| {
        let cohorts = flag["cohorts"].as_array().filter(|cohorts| !cohorts.is_empty());
        let cohorts = cohorts.map(|cohorts| cohorts.iter().map(cohort).collect::<Vec<_>>().join("; "));
        table.row([
            of,
            if flag["enabled"] == true { "on" } else { "off" }.to_owned(),
            format!("{} %", flag["percentage"]),
            cohorts.unwrap_or_else(|| "everybody".to_owned()),
            otherwise(&flag["otherwise"]),
        ]);
    };
    let model = flags["model"].as_str().unwrap_or("?");
    row(model.to_owned(), &flags["flag"]);
    for (version, flag) in flags["versions"].as_object().into_iter().flatten() {
        row(format!("{model}@{version}"), flag);
    }
    print!("{table}");
}

/// A word, or the beginning of a text.
fn otherwise(otherwise: &Value) -> String {
    const SHOWN: usize = 40;
    let Some(answer) = otherwise["answer"].as_str() else {
        return otherwise.as_str().unwrap_or("?").to_owned();
    };
    let more = if answer.chars().nth(SHOWN).is_some() { "…" } else { "" };
    format!("{:?}{more}", answer.chars().take(SHOWN).collect::<String>())
}

fn cohort(cohort: &Value) -> String {
    let names = |list: &Value| {
        let names = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        names.collect::<Vec<_>>().join(", ")
    };
    if let Some(header) = cohort["header"].as_str() {
        format!("{header}: {}", names(&cohort["is"]))
    } else if let Some(prefix) = cohort["user_prefix"].as_str() {
        format!("users {prefix}...")
    } else {
        format!("users {}", names(&cohort["users"]))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn set(line: &str) -> Result<Value, CliError> {
        let words = ["flag", "set", "desk@v4"].into_iter().chain(line.split_whitespace());
        let What::Set(set) = Program::parse_from(words).args.what else { panic!("not `set`") };
        assert_eq!(set.place.version.as_ref().map(VersionName::as_str), Some("v4"));
        body(&set)
    }

    #[test]
    fn only_what_is_named_is_changed() {
        assert_eq!(set("--percentage 1").unwrap(), json!({"percentage": 1}));
        assert_eq!(set("--everybody --otherwise v1").unwrap(), json!({"otherwise": "v1", "cohorts": []}));
        let cohorts = json!([{"header": "x-plan", "is": ["beta", "gold"]}, {"user_prefix": "staff-"}, {"users": ["a", "b"]}]);
        let line = "--users a,b --header x-plan=beta,gold --user-prefix staff-";
        assert_eq!(set(line).unwrap(), json!({"cohorts": cohorts}));
        assert_eq!(set("--answer Later.").unwrap(), json!({"otherwise": {"answer": "Later."}}));
        assert!(set("").is_err());
    }
}
