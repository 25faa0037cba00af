//! `similar` and its opposite: the answer means what a reference says, as far as an embedding model can tell.

use super::checks::{Check, CheckBroken, Finding};
use super::compile::Fault;
use super::embedding::{Embedder, Embedding};
use super::response::Subject;
use super::verdict::{Judgement, shown};
use crate::config::{Cosine, Expect};

/// What rounding may take from the cosine of a text with itself: a threshold of 1 can be met.
const ROUNDING: f64 = 1e-6;

/// The answer is as near to the nearest reference as it should be, or not.
pub(super) struct Similar {
    references: Vec<(String, Embedding)>,
    threshold: Cosine,
    expect: Expect,
    embedder: Embedder,
}

impl Similar {
    pub(super) fn new(
        references: &[String],
        threshold: Cosine,
        expect: Expect,
        embedder: Option<&Embedder>,
    ) -> Result<Self, Fault> {
        let Some(embedder) = embedder else {
            return Err(Fault {
                field: "type",
                found: "there is no embedding model".to_owned(),
                fix: "configure one at the top level: `embedding: { image: .., digest: .. }`".to_owned(),
            });
        };
        let embedded = |text: &String| match embedder.embed(text) {
            Ok(embedding) => Ok((text.clone(), embedding)),
            Err(why) => Err(Fault {
                field: "value",
                found: format!("{} cannot be embedded: {why}", shown(text)),
                fix: "write another text, or configure another `embedding`".to_owned(),
            }),
        };
        let references = references.iter().map(embedded).collect::<Result<_, _>>()?;
        Ok(Self { references, threshold, expect, embedder: embedder.clone() })
    }

    /// The nearest reference and its cosine.
    fn nearest(&self, answer: &Embedding) -> Option<(&str, f64)> {
        let cosines =
            self.references.iter().map(|(text, reference)| (text.as_str(), reference.cosine(answer)));
        cosines.max_by(|(_, a), (_, b)| a.total_cmp(b))
    }
}

impl Check for Similar {
    fn judge(&self, subject: &Subject<'_>) -> Finding {
        let answer = subject.embedding(&self.embedder);
        let answer = answer.map_err(|why| CheckBroken::Embedding(why.to_owned()))?;
        // Without a reference nothing is similar; the config has at least one.
        let Some((reference, cosine)) = self.nearest(answer) else {
            return Ok(Judgement::of(self.expect == Expect::NoMatch, "there is no reference"));
        };
        let threshold = self.threshold.get();
        let similar = cosine + ROUNDING >= threshold;
        let reason = format!(
            "cosine {cosine:.4} with {}, threshold {threshold}: {}",
            shown(reference),
            shown(subject.text())
        );
        Ok(Judgement::of(similar == (self.expect == Expect::Match), reason))
    }
}
