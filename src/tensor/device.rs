//! Where tensors lie and operators compute.

/// Where tensors lie and operators compute. Clones are the same device.
#[derive(Debug, Clone, Default)]
pub enum Device {
    /// The host's processor, in its memory.
    #[default]
    Cpu,
}
