//! A model's tensors by name, out of safetensors files that stay mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::config::read_json;
use super::error::ModelError;
use super::pool::WeightPool;
use super::quantize::Recipe;
use crate::tensor::{Device, ElementType, MappedFile, Vector, Weight};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of one model. Each is taken once; what is left at the end has no place in the architecture.
pub(super) struct Checkpoint<'a> {
    /// The file, or the index over several: named when a tensor is in none.
    source: PathBuf,
    left: BTreeMap<String, Stored>,
    pool: &'a WeightPool,
    recipe: Recipe,
    progress: &'a dyn Fn(u64, u64),
    total: u64,
    done: u64,
    taken: Vec<Weight>,
    totals: Totals,
}

/// What was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) parameters: u64,
    pub(super) bytes: u64,
    /// Of `bytes`, those that other versions had loaded before.
    pub(super) shared_bytes: u64,
}

/// Where a tensor lies in a file.
#[derive(Clone)]
pub(super) struct Stored {
    path: PathBuf,
    file: MappedFile,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Stored {
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

    /// The tensor where it is mapped.
    pub(super) fn weight(self, name: &str) -> Result<Weight, ModelError> {
        let element = element(&self, name)?;
        let Self { path, file, shape, range, .. } = self;
        Weight::mapped(&file, range, element, &shape)
            .map_err(|e| ModelError::Weights { path, what: format!("tensor {name}: {e}") })
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl<'a> Checkpoint<'a> {
    /// Maps the weight files of `dir` and reads their headers.
    pub(super) fn open(
        dir: &Path,
        recipe: Recipe,
        pool: &'a WeightPool,
        progress: &'a dyn Fn(u64, u64),
    ) -> Result<Self, ModelError> {
        let index = dir.join(INDEX);
        let (source, left) = if index.exists() {
            let left = read_shards(dir, &index)?;
            (index, left)
        } else {
            let single = dir.join(SINGLE);
            let left = read_file(&single)?;
            (single, left)
        };
        let total = left.values().map(|stored| stored.range.len() as u64).sum();
        progress(0, total);
        let (taken, totals) = (Vec::new(), Totals::default());
        Ok(Self { source, left, pool, recipe, progress, total, done: 0, taken, totals })
    }

    /// The tensor `name`, which must have shape `expected`, in the host's memory.
    pub(super) fn take(&mut self, name: &str, expected: &[usize]) -> Result<Weight, ModelError> {
        let stored = self.find(name, expected)?;
        self.adopt(name, stored)
    }

    /// Where the tensor `name` lies, which nobody else takes from now on.
    fn find(&mut self, name: &str, expected: &[usize]) -> Result<Stored, ModelError> {
        let Some(stored) = self.left.remove(name) else {
            let (path, tensor) = (self.source.clone(), name.to_owned());
            return Err(ModelError::MissingTensor { path, tensor, expected: expected.to_vec() });
        };
        stored.of_shape(name, expected)
    }

    fn adopt(&mut self, name: &str, stored: Stored) -> Result<Weight, ModelError> {
        let stored_bytes = stored.range.len() as u64;
        let format = self.recipe.format(name, &stored.shape);
        let weight = stored.weight(name)?;
        let own = match format {
            Some(format) => weight.quantised(format).unwrap_or(weight),
            None => weight,
        };
        let bytes = own.bytes().len() as u64;
        // one that was quantised is read twice: what is told is of the file
        let read = |read: u64| (self.progress)(self.done + read.min(stored_bytes), self.total);
        let weight = self.pool.adopt(own.clone(), read);
        self.done += stored_bytes;
        self.totals.parameters += (weight.rows() * weight.cols()) as u64;
        self.totals.bytes += bytes;
        // two equal tensors of this very model are held once, too, but no other version brought them
        if !weight.is(&own) && !self.taken.iter().any(|taken| taken.is(&weight)) {
            self.totals.shared_bytes += bytes;
        }
        self.taken.push(weight.clone());
        Ok(weight)
    }

    /// The tensor `name`, which must have `len` elements: a gain or a bias.
    pub(super) fn take_vector(&mut self, name: &str, len: usize) -> Result<Vector, ModelError> {
        self.take_vector_plus(name, len, 0.0)
    }

    /// The tensor `name`, which must have `len` elements, with `offset` added to each.
    pub(super) fn take_vector_plus(
        &mut self,
        name: &str,
        len: usize,
        offset: f32,
    ) -> Result<Vector, ModelError> {
        let weight = self.take(name, &[len])?;
        Ok(Vector::plus(&weight, offset, &Device::CPU)?)
    }

    /// The tensor `name`, which holds several matrices of `cols` columns, one below the other: each is a weight of its own.
    pub(super) fn take_stacked<const N: usize>(
        &mut self,
        name: &str,
        rows: [usize; N],
        cols: usize,
    ) -> Result<[Weight; N], ModelError> {
        let all: usize = rows.iter().sum();
        let stored = self.find(name, &[all, cols])?.stacked(&rows, cols);
        let parts = stored.into_iter().map(|part| self.adopt(name, part)).collect::<Result<Vec<_>, _>>()?;
        Ok(std::array::from_fn(|i| parts[i].clone()))
    }

    /// Leaves out a tensor that checkpoints carry and the architecture does not read.
    pub(super) fn leave_out(&mut self, unread: impl Fn(&str) -> bool) {
        self.left.retain(|name, _| !unread(name));
    }

    /// What was taken; tensors that nothing took are refused.
    pub(super) fn finish(self) -> Result<(Totals, Vec<Weight>), ModelError> {
        if let Some((tensor, stored)) = self.left.into_iter().next() {
            return Err(ModelError::UnknownTensor { path: stored.path, tensor });
        }
        (self.progress)(self.total, self.total);
        Ok((self.totals, self.taken))
    }
}

/// Bytes of the tensors of the weight files of `dir` once they are loaded, but for those that are `unread`, and the element
/// type of tensor `name` as it is stored; told by their headers.
pub(super) fn footprint(
    dir: &Path,
    recipe: Recipe,
    name: &str,
    unread: impl Fn(&str) -> bool,
) -> Result<(u64, ElementType), ModelError> {
    let index = dir.join(INDEX);
    let source = if index.exists() { index.clone() } else { dir.join(SINGLE) };
    let all = if index.exists() { read_shards(dir, &index)? } else { read_file(&source)? };
    let held = |tensor: &String, stored: &Stored| {
        let format = recipe.format(tensor, &stored.shape);
        let blocks =
            format.and_then(|format| Some(format.row_bytes(*stored.shape.last()?)? * stored.shape[0]));
        blocks.unwrap_or(stored.range.len()) as u64
    };
    let read = all.iter().filter(|(tensor, _)| !unread(tensor));
    let bytes = read.map(|(tensor, stored)| held(tensor, stored)).sum();
    match all.get(name) {
        Some(stored) => Ok((bytes, element(stored, name)?)),
        None => {
            Err(ModelError::MissingTensor { path: source, tensor: name.to_owned(), expected: Vec::new() })
        }
    }
}

fn element(stored: &Stored, tensor: &str) -> Result<ElementType, ModelError> {
    match stored.dtype {
        Dtype::BF16 => Ok(ElementType::Bf16),
        Dtype::F16 => Ok(ElementType::F16),
        Dtype::F32 => Ok(ElementType::F32),
        other => Err(ModelError::TensorType {
            path: stored.path.clone(),
            tensor: tensor.to_owned(),
            found: format!("{other:?}"),
        }),
    }
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
pub(super) fn read_file(path: &Path) -> Result<BTreeMap<String, Stored>, ModelError> {
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
                dtype: info.dtype,
                shape: info.shape.clone(),
                range,
            },
        )
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| stored(name, info)).collect())
}
