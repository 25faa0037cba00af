//! `switchback pull`: brings a model's files from the Hub into the store.

use serde_json::json;

use super::images::{StoreArgs, bar, report, show};
use super::table::bytes;
use crate::config::{HubImage, ImageRef, ImageRefError};
use crate::image::{Hub, ImageError, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model at one commit: `hf://org/name@<40 hex digits>`, and `/<file>.gguf` behind it for one GGUF file of several
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) async fn run(args: Args) -> Result<(), ImageError> {
    let hub = Hub::from_env()?;
    let wanted = match ImageRef::parse(&args.image, "".as_ref()) {
        Ok(ImageRef::Hub(image)) => image,
        Ok(ImageRef::Local(_)) => return Err(ImageRefError::Repo { found: args.image }.into()),
        Err(ImageRefError::Moving { repo, ask, file, .. }) => {
            // Refused all the same, but with the line to write instead.
            let repo = repo.parse()?;
            let revision = hub.snapshot(&repo, &ask).await?.commit;
            let pinned = HubImage { repo, revision, file };
            return Err(ImageError::Moving { moving: args.image, pinned: pinned.to_string() });
        }
        Err(other) => return Err(other.into()),
    };
    let store = Store::open(&args.store.store)?;
    let bar = bar();
    let image = store.pull_hub(&hub, &wanted, &report(&bar)).await?;
    bar.finish_and_clear();
    let reference = wanted.to_string();
    if args.store.json {
        show(&json!({ "image": reference, "digest": image.digest, "bytes": image.bytes, "dir": image.dir }));
    } else {
        println!("image: {reference:?}\ndigest: \"{}\"", image.digest);
        eprintln!("{} in {}", bytes(image.bytes), image.dir.display());
    }
    Ok(())
}
