use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;
use crate::config::ImageRef;
use crate::ids::Digest;

fn quiet(_: u64, _: u64) {}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn overwrite(path: &Path, content: &str) {
    // In place, as a broken disk would: the blob and its links change together.
    let mut mode = path.metadata().unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false)]
    mode.set_readonly(false);
    fs::set_permissions(path, mode).unwrap();
    fs::write(path, content).unwrap();
}

fn local(dir: &TempDir) -> ImageRef {
    ImageRef::Local(dir.path().to_owned())
}

fn hex(content: &str) -> String {
    Digest::from_bytes(Sha256::digest(content).into()).hex()
}

#[test]
fn the_digest_is_the_one_that_the_docs_describe() {
    let dir = folder(&[("b.json", "bb"), ("a/z.txt", "zzz"), (".git/HEAD", "x"), (".hidden", "y")]);
    let lines = format!("switchback-image-v1\n{} 3 a/z.txt\n{} 2 b.json\n", hex("zzz"), hex("bb"));
    let manifest = manifest_of(dir.path(), &quiet).unwrap();
    assert_eq!(manifest.digest().hex(), hex(&lines));
    assert_eq!(manifest.bytes(), 5);
}

#[test]
fn progress_ends_at_the_total() {
    let dir = folder(&[("a", "123"), ("b", "4567")]);
    let last = std::sync::atomic::AtomicU64::new(0);
    manifest_of(dir.path(), &|done, total| {
        assert_eq!(total, 7);
        last.fetch_max(done, std::sync::atomic::Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!(last.into_inner(), 7);
}

#[test]
fn progress_of_resolving_and_adding_grows_to_all_bytes_that_are_read() {
    let (_root, store) = store();
    let dir = folder(&[("config.json", "{}"), ("model.safetensors", "weights")]);
    let seen = std::sync::Mutex::new(Vec::new());
    let watch = |done, total| seen.lock().unwrap().push((done, total));
    let last = || seen.lock().unwrap().drain(..).max().unwrap();
    let image = store.resolve(&local(&dir), None, &watch).unwrap();
    assert_eq!((last(), image.bytes), ((9, 9), 9));
    // hashed, then copied; the second time hashed, then compared with what the store has
    store.add_local(dir.path(), &watch).unwrap();
    assert_eq!(last(), (18, 18));
    overwrite(&image_file(&store, image.digest, "model.safetensors"), "wEights");
    store.add_local(dir.path(), &watch).unwrap();
    assert_eq!(last(), (18, 18));
}

fn image_file(store: &Store, image: Digest, name: &str) -> std::path::PathBuf {
    store.files_dir(image).join(name)
}

#[cfg(unix)]
#[test]
fn links_count_inside_the_folder_and_are_refused_beyond_it() {
    use std::os::unix::fs::symlink;
    let dir = folder(&[("a", "1"), ("sub/b", "2")]);
    symlink("../a", dir.path().join("sub/link")).unwrap();
    let manifest = manifest_of(dir.path(), &quiet).unwrap();
    assert_eq!(manifest.files["sub/link"], manifest.files["a"]);

    symlink("/etc/hostname", dir.path().join("out")).unwrap();
    assert!(matches!(manifest_of(dir.path(), &quiet), Err(ImageError::Escapes { .. })));
    fs::remove_file(dir.path().join("out")).unwrap();
    symlink("..", dir.path().join("sub/round")).unwrap();
    assert!(matches!(manifest_of(dir.path(), &quiet), Err(ImageError::Unfit { .. })));
}

#[test]
fn a_folder_that_is_none_or_empty_says_so() {
    let dir = folder(&[(".only", "hidden")]);
    assert!(matches!(manifest_of(dir.path(), &quiet), Err(ImageError::Empty { .. })));
    let missing = manifest_of(&dir.path().join("nowhere"), &quiet).unwrap_err();
    assert!(missing.to_string().contains("is not a folder"), "{missing}");
}

#[test]
fn a_changed_folder_is_refused_with_both_digests_and_the_file() {
    let (_root, store) = store();
    let dir = folder(&[("config.json", "{}"), ("model.safetensors", "weights")]);
    let good = store.resolve(&local(&dir), None, &quiet).unwrap();
    assert_eq!(store.resolve(&local(&dir), Some(good.digest), &quiet).unwrap(), good);

    fs::write(dir.path().join("model.safetensors"), "WEIGHTS").unwrap();
    let guess = store.resolve(&local(&dir), Some(good.digest), &quiet).unwrap_err().to_string();
    assert!(guess.contains(&good.digest.to_string()), "{guess}");
    assert!(guess.contains("the store does not know"), "{guess}");

    fs::write(dir.path().join("model.safetensors"), "weights").unwrap();
    store.add_local(dir.path(), &quiet).unwrap();
    fs::write(dir.path().join("config.json"), "[]").unwrap();
    let exact = store.resolve(&local(&dir), Some(good.digest), &quiet).unwrap_err().to_string();
    assert!(exact.contains("look at config.json: its content differs"), "{exact}");
}

#[test]
fn a_file_of_two_images_is_on_the_disk_once() {
    let (root, store) = store();
    let one = folder(&[("config.json", "{}"), ("model.safetensors", "shared weights")]);
    let two = folder(&[("config.json", "{ }"), ("model.safetensors", "shared weights")]);
    let one = store.add_local(one.path(), &quiet).unwrap();
    let two = store.add_local(two.path(), &quiet).unwrap();
    assert_ne!(one.digest, two.digest);
    assert_eq!(root.path().join("blobs/sha256").read_dir().unwrap().count(), 3);
    let listed = store.list().unwrap();
    assert_eq!(listed.iter().map(|i| i.shared_bytes).collect::<Vec<_>>(), [14, 14]);
    assert_eq!(fs::read_to_string(two.dir.join("model.safetensors")).unwrap(), "shared weights");
    assert_eq!(store.find(&two.digest.short()).unwrap(), two.digest);
    assert!(matches!(store.find("sha256:"), Err(ImageError::Unknown { .. })));
    assert_eq!(root.path().join("tmp").read_dir().unwrap().count(), 0);
}

#[test]
fn damage_is_found_and_mended_by_adding_again() {
    let (_root, store) = store();
    let dir = folder(&[("config.json", "{}"), ("model.safetensors", "weights")]);
    let image = store.add_local(dir.path(), &quiet).unwrap();
    assert_eq!(store.verify(image.digest, &quiet).unwrap(), []);

    overwrite(&image.dir.join("model.safetensors"), "wEights");
    let damage = store.verify(image.digest, &quiet).unwrap();
    assert_eq!(damage.iter().map(|d| d.file.as_str()).collect::<Vec<_>>(), ["model.safetensors"]);

    assert_eq!(store.add_local(dir.path(), &quiet).unwrap(), image);
    assert_eq!(store.verify(image.digest, &quiet).unwrap(), []);
}

#[test]
fn dedupe_links_copies_and_removes_what_no_image_needs() {
    let (root, store) = store();
    let dir = folder(&[("config.json", "{}"), ("model.safetensors", "weights")]);
    let image = store.add_local(dir.path(), &quiet).unwrap();
    let file = image.dir.join("model.safetensors");
    fs::remove_file(&file).unwrap();
    fs::write(&file, "weights").unwrap();
    fs::write(root.path().join("blobs/sha256").join("0".repeat(64)), "orphan").unwrap();
    fs::create_dir_all(root.path().join("partial/org--name/c")).unwrap();
    fs::write(root.path().join("partial/org--name/c/model.safetensors"), "half").unwrap();

    let report = store.dedupe().unwrap();
    assert_eq!(report, DedupeReport { relinked: 1, removed: 2, freed_bytes: 7 + 6 + 4 });
    assert_eq!(store.dedupe().unwrap(), DedupeReport::default());
    assert_eq!(store.verify(image.digest, &quiet).unwrap(), []);
}

#[test]
fn a_store_that_another_changes_is_busy_but_readable() {
    let (root, store) = store();
    let dir = folder(&[("config.json", "{}")]);
    let image = store.add_local(dir.path(), &quiet).unwrap();
    let other = Store::open(root.path()).unwrap();
    let held = other.lock().unwrap();
    assert!(matches!(store.add_local(dir.path(), &quiet), Err(ImageError::Busy { .. })));
    assert_eq!(store.verify(image.digest, &quiet).unwrap(), []);
    drop(held);
    store.add_local(dir.path(), &quiet).unwrap();
}

#[test]
fn a_hub_image_that_was_not_pulled_says_how_to_pull_it() {
    let (_root, store) = store();
    let image = ImageRef::parse(&format!("hf://org/name@{}", "a".repeat(40)), "".as_ref()).unwrap();
    let error = store.resolve(&image, None, &quiet).unwrap_err().to_string();
    assert!(error.contains(&format!("switchback pull hf://org/name@{}", "a".repeat(40))), "{error}");
}

#[test]
fn a_gguf_file_is_the_same_image_as_a_folder_with_it_alone() {
    let (_root, store) = store();
    let dir = folder(&[("m.gguf", "weights"), ("other.gguf", "more"), ("note.txt", "x")]);
    let alone = folder(&[("m.gguf", "weights")]);
    let file = ImageRef::Local(dir.path().join("m.gguf"));
    let image = store.resolve(&file, None, &quiet).unwrap();
    assert_eq!(image.digest, store.resolve(&local(&alone), None, &quiet).unwrap().digest);
    assert_eq!(image.dir, dir.path().join("m.gguf"));

    let added = store.add_local(&dir.path().join("m.gguf"), &quiet).unwrap();
    assert_eq!((added.digest, added.bytes), (image.digest, 7));
    assert_eq!(fs::read(added.dir.join("m.gguf")).unwrap(), b"weights");
    let other = store.resolve(&file, Some(Digest::from_bytes([7; 32])), &quiet).unwrap_err().to_string();
    assert!(other.contains("m.gguf: it was written most recently"), "{other}");
    let note = manifest_of(&dir.path().join("note.txt"), &quiet).unwrap_err();
    assert!(matches!(note, ImageError::NotAFolder { .. }), "{note}");
}
