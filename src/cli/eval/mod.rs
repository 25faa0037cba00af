//! `switchback eval`: a regression suite against a version of a running server, alone or beside a baseline.

mod door;
mod html;
mod junit;
mod text;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use self::door::HttpDoor;
use super::bar::bar;
use super::error::CliError;
use super::images::show;
use crate::config::SuiteTerms;
use crate::config::suite::{CaseSpec, Suite, read_suite};
use crate::quality::suite::{
    Comparison, Foreign, Plan, Report, Tally, compare, run as run_suite, unsupported,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The suite, in promptfoo's format
    suite: PathBuf,
    /// Who is asked, as a request gives it, such as `desk@v7`, instead of whom the suite's providers name
    #[arg(long)]
    model: Option<String>,
    /// Whom it is compared with, case by case
    #[arg(long, value_name = "MODEL")]
    baseline: Option<String>,
    /// Where the server listens
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// The key that the server asks for
    #[arg(long, env = "SWITCHBACK_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Who judges where an assertion names nobody, with its version
    #[arg(long, value_name = "MODEL@VERSION")]
    judge: Option<String>,
    /// Who embeds, for `similar`
    #[arg(long, value_name = "MODEL")]
    embeddings: Option<String>,
    /// Conversations at once, instead of what the suite says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: Option<u16>,
    /// Only cases with one of these tags
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Only cases whose description holds this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Leave assertions out that are not computed here, such as `javascript`
    #[arg(long)]
    skip_unsupported: bool,
    /// The least share of cases that must pass; without a baseline 100
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    min_pass: Option<f64>,
    /// The most cases that may be broken, beside a baseline
    #[arg(long, value_name = "N", default_value_t = 0, requires = "baseline")]
    max_regressions: usize,
    /// Write a report for CI
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write a page for people
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// Conversations at once where nobody says how many.
const AT_ONCE: usize = 8;

/// What came of a suite, and of its baseline.
struct Evaluation<'a> {
    suite: &'a Suite,
    report: Report,
    /// With its name.
    baseline: Option<(&'a str, Report, Comparison)>,
}

/// One line of the sums.
struct Row {
    name: String,
    tally: Tally,
    /// The baseline's.
    before: Option<Tally>,
}

impl Evaluation<'_> {
    /// All cases, and those of each tag.
    fn rows(&self) -> Vec<Row> {
        let before = self.baseline.as_ref().map(|(_, before, _)| before);
        let all =
            Row { name: "all".to_owned(), tally: self.report.tally(), before: before.map(Report::tally) };
        let tags_before = before.map(Report::by_tag).unwrap_or_default();
        let tags = self.report.by_tag().into_iter().map(|(tag, tally)| Row {
            name: tag.to_owned(),
            tally,
            before: tags_before.get(tag).copied(),
        });
        std::iter::once(all).chain(tags).collect()
    }
}

/// A p-value as people write it.
fn told(p_value: f64) -> String {
    if p_value < 0.001 { "p < 0.001".to_owned() } else { format!("p = {p_value:.3}") }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.0..=100.0).contains(&percent) {
        Ok(percent)
    } else {
        Err(format!("{percent} is not from 0 to 100"))
    }
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let mut suite = read_suite(&args.suite)?;
    select(&mut suite, &args)?;
    refuse_foreign(&suite, &args)?;
    let door = HttpDoor::new(&args.url, args.api_key.clone()).map_err(CliError::Eval)?;
    door.reach().await.map_err(CliError::Eval)?;
    let baseline = match &args.baseline {
        Some(model) => Some((model.as_str(), ask(&suite, Some(model), "baseline", &args, &door).await?)),
        None => None,
    };
    let report = ask(&suite, args.model.as_ref(), "cases", &args, &door).await?;
    let baseline = baseline.map(|(model, before)| {
        let comparison = compare(&report, &before);
        (model, before, comparison)
    });
    let evaluation = Evaluation { suite: &suite, report, baseline };
    if let Some(file) = &args.junit {
        write(file, &junit::document(&evaluation))?;
    }
    if let Some(file) = &args.html {
        write(file, &html::page(&evaluation).map_err(CliError::Eval)?)?;
    }
    let terms = SuiteTerms { min_pass: args.min_pass, max_regressions: Some(args.max_regressions) };
    let compared = evaluation.baseline.as_ref().map(|(model, _, comparison)| (*model, comparison));
    let verdict = terms.judge(&evaluation.report, compared);
    if args.json {
        show(&document(&evaluation, verdict.as_ref().err()));
    } else {
        print!("{}", text::report(&evaluation));
    }
    verdict.map_err(CliError::Eval)
}

