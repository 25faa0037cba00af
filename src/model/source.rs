//! The files that a model is: a folder in Hugging Face layout, or one GGUF file.

use std::path::{Path, PathBuf};

use super::config::{Config, read_optional};
use super::error::ModelError;
use super::gguf::{self, Gguf};
use super::load::GenerationConfig;
use super::templates::{TokenizerWords, templates_in};
use super::tensors::Tensors;
use super::tokenizer::Tokenizer;

/// Where a model is read from.
#[derive(Debug)]
pub(super) struct Source {
    layout: Layout,
    /// The folder that was named, if it was one: what lies in it belongs to the model.
    folder: Option<PathBuf>,
}

#[derive(Debug)]
enum Layout {
    /// `config.json`, `tokenizer.json`, safetensors.
    HuggingFace(PathBuf),
    Gguf(Gguf),
}

impl Source {
    /// The model that `path` is: a GGUF file, or a folder. A folder with safetensors files is one in Hugging Face layout,
    /// whatever lies beside them; one without is the GGUF file in it.
    pub(super) fn find(path: &Path) -> Result<Self, ModelError> {
        if path.is_file() || (is_gguf(path) && !path.is_dir()) {
            return Ok(Self { layout: Layout::Gguf(Gguf::open(path)?), folder: None });
        }
        let layout = match &gguf_files(path)[..] {
            [file] if !Tensors::are_in(path) => Layout::Gguf(Gguf::open(&path.join(file))?),
            names if names.len() > 1 && !Tensors::are_in(path) => {
                return Err(ModelError::SeveralGguf { folder: path.into(), names: names.to_vec() });
            }
            _ => Layout::HuggingFace(path.into()),
        };
        Ok(Self { layout, folder: Some(path.into()) })
    }

    /// What describes the model, for errors about it.
    pub(super) fn tokenizer_path(&self) -> PathBuf {
        match &self.layout {
            Layout::HuggingFace(folder) => folder.join("tokenizer.json"),
            Layout::Gguf(gguf) => gguf.path().into(),
        }
    }

    pub(super) fn config(&self) -> Result<Config, ModelError> {
        match &self.layout {
            Layout::HuggingFace(folder) => Config::read(&folder.join("config.json")),
            Layout::Gguf(gguf) => gguf.config(),
        }
    }

    pub(super) fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        match &self.layout {
            Layout::HuggingFace(_) => Tokenizer::from_file(&self.tokenizer_path()),
            Layout::Gguf(gguf) => gguf.tokenizer(),
        }
    }

    /// Its special tokens and chat templates. Templates in files of their own count before those in a GGUF file.
    pub(super) fn words(&self) -> Result<TokenizerWords, ModelError> {
        match (&self.layout, &self.folder) {
            (Layout::HuggingFace(folder), _) => TokenizerWords::read(folder),
            (Layout::Gguf(gguf), None) => gguf.words(),
            (Layout::Gguf(gguf), Some(folder)) => {
                let words = gguf.words()?;
                let templates = templates_in(folder)?.or(words.templates);
                Ok(TokenizerWords { templates, ..words })
            }
        }
    }

    /// How it wants to be sampled, as `generation_config.json` says, and the path of that file.
    pub(super) fn generation(&self) -> Result<(PathBuf, GenerationConfig), ModelError> {
        let Some(folder) = &self.folder else { return Ok(Default::default()) };
        let path = folder.join("generation_config.json");
        let read = read_optional(&path)?;
        Ok((path, read))
    }

    pub(super) fn tensors(&self, config: &Config) -> Result<Tensors, ModelError> {
        match &self.layout {
            Layout::HuggingFace(folder) => Tensors::in_folder(folder),
            Layout::Gguf(gguf) => gguf.tensors(config),
        }
    }
}

/// Whether a file's name says that it is one.
fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == gguf::EXTENSION)
}

/// The names of the GGUF files of a folder, in order. None of a folder that cannot be read: who reads it says so.
fn gguf_files(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let named = |name: &String| !name.starts_with('.') && is_gguf(Path::new(name));
    let mut names: Vec<String> = names.filter(named).collect();
    names.sort_unstable();
    names
}
