//! `switchback rollback MODEL`: back to the last route that was stable.

use reqwest::Method;
use serde_json::json;

use super::admin_client::{Change, Patience, Target};
use super::error::CliError;
use super::route::print_route;
use crate::ids::ModelName;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model to put back
    model: ModelName,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let path = format!("/admin/models/{}/rollback", args.model);
    let answer = args.target.change(Method::POST, &path, json!({}), &args.change, Patience::Short).await?;
    print_route(&answer, &args.target);
    Ok(())
}
