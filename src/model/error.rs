//! Why a model cannot be loaded or run.

use std::path::PathBuf;

use crate::ids::Quantize;
use crate::tensor::{BlockFormat, TensorError};

/// Why a model cannot be loaded or run; names the file and what was found in it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is not the JSON it should be.
    #[error("{}: {what}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The field, and what is wrong with it.
        what: String,
    },
    /// A configuration that cannot be: sizes that do not fit each other, or a feature that is not supported.
    #[error("{}: {what}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field, what was found and what would do.
        what: String,
    },
    /// An architecture that this server does not have.
    #[error("{}: architecture {found} is not supported: only {supported}", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it names.
        found: String,
        /// What would do.
        supported: String,
    },
    /// A weight file that is cut short, corrupt, or not a safetensors file.
    #[error("{}: {what}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A GGUF file that is cut short, corrupt, or says what is not supported.
    #[error("{}: {what}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The offset, the key or the tensor, what was found and what would do.
        what: String,
    },
    /// A folder with several GGUF files, of which nothing chooses one.
    #[error("{} holds several GGUF files: name one of them as the image: {}", folder.display(), names.join(", "))]
    SeveralGguf {
        /// The folder.
        folder: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// Weights that are to be quantised and are so already.
    #[error(
        "{}: tensor {tensor} is stored as {format}, and what is quantised cannot be quantised to {wanted}: leave \
         `quantize` out, or take a file in bf16, f16 or f32",
        path.display()
    )]
    Quantised {
        /// The file.
        path: PathBuf,
        /// What the version asks for.
        wanted: Quantize,
        /// The first such tensor.
        tensor: String,
        /// How it is stored.
        format: BlockFormat,
    },
    /// A tensor that the architecture has and the files lack.
    #[error("{}: tensor {tensor} of shape {expected:?} is missing", path.display())]
    MissingTensor {
        /// The file, or the index over several.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor of another shape than the configuration asks for.
    #[error("{}: tensor {tensor} has shape {found:?}, and the configuration asks for {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor stored in a way that the kernels do not read.
    #[error("{}: tensor {tensor} is stored as {found}, and only BF16, F16 and F32 are supported", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// How it is stored.
        found: String,
    },
    /// A tensor that the architecture has no place for; leaving it out would compute something else.
    #[error("{}: tensor {tensor} has no place in this architecture with this configuration", path.display())]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tokenizer that cannot be read.
    #[error("{}: {what}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        what: String,
    },
    /// A tokenizer with tokens that the model has no row for.
    #[error(
        "{}: the tokenizer has {tokens} tokens, and the model has a vocabulary of {vocabulary}: they \
         do not belong together",
        path.display()
    )]
    Vocabulary {
        /// The tokenizer's file.
        path: PathBuf,
        /// The tokenizer's highest token and one.
        tokens: usize,
        /// The model's vocabulary.
        vocabulary: usize,
    },
    /// Text or tokens that the tokenizer refuses.
    #[error("the tokenizer refuses this: {0}")]
    Text(String),
    /// A cache that the machine has no memory for.
    #[error("no memory for a key-value cache of {tokens} tokens, {bytes_per_token} bytes each")]
    Memory {
        /// Tokens asked for.
        tokens: usize,
        /// Bytes of each.
        bytes_per_token: usize,
    },
    /// A batch that contradicts itself, the model or its cache: a defect of the caller.
    #[error("a batch that cannot be: {0}")]
    Batch(String),
    /// An embedding with elements that are no numbers, or all 0, or a score that is none: a defect of the weights.
    #[error("the model gives no finite embedding or score for this text: its weights are damaged")]
    NotFinite,
    /// An operator refused its input, which is a defect of this server, or the device failed.
    #[error("in the forward pass: {0}")]
    Compute(#[from] TensorError),
}
