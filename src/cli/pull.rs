//! `switchback pull`: brings a model's files from the Hub into the store.

use serde_json::json;

use super::images::{StoreArgs, bar, report, show};
use super::table::bytes;
use crate::config::{ImageRef, ImageRefError};
use crate::image::{Hub, ImageError, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model at one commit: `hf://org/name@<40 hex digits>`
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) async fn run(args: Args) -> Result<(), ImageError> {
    let hub = Hub::from_env()?;
    let (repo, commit) = match ImageRef::parse(&args.image, "".as_ref()) {
        Ok(ImageRef::Hub { repo, revision }) => (repo, revision),
        Ok(ImageRef::Local(_)) => return Err(ImageRefError::Repo { found: args.image }.into()),
        Err(ImageRefError::Moving { repo, ask, .. }) => {
            // Refused all the same, but with the line to write instead.
            let commit = hub.snapshot(&repo.parse()?, &ask).await?.commit.to_string();
            return Err(ImageError::Moving { moving: args.image, repo, commit });
        }
        Err(other) => return Err(other.into()),
    };
    let store = Store::open(&args.store.store)?;
    let bar = bar();
    let image = store.pull_hub(&hub, &repo, &commit, &report(&bar)).await?;
    bar.finish_and_clear();
    let reference = ImageRef::Hub { repo, revision: commit }.to_string();
    if args.store.json {
        show(&json!({ "image": reference, "digest": image.digest, "bytes": image.bytes, "dir": image.dir }));
    } else {
        println!("image: {reference:?}\ndigest: \"{}\"", image.digest);
        eprintln!("{} in {}", bytes(image.bytes), image.dir.display());
    }
    Ok(())
}
