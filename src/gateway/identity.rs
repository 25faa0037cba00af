//! What a version is: all that decides its answers, in one digest.

use sha2::{Digest as _, Sha256};

use crate::ids::{Digest, Quantize};

/// All that decides a version's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// Its weights, tokenizer and chat template.
    pub(super) image: Digest,
    /// What becomes of the weights.
    pub(super) quantize: Quantize,
    /// The adapter that its requests go through, if it has one.
    pub(super) adapter: Option<Digest>,
    /// Its prompt file, if it has one.
    pub(super) prompt: Option<Digest>,
}

impl Identity {
    /// That of the image, where nothing comes to it; else the sha256 of
    ///
    /// ```text
    /// switchback-version-v1
    /// image <64 hex digits>
    /// quantize <its word>
    /// adapter <64 hex digits>
    /// prompt <64 hex digits>
    /// ```
    ///
    /// each line ended by a line feed, and all but the first two only where there is such a thing.
    pub(super) fn digest(&self) -> Digest {
        let quantize = match self.quantize {
            Quantize::AsStored => None,
            quantize @ (Quantize::Q8_0 | Quantize::Q4KM) => Some(format!("quantize {quantize}\n")),
        };
        let adapter = self.adapter.map(|adapter| format!("adapter {}\n", adapter.hex()));
        let prompt = self.prompt.map(|prompt| format!("prompt {}\n", prompt.hex()));
        if quantize.is_none() && adapter.is_none() && prompt.is_none() {
            return self.image;
        }
        let image = format!("switchback-version-v1\nimage {}\n", self.image.hex());
        let lines = [Some(image), quantize, adapter, prompt].into_iter().flatten().collect::<String>();
        Digest::from_bytes(Sha256::digest(lines).into())
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn whatever_decides_an_answer_changes_the_digest() {
        let [a, b] = [1, 2].map(|byte| Digest::from_bytes([byte; 32]));
        let bare = Identity { image: a, quantize: Quantize::AsStored, adapter: None, prompt: None };
        assert_eq!(bare.digest(), a);
        let prompted = Identity { prompt: Some(b), ..bare };
        assert_snapshot!(prompted.digest(), @"sha256:e87665ab9642c5783d2786f3f1ed244ab9fdba3c6ce26e6f7f2f5097d0e70246");
        let all = [
            bare,
            prompted,
            Identity { image: b, prompt: Some(a), ..bare },
            Identity { adapter: Some(b), ..bare },
            Identity { adapter: Some(a), prompt: Some(b), ..bare },
            Identity { quantize: Quantize::Q8_0, ..bare },
            Identity { quantize: Quantize::Q4KM, ..bare },
            Identity { quantize: Quantize::Q8_0, ..prompted },
        ];
        let digests: std::collections::BTreeSet<String> =
            all.iter().map(|identity| identity.digest().to_string()).collect();
        assert_eq!(digests.len(), all.len());
    }
}
