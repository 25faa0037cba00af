//! A model's tensors taken one by one: quantised where they are to be, and shared where another version has them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::ModelError;
use super::pool::WeightPool;
use super::quantize::Recipe;
use super::tensors::{Stored, Tensors};
use crate::tensor::{Device, ElementType, Encoding, Vector, Weight};

/// The tensors of one model. Each is taken once; what is left at the end has no place in the architecture.
pub(super) struct Checkpoint<'a> {
    /// The file, or the index over several: named when a tensor is in none.
    source: PathBuf,
    left: BTreeMap<String, Stored>,
    pool: &'a WeightPool,
    recipe: Recipe,
    /// In which a GPU keeps activations: gains and biases give that, and plain matrices are multiplied with it. None of a model
    /// that is computed on the host, whatever the device.
    activations: Option<ElementType>,
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

impl<'a> Checkpoint<'a> {
    /// What lies there, none of it taken yet.
    pub(super) fn new(
        tensors: Tensors,
        recipe: Recipe,
        activations: Option<ElementType>,
        pool: &'a WeightPool,
        progress: &'a dyn Fn(u64, u64),
    ) -> Result<Self, ModelError> {
        recipe.check(&tensors)?;
        let Tensors { source, all: left } = tensors;
        let total = left.values().map(|stored| stored.range.len() as u64).sum();
        progress(0, total);
        let (taken, totals) = (Vec::new(), Totals::default());
        Ok(Self { source, left, pool, recipe, activations, progress, total, done: 0, taken, totals })
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
        let weight = stored.weight(name)?;
        let stored_bytes = stored.range.len() as u64;
        let own = match self.recipe.format(name, &stored.shape) {
            Some(format) => weight.quantised(format).unwrap_or(weight),
            None => weight,
        };
        let own = self.multiplied(own);
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

    /// The weight as it is multiplied: on a GPU, a plain matrix has the type of the activations. Routers of GGUF files, for
    /// one, are f32 whatever the other matrices are.
    fn multiplied(&self, weight: Weight) -> Weight {
        let is_plain = matches!(weight.encoding(), Encoding::Plain(_));
        match self.activations.filter(|_| is_plain && weight.rows() > 1 && !self.pool.device().is_host()) {
            Some(activations) => weight.rounded_to(activations),
            None => weight,
        }
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
        if let Encoding::Blocks(format) = weight.encoding() {
            let (path, tensor) = (self.source.clone(), name.to_owned());
            return Err(ModelError::TensorType { path, tensor, found: format.to_string() });
        }
        let vector = Vector::plus(&weight, offset, &Device::CPU)?;
        Ok(match self.activations {
            Some(activations) => vector.computed_in(activations),
            None => vector,
        })
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

/// Bytes of tensors once they are loaded, but for those that are `unread`.
pub(super) fn footprint(
    tensors: &Tensors,
    recipe: Recipe,
    unread: impl Fn(&str) -> bool,
) -> Result<u64, ModelError> {
    recipe.check(tensors)?;
    let held = |tensor: &String, stored: &Stored| {
        let format = recipe.format(tensor, &stored.shape);
        let blocks =
            format.and_then(|format| Some(format.row_bytes(*stored.shape.last()?)? * stored.shape[0]));
        blocks.unwrap_or(stored.range.len()) as u64
    };
    let read = tensors.all.iter().filter(|(tensor, _)| !unread(tensor));
    Ok(read.map(|(tensor, stored)| held(tensor, stored)).sum())
}
