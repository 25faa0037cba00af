//! Where a model's tensors lie: by name, in files that stay mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::config::read_json;
use super::error::ModelError;
use crate::tensor::{ElementType, Encoding, MappedFile, Weight};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Of all tensors of a model where each lies.
pub(super) struct Tensors {
    /// The file, or the index over several: named when a tensor is in none.
    pub(super) source: PathBuf,
    pub(super) all: BTreeMap<String, Stored>,
}

/// Where a tensor lies, and how.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) path: PathBuf,
    pub(super) file: MappedFile,
    /// Or the name of a type that no kernel reads.
    pub(super) encoding: Result<Encoding, String>,
    pub(super) shape: Vec<usize>,
    pub(super) range: Range<usize>,
    pub(super) rows: RowOrder,
}

/// The order of a matrix's rows in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As it is computed with.
    AsComputed,
    /// Of each of so many heads, a row of its first half and one of its second take turns: where pairs that turn together
    /// are neighbours. They are computed with the first half before the second.
    Alternating { heads: usize },
}

impl Tensors {
    /// Whether a folder has weights in safetensors files.
    pub(super) fn are_in(folder: &Path) -> bool {
        folder.join(SINGLE).exists() || folder.join(INDEX).exists()
    }

    /// Maps the weight files of a folder in Hugging Face layout, and reads their headers.
    pub(super) fn in_folder(folder: &Path) -> Result<Self, ModelError> {
        let index = folder.join(INDEX);
        if index.exists() {
            let all = read_shards(folder, &index)?;
            return Ok(Self { source: index, all });
        }
        Self::of_file(folder.join(SINGLE))
    }

    /// Maps one safetensors file, and reads its header.
    pub(super) fn of_file(source: PathBuf) -> Result<Self, ModelError> {
        let all = read_file(&source)?;
        Ok(Self { source, all })
    }

    /// The type in which a GPU keeps activations: that of the numbers of matrix `name`, in which gains and biases are often
    /// not stored.
    pub(super) fn activations(&self, name: &str) -> Result<ElementType, ModelError> {
        let Some(stored) = self.all.get(name) else {
            let (path, tensor) = (self.source.clone(), name.to_owned());
            return Err(ModelError::MissingTensor { path, tensor, expected: Vec::new() });
        };
        Ok(stored.encoding(name)?.element())
    }
}

impl Stored {
    /// How its numbers are stored; an error for a tensor that no kernel reads.
    pub(super) fn encoding(&self, name: &str) -> Result<Encoding, ModelError> {
        self.encoding.clone().map_err(|found| ModelError::TensorType {
            path: self.path.clone(),
            tensor: name.to_owned(),
            found,
        })
    }

    /// Refuses another shape.
    pub(super) fn of_shape(self, name: &str, expected: &[usize]) -> Result<Self, ModelError> {
        if self.shape == expected {
            return Ok(self);
        }
        let (tensor, expected) = (name.to_owned(), expected.to_vec());
        Err(ModelError::TensorShape { path: self.path, tensor, expected, found: self.shape })
    }

    /// Of a matrix of `cols` columns, those of so many rows each that lie in it one below the other: all of its rows.
    pub(super) fn stacked(self, rows: &[usize], cols: usize) -> Vec<Self> {
        let row_bytes = self.range.len() / rows.iter().sum::<usize>().max(1);
        let mut start = self.range.start;
        let part = |rows: &usize| {
            let range = start..start + rows * row_bytes;
            start = range.end;
            Self { shape: vec![*rows, cols], range, ..self.clone() }
        };
        rows.iter().map(part).collect()
    }

    /// Its numbers where they lie, or a copy of them in the order in which they are computed with.
    pub(super) fn weight(&self, name: &str) -> Result<Weight, ModelError> {
        let encoding = self.encoding(name)?;
        let weight = match self.rows {
            RowOrder::AsComputed => Weight::mapped(&self.file, self.range.clone(), encoding, &self.shape),
            RowOrder::Alternating { heads } => {
                let rows = &self.file.bytes()[self.range.clone()];
                Weight::owned(halves_in_turn(rows, self.shape[0], heads), encoding, &self.shape)
            }
        };
        weight.map_err(|e| {
            let what = format!("tensor {name}: {e}");
            ModelError::Weights { path: self.path.clone(), what }
        })
    }
}

