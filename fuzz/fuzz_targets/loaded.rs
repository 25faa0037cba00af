//! What is done with a model that loads after all, whatever it was loaded from.

use switchback::model::{Batch, KvGeometry, LoadedModel, Span};
use switchback::prompt::ChatTemplate;

/// Computes one token and compiles the chat template.
pub fn compute(model: LoadedModel) {
    let mut lm = model.lm().expect("the host has room for what it mapped");
    lm.allocate_kv(KvGeometry { blocks: 1, block_size: 4 }).expect("four tokens fit into any memory");
    let batch = Batch {
        tokens: vec![0],
        positions: vec![0],
        slots: vec![0],
        spans: vec![Span { rows: 0..1, context_len: 1, block_table: vec![0], adapter: None }],
        logit_rows: vec![0],
    };
    let logits = lm.forward(&batch).expect("a model that loads computes");
    assert_eq!(logits.row(0).unwrap().len(), model.info.vocab_size);
    if let Some(sources) = model.chat_templates {
        let _ = ChatTemplate::compile_all(&sources, &model.special);
    }
}
