//! The configuration that a command looks at, as its arguments name it.

use std::path::PathBuf;

use crate::config::{self, Config, ConfigErrors, EnvName};

#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// The configuration
    #[arg(long, default_value = "switchback.yaml", value_name = "FILE")]
    pub(super) config: PathBuf,
    /// The environment whose overlay, `env/<NAME>.yaml` beside the configuration, is laid over it
    #[arg(long, env = "SWITCHBACK_ENV", value_name = "NAME")]
    pub(super) env: Option<EnvName>,
}

impl ConfigArgs {
    pub(super) fn load(&self) -> Result<Config, ConfigErrors> {
        config::load_for(&self.config, self.env.as_ref())
    }
}
