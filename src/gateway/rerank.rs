//! Reranking: how well texts answer a query, by a version whose image is a cross-encoder.

use rayon::prelude::*;

use super::backend::Prepared;
use super::command::Address;
use super::embed::LongText;
use super::encode::Encoded;
use super::encoders::Wanted;
use super::{Gateway, GatewayError};
use crate::ids::VersionRef;
use crate::model::{CrossEncoder, PairTokens};

/// Texts to be put in order.
#[derive(Debug, Clone)]
pub struct RerankCommand {
    /// Which model, for whom.
    pub address: Address,
    /// What the texts are to answer.
    pub query: String,
    /// The texts; at least one.
    pub documents: Vec<String>,
    /// What becomes of a pair of query and text that is too long.
    pub long: LongText,
}

/// How well each text answers the query.
#[derive(Debug, Clone, PartialEq)]
pub struct Reranked {
    /// Who tells it.
    pub version: VersionRef,
    /// Names what decides it.
    pub fingerprint: String,
    /// The texts by their places in the request, the best first, each with its score from 0 to 1. Of equal ones, the first
    /// comes first.
    pub ranking: Vec<(usize, f32)>,
    /// Tokens of all pairs.
    pub prompt_tokens: usize,
}

impl Gateway {
    /// Puts texts in the order of how well they answer a query.
    pub async fn rerank(&self, command: RerankCommand) -> Result<Reranked, GatewayError> {
        let address = command.address.clone();
        let job = move |model: &CrossEncoder, wanted: &Wanted| scores(model, &command, wanted);
        let Encoded { version, fingerprint, result: scores, prompt_tokens } =
            self.encode(&address, Prepared::cross_encoder, job).await?;
        let mut ranking: Vec<(usize, f32)> = scores.into_iter().enumerate().collect();
        ranking.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        Ok(Reranked { version, fingerprint, ranking, prompt_tokens })
    }
}

/// The score of each text, and how many tokens they took. All pairs are looked at before the first is computed.
fn scores(
    model: &CrossEncoder,
    command: &RerankCommand,
    wanted: &Wanted,
) -> Result<(Vec<f32>, usize), GatewayError> {
    fits(model, command)?;
    let pairs = command.documents.par_iter().enumerate().map(|(i, document)| {
        wanted.check()?;
        tokens(model, &command.query, document, command.long, i)
    });
    let pairs: Vec<PairTokens> = pairs.collect::<Result<_, _>>()?;
    let count = pairs.iter().map(|pair| pair.ids.len()).sum();
    let scores = pairs.par_iter().map(|pair| {
        wanted.check()?;
        model.score(pair).map_err(|e| GatewayError::Internal { why: format!("reranking failed: {e}") })
    });
    Ok((scores.collect::<Result<_, GatewayError>>()?, count))
}

/// Refuses a query that leaves no room for any text, before it is tokenized with each of them.
fn fits(model: &CrossEncoder, command: &RerankCommand) -> Result<(), GatewayError> {
    let refused = |message: String| Err(GatewayError::invalid("query", message));
    let count = match model.tokens(&command.query, "") {
        Ok(alone) => alone.ids.len(),
        Err(error) => return refused(format!("`query` cannot be tokenized: {error}")),
    };
    let most = model.max_tokens();
    if command.long == LongText::Cut || count <= most {
        return Ok(());
    }
    refused(format!(
        "`query` has {count} tokens; this model reads {most} together with a document: shorten it, or let it be cut with \
         `truncate_prompt_tokens`: -1"
    ))
}

fn tokens(
    model: &CrossEncoder,
    query: &str,
    document: &str,
    long: LongText,
    i: usize,
) -> Result<PairTokens, GatewayError> {
    let param = format!("documents[{i}]");
    let unreadable = |e| GatewayError::invalid(&param, format!("`{param}` cannot be tokenized: {e}"));
    let pair = model.tokens(query, document).map_err(unreadable)?;
    let most = model.max_tokens();
    match long {
        _ if pair.ids.is_empty() => {
            Err(GatewayError::invalid(&param, format!("`{param}` and `query` have no tokens")))
        }
        _ if pair.ids.len() <= most => Ok(pair),
        LongText::Cut => model.cut_tokens(query, document).map_err(unreadable),
        LongText::Refuse => {
            let count = pair.ids.len();
            let message = format!(
                "`{param}` has {count} tokens together with `query`; this model reads {most}: shorten it, or let it be \
                 cut with `truncate_prompt_tokens`: -1"
            );
            Err(GatewayError::invalid(&param, message))
        }
    }
}
