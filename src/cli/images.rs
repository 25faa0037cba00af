//! `switchback images`: what the store holds, whether it is whole, and taking folders in.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::table::{Table, bytes};
use crate::image::{Damage, ImageError, Store};

/// Where the images are.
#[derive(Debug, clap::Args)]
pub(super) struct StoreArgs {
    /// The folder of the image store (`server.images` in the configuration)
    #[arg(
        long,
        env = "SWITCHBACK_IMAGES",
        default_value = ".switchback/images",
        value_name = "DIR",
        global = true
    )]
    pub(super) store: PathBuf,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the images, their sizes and what they share (the default)
    List,
    /// Read every file again and compare it with its digest
    Verify {
        /// Digests, or starts of them; all images where none is given
        digests: Vec<String>,
    },
    /// Turn copies into links and remove what no image needs, broken-off downloads too
    Dedupe,
    /// Take a folder or a GGUF file into the store and print its digest
    Add {
        /// The folder that holds config.json and the weights, or a GGUF file
        folder: PathBuf,
    },
}

pub(super) fn run(args: Args) -> Result<(), ImageError> {
    let store = Store::open(&args.store.store)?;
    let json = args.store.json;
    match args.action.unwrap_or(Action::List) {
        Action::List => list(&store, json),
        Action::Verify { digests } => verify(&store, &digests, json),
        Action::Dedupe => {
            let report = store.dedupe()?;
            if json {
                show(&json!(report));
            } else {
                let (relinked, removed) = (report.relinked, report.removed);
                println!("{relinked} relinked, {removed} removed, {} freed", bytes(report.freed_bytes));
            }
            Ok(())
        }
        Action::Add { folder } => {
            let bar = bar();
            let image = store.add_local(&folder, &report(&bar))?;
            bar.finish_and_clear();
            if json {
                show(&json!({ "digest": image.digest, "bytes": image.bytes, "dir": image.dir }));
            } else {
                println!("{}", image.digest);
            }
            Ok(())
        }
    }
}

fn list(store: &Store, json: bool) -> Result<(), ImageError> {
    let images = store.list()?;
    if json {
        show(&json!(images));
        return Ok(());
    }
    let mut table = Table::new(&["digest", "size", "shared", "files", "source"]);
    for image in images {
        table.row([
            format!("sha256:{}", image.digest.short()),
            bytes(image.bytes),
            bytes(image.shared_bytes),
            image.files.to_string(),
            if image.sources.is_empty() { "-".to_owned() } else { image.sources.join(" ") },
        ]);
    }
    print!("{table}");
    Ok(())
}

fn verify(store: &Store, prefixes: &[String], json: bool) -> Result<(), ImageError> {
    let digests = if prefixes.is_empty() {
        store.digests()?
    } else {
        prefixes.iter().map(|p| store.find(p)).collect::<Result<_, _>>()?
    };
    let bar = bar();
    let mut damage: Vec<Damage> = Vec::new();
    for digest in &digests {
        damage.extend(store.verify(*digest, &report(&bar))?);
    }
    bar.finish_and_clear();
    if json {
        show(&json!({ "verified": digests, "damage": damage }));
    } else {
        for digest in &digests {
            let hurt: Vec<_> = damage.iter().filter(|d| d.image == *digest).collect();
            println!("{digest} {}", if hurt.is_empty() { "ok" } else { "DAMAGED" });
            for Damage { file, why, .. } in hurt {
                println!("  {file}: {why}");
            }
        }
    }
    if damage.is_empty() { Ok(()) } else { Err(ImageError::Damaged { count: damage.len() }) }
}

/// Moves a bar.
pub(super) fn report(bar: &ProgressBar) -> impl Fn(u64, u64) + Sync {
    move |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    }
}

/// A bar on standard error that counts bytes; silent where nobody looks.
pub(super) fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let line = "{bar:32} {binary_bytes} of {binary_total_bytes} read, {binary_bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(line) {
        bar.set_style(style);
    }
    bar
}

/// One JSON document on standard output.
pub(super) fn show(document: &Value) {
    println!("{document:#}");
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn images(line: &[&str]) -> Result<(), ImageError> {
        run(Program::try_parse_from([&["images"], line].concat()).unwrap().args)
    }

    #[test]
    fn a_folder_is_added_listed_and_verified() {
        Program::command().debug_assert();
        let (root, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(model.path().join("config.json"), "{}").unwrap();
        let (root, model) = (root.path().to_str().unwrap(), model.path().to_str().unwrap());
        images(&["--store", root, "add", model]).unwrap();
        images(&["--store", root, "--json"]).unwrap();
        images(&["verify", "--store", root]).unwrap();
        images(&["dedupe", "--store", root, "--json"]).unwrap();

        let store = Store::open(root.as_ref()).unwrap();
        let hex = store.digests().unwrap()[0].hex();
        std::fs::remove_file(format!("{root}/images/{hex}/files/config.json")).unwrap();
        assert!(matches!(images(&["verify", "--store", root]), Err(ImageError::Damaged { count: 1 })));
    }
}