/// `count` rows of `heads` heads, of each the first half before the second, where the file has a row of each by turns.
fn halves_in_turn(bytes: &[u8], count: usize, heads: usize) -> Vec<u8> {
    let (row, half) = (bytes.len() / count, count / heads / 2);
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(2 * half * row) {
        for part in 0..2 {
            for i in 0..half {
                out.extend_from_slice(&head[(2 * i + part) * row..][..row]);
            }
        }
    }
    out
}

fn encoding(dtype: Dtype) -> Result<Encoding, String> {
    match dtype {
        Dtype::BF16 => Ok(ElementType::Bf16.into()),
        Dtype::F16 => Ok(ElementType::F16.into()),
        Dtype::F32 => Ok(ElementType::F32.into()),
        other => Err(format!("{other:?}")),
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The tensors of the files that an index names, each where the index says.
fn read_shards(dir: &Path, index: &Path) -> Result<BTreeMap<String, Stored>, ModelError> {
    let Index { weight_map } = read_json(index)?;
    let wrong = |what: String| ModelError::Weights { path: index.into(), what };
    let names: BTreeSet<&String> = weight_map.values().collect();
    let mut all = BTreeMap::new();
    for name in names {
        // an image is a folder: its index may not reach out of it
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(wrong(format!("weight_map names {name:?}, which is not a file of this folder")));
        }
        for (tensor, stored) in read_file(&dir.join(name))? {
            match weight_map.get(&tensor) {
                Some(at) if at == name => all.insert(tensor, stored),
                Some(at) => return Err(wrong(format!("tensor {tensor} should be in {at} and is in {name}"))),
                None => return Err(wrong(format!("tensor {tensor} of {name} is not in weight_map"))),
            };
        }
    }
    match weight_map.iter().find(|(tensor, _)| !all.contains_key(*tensor)) {
        Some((tensor, at)) => Err(wrong(format!("tensor {tensor} should be in {at} and is not"))),
        None => Ok(all),
    }
}

/// The tensors of one file. The header is checked against the file's length, so that no tensor reaches past it.
fn read_file(path: &Path) -> Result<BTreeMap<String, Stored>, ModelError> {
    let file = MappedFile::open(path).map_err(|source| ModelError::Read { path: path.into(), source })?;
    let wrong = |what: String| ModelError::Weights { path: path.into(), what };
    let length = file.bytes().len();
    let (header, metadata) = SafeTensors::read_metadata(file.bytes()).map_err(|e| {
        wrong(match e {
            SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => {
                format!("its {length} bytes end before its header does: it is cut short, or no safetensors file")
            }
            SafeTensorError::HeaderTooLarge => "its header's length cannot be: it is no safetensors file".into(),
            SafeTensorError::MetadataIncompleteBuffer => {
                format!("its header describes another length than the file's {length} bytes: it is cut short or corrupt")
            }
            other => format!("{other}: it is corrupt, or no safetensors file"),
        })
    })?;
    let data = header + size_of::<u64>();
    let stored = |name: String, info: &safetensors::tensor::TensorInfo| {
        let (start, end) = info.data_offsets;
        let range = data + start..data + end;
        (
            name,
            Stored {
                path: path.into(),
                file: file.clone(),
                encoding: encoding(info.dtype),
                shape: info.shape.clone(),
                range,
                rows: RowOrder::AsComputed,
            },
        )
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| stored(name, info)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_that_took_turns_come_one_after_the_other() {
        // two heads of four rows of two bytes
        let file: Vec<u8> =
            [0, 2, 1, 3, 10, 12, 11, 13].into_iter().flat_map(|row| [row, 100 + row]).collect();
        let rows: Vec<u8> = halves_in_turn(&file, 8, 2).chunks(2).map(|row| row[0]).collect();
        assert_eq!(rows, [0, 1, 2, 3, 10, 11, 12, 13]);
    }
}
