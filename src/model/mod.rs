//! model
/// x
#[derive(Debug, Clone, Default)]
pub struct SpecialTokenText {
    /// x
    pub bos: Option<String>,
    /// x
    pub eos: Option<String>,
}
