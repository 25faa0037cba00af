//! Embeddings: from texts to vectors, by a version whose image is an encoder.

use rayon::prelude::*;

use super::backend::Prepared;
use super::command::Address;
use super::encode::Encoded;
use super::encoders::Wanted;
use super::{Gateway, GatewayError};
use crate::ids::VersionRef;
use crate::model::Encoder;

/// A text to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbedInput {
    /// Text, to be tokenized.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

/// What becomes of a text with more tokens than the model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LongText {
    /// The request is refused.
    #[default]
    Refuse,
    /// Its beginning counts.
    Cut,
}

/// Texts to embed.
#[derive(Debug, Clone)]
pub struct EmbedCommand {
    /// Which model, for whom.
    pub address: Address,
    /// The texts; at least one.
    pub inputs: Vec<EmbedInput>,
    /// Whether `inputs` came as a list, so that messages name an entry.
    pub listed: bool,
    /// What becomes of those that are too long.
    pub long: LongText,
    /// Take so many numbers of each vector, and make it of length 1 again.
    pub dimensions: Option<usize>,
}

/// The vectors of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Who made them.
    pub version: VersionRef,
    /// Names what decides them.
    pub fingerprint: String,
    /// One for each text, of length 1.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts.
    pub prompt_tokens: usize,
}

impl Gateway {
    /// Turns texts into vectors.
    pub async fn embed(&self, command: EmbedCommand) -> Result<Embeddings, GatewayError> {
        let address = command.address.clone();
        let job = move |encoder: &Encoder, wanted: &Wanted| vectors(encoder, &command, wanted);
        let Encoded { version, fingerprint, result: vectors, prompt_tokens } =
            self.encode(&address, Prepared::encoder, job).await?;
        Ok(Embeddings { version, fingerprint, vectors, prompt_tokens })
    }
}

/// The vectors, and how many tokens they took. All texts are looked at before the first is computed.
fn vectors(
    encoder: &Encoder,
    command: &EmbedCommand,
    wanted: &Wanted,
) -> Result<(Vec<Vec<f32>>, usize), GatewayError> {
    let dimensions = match command.dimensions {
        Some(asked) if asked > encoder.dimensions() => {
            let most = encoder.dimensions();
            let message = format!("`dimensions` is {asked}; this model's vectors have {most}");
            return Err(GatewayError::invalid("dimensions", message));
        }
        asked => asked.unwrap_or(encoder.dimensions()),
    };
    let texts = command.inputs.par_iter().enumerate().map(|(i, input)| {
        wanted.check()?;
        let param = if command.listed { format!("input[{i}]") } else { "input".to_owned() };
        tokens(encoder, input, command.long, &param)
    });
    let texts: Vec<Vec<u32>> = texts.collect::<Result<_, _>>()?;
    let count = texts.iter().map(Vec::len).sum();
    let vectors = texts.par_iter().map(|tokens| {
        wanted.check()?;
        let vector = encoder.embed_tokens(tokens);
        let vector = vector.map_err(|e| GatewayError::Internal { why: format!("embedding failed: {e}") })?;
        Ok(shortened(vector, dimensions))
    });
    Ok((vectors.collect::<Result<_, GatewayError>>()?, count))
}

fn tokens(
    encoder: &Encoder,
    input: &EmbedInput,
    long: LongText,
    param: &str,
) -> Result<Vec<u32>, GatewayError> {
    let unreadable = |e| GatewayError::invalid(param, format!("`{param}` cannot be tokenized: {e}"));
    let most = encoder.max_tokens();
    let tokens = match input {
        EmbedInput::Text(text) => encoder.tokens(text).map_err(unreadable)?,
        EmbedInput::Tokens(tokens) => {
            let vocab = encoder.vocab_size();
            if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab) {
                let message =
                    format!("`{param}` has the token {token}; this version's tokens are below {vocab}");
                return Err(GatewayError::invalid(param, message));
            }
            tokens.clone()
        }
    };
    match (input, long) {
        _ if tokens.is_empty() => Err(GatewayError::invalid(param, format!("`{param}` has no tokens"))),
        _ if tokens.len() <= most => Ok(tokens),
        (EmbedInput::Text(text), LongText::Cut) => encoder.cut_tokens(text).map_err(unreadable),
        (EmbedInput::Tokens(_), LongText::Cut) => Ok(tokens[..most].to_vec()),
        (_, LongText::Refuse) => {
            let count = tokens.len();
            let message = format!(
                "`{param}` has {count} tokens; this model reads {most}: shorten it, or let it be cut with \
                 `truncate_prompt_tokens`: -1"
            );
            Err(GatewayError::invalid(param, message))
        }
    }
}

/// The first numbers of a vector, of length 1 again.
fn shortened(mut vector: Vec<f32>, dimensions: usize) -> Vec<f32> {
    if dimensions < vector.len() {
        vector.truncate(dimensions);
        let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            for x in &mut vector {
                *x = (f64::from(*x) / length) as f32;
            }
        }
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_vector_is_of_length_one_again() {
        assert_eq!(shortened(vec![3.0, 4.0, 12.0], 2), [0.6, 0.8]);
        assert_eq!(shortened(vec![0.6, 0.8], 2), [0.6, 0.8]);
        assert_eq!(shortened(vec![0.0, 1.0], 1), [0.0]);
    }
}
