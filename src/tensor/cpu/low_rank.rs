//! What adapters add to the rows of a linear layer.

use super::isa::Level;
use super::linear::linear_alone;
use super::team;
use crate::tensor::weight::Weight;

/// Rows of one adapter, and what they get of it.
pub(in crate::tensor) struct LowRankTask<'a> {
    /// `[rows, in]`
    pub(in crate::tensor) x: &'a [f32],
    /// `[rows, out]`, which is added to.
    pub(in crate::tensor) y: &'a mut [f32],
    /// `[rank, in]`
    pub(in crate::tensor) down: &'a Weight,
    /// `[out, rank]`
    pub(in crate::tensor) up: &'a Weight,
    pub(in crate::tensor) scale: f32,
}

/// Each task on one thread: its products are small, and there is one for each adapter.
pub(in crate::tensor) fn add_low_rank(level: Level, tasks: Vec<LowRankTask<'_>>) {
    team::consume(tasks, |task| task.run(level));
}

impl LowRankTask<'_> {
    fn run(self, level: Level) {
        let Self { x, y, down, up, scale } = self;
        let mut between = vec![0.0; x.len() / down.cols() * down.rows()]; // [rows, rank]
        linear_alone(level, x, down, &mut between);
        for h in &mut between {
            *h *= scale;
        }
        let mut added = vec![0.0; y.len()];
        linear_alone(level, &between, up, &mut added);
        y.iter_mut().zip(added).for_each(|(y, added)| *y += added);
    }
}
