//! Greedy answers of a network in training, scored; the served figure is `switchback bench demo`'s.

use std::fmt;

use candle_core::{Device, Result, Tensor};
use switchback::demo::{Case, score};

use crate::network::{Network, next_tokens};
use crate::text::{Opening, Text};
use crate::trainer::PAD;

/// How many of the cases were what.
#[derive(Default)]
pub(crate) struct Found {
    cases: usize,
    correct: usize,
    valid_json: usize,
    refused: usize,
    example: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |n: usize| 100.0 * n as f64 / self.cases.max(1) as f64;
        write!(
            f,
            "{} cases: accuracy {:.1} %, valid JSON {:.1} %, refusal {:.1} %; such as {}",
            self.cases,
            percent(self.correct),
            percent(self.valid_json),
            percent(self.refused),
            self.example
        )
    }
}

const LONGEST_ANSWER: usize = 120;

pub(crate) fn evaluate(network: &Network, text: &Text, cases: &[Case]) -> Result<Found> {
    let mut found = Found::default();
    for chunk in cases.chunks(50) {
        let mut rows = chunk.iter().map(|c| text.prompt(c, Opening::System)).collect::<Result<Vec<_>>>()?;
        let starts: Vec<usize> = rows.iter().map(Vec::len).collect();
        let mut open: Vec<usize> = (0..rows.len()).collect();
        for _ in 0..LONGEST_ANSWER {
            let width = open.iter().map(|i| rows[*i].len()).max().unwrap_or(0);
            let mut tokens = Vec::with_capacity(open.len() * width);
            for row in open.iter().map(|i| &rows[*i]) {
                tokens.extend_from_slice(row);
                tokens.extend(std::iter::repeat_n(PAD, width - row.len()));
            }
            let last: Vec<usize> = open.iter().map(|i| rows[*i].len() - 1).collect();
            let tokens = Tensor::from_vec(tokens, (open.len(), width), &Device::Cpu)?;
            let next = next_tokens(network, &tokens, &last)?;
            open.iter().zip(&next).for_each(|(i, token)| rows[*i].push(*token));
            open.retain(|i| rows[*i].last() != Some(&text.end));
            if open.is_empty() {
                break;
            }
        }
        for ((case, row), start) in chunk.iter().zip(&rows).zip(starts) {
            let answer = text.decode(&row[start..])?;
            let score = score(&answer, case);
            found.cases += 1;
            found.correct += usize::from(score.correct);
            found.valid_json += usize::from(score.valid_json);
            found.refused += usize::from(score.refused);
            if found.example.is_empty() {
                found.example = format!("{:?} -> {answer}", case.message);
            }
        }
    }
    Ok(found)
}
