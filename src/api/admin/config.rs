//! The configuration as operators see it: which is in force, what it wants, and what another would do.

use std::path::PathBuf;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::handlers::{AdminState, Body};
use crate::api::error::{ApiError, ErrorBody};
use crate::api::suites::check_suites;
use crate::config::{self, Config};
use crate::gateway::{ConfigPlan, ConfigStatus, Gateway, Wish, WishState};
use crate::ids::{ModelName, VersionName};

/// Which configuration is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigAnswer {
    /// Its file.
    pub file: String,
    /// What is laid over it; null where nothing is.
    pub overlay: Option<String>,
    /// The sha256 of both texts.
    pub digest: String,
    /// Since when it is in force, in RFC 3339.
    pub since: String,
    /// What the file holds now, where that was refused; null while it is what is in force.
    pub refused: Option<RefusedAnswer>,
    /// What it wants of traffic, of each model that it names a `version` for.
    pub versions: Vec<WishAnswer>,
}

/// A configuration that was refused. Nothing of it is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RefusedAnswer {
    /// When it was last tried, in RFC 3339.
    pub at: String,
    /// Everything that stands against it, a line each.
    pub why: String,
}

/// What the configuration wants for a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WishAnswer {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// The version that is to have all traffic.
    #[schema(value_type = String)]
    pub version: VersionName,
    /// `in_force`, `under_way` (a rollout leads there), `waiting` (it could not be followed yet), or `overridden` (it was
    /// followed, and a rollout was aborted or an operator has changed the route since).
    pub state: String,
    /// The rollout that is under way.
    pub rollout: Option<u32>,
    /// What it waits for.
    pub why: Option<String>,
}

/// A configuration that might come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanBody {
    /// The text of its file. Paths in it are relative to the file of the server's own.
    pub config: String,
    /// The text of what is laid over it. Where none is given and the server has an overlay, that is laid over it.
    pub overlay: Option<String>,
}

/// What a configuration would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanAnswer {
    /// What would change, a line each.
    pub changes: Vec<String>,
    /// Why it would be refused now, a line each; empty where it would not.
    pub obstacles: Vec<String>,
}

impl ConfigAnswer {
    pub(in crate::api) fn of(gateway: &Gateway) -> Self {
        let ConfigStatus { file, overlay, digest, since, refused } = gateway.config_status();
        Self {
            file: file.display().to_string(),
            overlay: overlay.map(|overlay| overlay.display().to_string()),
            digest: digest.to_string(),
            since: since.to_string(),
            refused: refused.map(|refused| RefusedAnswer { at: refused.at.to_string(), why: refused.why }),
            versions: gateway.wishes().into_iter().map(WishAnswer::from).collect(),
        }
    }
}

impl ConfigAnswer {
    /// The same without what only operators are to read: paths and texts of a configuration.
    pub(in crate::api) fn withheld(self) -> Self {
        const ELSEWHERE: &str = "withheld; the operators' listener tells, at /admin/config";
        let withheld = |why: Option<String>| why.map(|_| ELSEWHERE.to_owned());
        let name =
            |path: String| PathBuf::from(path).file_name().map(|name| name.to_string_lossy().into_owned());
        Self {
            file: name(self.file).unwrap_or_default(),
            overlay: self.overlay.and_then(name),
            refused: self.refused.map(|refused| RefusedAnswer { why: ELSEWHERE.to_owned(), ..refused }),
            versions: self
                .versions
                .into_iter()
                .map(|wish| WishAnswer { why: withheld(wish.why), ..wish })
                .collect(),
            ..self
        }
    }
}

impl From<Wish> for WishAnswer {
    fn from(Wish { model, version, state }: Wish) -> Self {
        let (word, rollout, why) = match state {
            WishState::InForce => ("in_force", None, None),
            WishState::UnderWay(rollout) => ("under_way", Some(rollout.number()), None),
            WishState::Waits(why) => ("waiting", None, Some(why)),
            WishState::Overridden => ("overridden", None, None),
        };
        Self { model, version, state: word.to_owned(), rollout, why }
    }
}

/// Which configuration is in force, and what stands against its file as it is now.
#[utoipa::path(get, path = "/admin/config", tag = "admin", responses(
    (status = 200, description = "The configuration", body = ConfigAnswer),
))]
pub(in crate::api) async fn get_config(State(state): State<AdminState>) -> Json<ConfigAnswer> {
    Json(ConfigAnswer::of(&state.gateway))
}

/// What a configuration would do if the server's file held it now. Changes nothing.
#[utoipa::path(post, path = "/admin/config/plan", tag = "admin", request_body = PlanBody, responses(
    (status = 200, description = "What would change, and what stands against it", body = PlanAnswer),
    (status = "4XX", description = "A body that is none", body = ErrorBody),
))]
pub(in crate::api) async fn plan_config(
    State(state): State<AdminState>,
    Body(body): Body<PlanBody>,
) -> Result<Json<PlanAnswer>, ApiError> {
    let status = state.gateway.config_status();
    let read = tokio::task::spawn_blocking(move || read(&status, &body)).await;
    let read =
        read.map_err(|error| ApiError::internal(format!("the configuration could not be read: {error}")))?;
    let ConfigPlan { changes, obstacles } = match read {
        Ok(config) => state.gateway.plan(&config).await,
        Err(why) => ConfigPlan { changes: Vec::new(), obstacles: why.lines().map(str::to_owned).collect() },
    };
    Ok(Json(PlanAnswer { changes, obstacles }))
}

/// Reads the texts as if they stood in the server's own files.
fn read(status: &ConfigStatus, body: &PlanBody) -> Result<Config, String> {
    let own = |file: &PathBuf| {
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
    };
    let text = match (&body.overlay, &status.overlay) {
        (Some(text), _) => Some(text.clone()),
        (None, overlay) => overlay.as_ref().map(own).transpose()?,
    };
    let file = status.overlay.clone().unwrap_or_else(|| PathBuf::from("overlay"));
    let overlay = text.as_deref().map(|text| (text, file.as_path()));
    let env = |name: &str| std::env::var(name).ok();
    let config = config::parse_over(&body.config, &status.file, overlay, &env);
    let config = config.map_err(|errors| errors.to_string())?;
    check_suites(&config)?;
    Ok(config)
}