/// Keeps the cases that are asked for. A conversation is kept as a whole.
fn select(suite: &mut Suite, args: &Args) -> Result<(), CliError> {
    let is_wanted = |case: &CaseSpec| {
        let tagged = args.tag.is_empty() || case.tags.iter().any(|tag| args.tag.contains(tag));
        let text = case.description.as_deref().unwrap_or_default();
        tagged && args.filter.as_ref().is_none_or(|filter| text.contains(filter))
    };
    let wanted = suite.cases.iter().filter(|case| is_wanted(case));
    let conversations: Vec<String> = wanted.filter_map(|case| case.conversation.clone()).collect();
    suite.cases.retain(|case| {
        is_wanted(case) || case.conversation.as_ref().is_some_and(|of| conversations.contains(of))
    });
    if suite.cases.is_empty() {
        return Err(CliError::Usage(format!(
            "no case of {} is of that --tag and --filter",
            args.suite.display()
        )));
    }
    Ok(())
}

/// Refuses assertions that are not computed here, unless they are to be left out.
fn refuse_foreign(suite: &Suite, args: &Args) -> Result<(), CliError> {
    let foreign = unsupported(suite);
    let Some(first) = foreign.first().filter(|_| !args.skip_unsupported) else { return Ok(()) };
    Err(CliError::Usage(format!(
        "{}:{}: `{}` is not computed here, and {} more are not: run the suite by promptfoo, or leave them out by \
         --skip-unsupported",
        args.suite.display(),
        first.line,
        first.written,
        foreign.len() - 1
    )))
}

async fn ask(
    suite: &Suite,
    model: Option<&String>,
    what: &str,
    args: &Args,
    door: &HttpDoor,
) -> Result<Report, CliError> {
    let concurrency = args.concurrency.map(usize::from).or(suite.concurrency.map(std::num::NonZero::get));
    let plan = Plan {
        model: model.cloned(),
        judge: args.judge.clone(),
        embeddings: args.embeddings.clone(),
        concurrency: concurrency.unwrap_or(AT_ONCE),
        foreign: if args.skip_unsupported { Foreign::LeaveOut } else { Foreign::Refuse },
    };
    let ways = suite.providers.len().max(1) * suite.prompts.len();
    let bar = bar(suite.cases.len() * ways, what);
    let report = run_suite(suite, &plan, door, &|_| bar.inc(1)).await;
    bar.finish_and_clear();
    report.map_err(|why| CliError::Eval(format!("{}: {why}", suite.file.display())))
}

fn document(evaluation: &Evaluation<'_>, why: Option<&String>) -> Value {
    let Evaluation { suite, report, baseline } = evaluation;
    let mut document = json!({
        "suite": suite.file,
        "description": suite.description,
        "verdict": if why.is_none() { "pass" } else { "fail" },
        "why": why,
        "total": report.tally(),
        "tags": report.by_tag(),
        "metrics": report.by_metric(),
        "left_out": report.left_out,
        "cases": report.cases,
    });
    if let Some((model, before, comparison)) = baseline {
        document["baseline"] =
            json!({"model": model, "total": before.tally(), "comparison": comparison, "cases": before.cases});
    }
    document
}

fn write(file: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(file, text).map_err(|e| CliError::Eval(format!("cannot write {}: {e}", file.display())))
}
