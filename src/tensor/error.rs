//! What can go wrong with an operator.

/// What can go wrong with an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// Shapes that do not go together: a bug of the caller.
    #[error("{operator}: {what}")]
    Shape {
        /// The operator.
        operator: &'static str,
        /// What does not fit.
        what: String,
    },
    /// The device has no memory for it.
    #[error("{device} has no room for {bytes} bytes more")]
    Memory {
        /// The device.
        device: String,
        /// How many were asked for.
        bytes: usize,
    },
    /// The device's driver or one of its libraries refused.
    #[error("{device}: {what}")]
    Device {
        /// The device.
        device: String,
        /// What it said.
        what: String,
    },
}

impl TensorError {
    pub(super) fn shape(operator: &'static str, what: impl Into<String>) -> Self {
        Self::Shape { operator, what: what.into() }
    }
}

/// Tensors of one operator that lie on different devices: a bug of the caller.
pub(super) fn elsewhere(operator: &'static str) -> TensorError {
    TensorError::shape(operator, "its tensors lie on different devices")
}

pub(super) type Result<T> = std::result::Result<T, TensorError>;
