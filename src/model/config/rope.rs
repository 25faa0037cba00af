//! `rope_scaling`, and `rope_parameters` as `transformers` 5 writes the same.

use serde::Deserialize;

use super::family::{Family, Ropes};
use super::raw::Raw;
use crate::model::rope::{Ramp, Rope, RopeScaling};

#[derive(Deserialize, Default, Clone)]
pub(super) struct RawRope {
    rope_type: Option<String>,
    /// The older name of `rope_type`; many files have both.
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f32>,
    factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    attention_factor: Option<f32>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
    mscale: Option<f32>,
    mscale_all_dim: Option<f32>,
    truncate: Option<bool>,
    short_factor: Option<Vec<f32>>,
    long_factor: Option<Vec<f32>>,
    /// Those of layers without and with a window.
    full_attention: Option<Box<RawRope>>,
    sliding_attention: Option<Box<RawRope>>,
}

/// One rope of a file: where it lies there, and what it needs to know of the rest.
struct Section<'a> {
    key: String,
    raw: &'a RawRope,
    theta: f64,
    head_dim: u32,
    positions: u32,
    /// Of the first training.
    original: f32,
}

impl Raw {
    /// The ropes of a model: one, or that of layers without a window and that of those with one.
    pub(super) fn ropes(&self, family: &Family, head_dim: u32, positions: u32) -> Result<Vec<Rope>, String> {
        let absent = RawRope::default();
        let (key, raw) = match (&self.rope_parameters, &self.rope_scaling) {
            (Some(raw), _) => ("rope_parameters", raw),
            (None, Some(raw)) => ("rope_scaling", raw),
            (None, None) => ("rope_scaling", &absent),
        };
        let section = |key: String, raw, theta| {
            let original = self.original_positions(family, raw, positions);
            Section { key, raw, theta, head_dim, positions, original }
        };
        let global = self.rope_theta.unwrap_or(family.absent.theta);
        let nested = [("full_attention", &raw.full_attention), ("sliding_attention", &raw.sliding_attention)];
        let Ropes::ByWindow { local_theta } = family.ropes else {
            if let Some((name, _)) = nested.iter().find(|(_, nested)| nested.is_some()) {
                let architecture = family.architecture;
                return Err(format!("{key}.{name}: {architecture} has one rope for layers of both kinds"));
            }
            return Ok(vec![section(key.to_owned(), raw, global).check(self, family)?]);
        };
        let local = self.rope_local_base_freq.unwrap_or(local_theta);
        let of = |i: usize, plain, theta| {
            let (name, nested) = nested[i];
            match nested {
                Some(raw) => section(format!("{key}.{name}"), raw, theta),
                None => section(key.to_owned(), plain, theta),
            }
        };
        // what is not said of one kind alone is said of layers without a window
        Ok(vec![of(0, raw, global).check(self, family)?, of(1, &absent, local).check(self, family)?])
    }

    /// How long contexts were before they were stretched. Where a family has a key of its own for it, that one counts.
    fn original_positions(&self, family: &Family, raw: &RawRope, positions: u32) -> f32 {
        let own = self.original_max_position_embeddings;
        let family_key = family.absent.original_positions.map(|absent| own.unwrap_or(absent));
        family_key.or(raw.original_max_position_embeddings).or(own).unwrap_or(positions as f32)
    }
}

impl Section<'_> {
    fn check(&self, file: &Raw, family: &Family) -> Result<Rope, String> {
        let theta = self.raw.rope_theta.unwrap_or(self.theta);
        if !(theta.is_finite() && theta > 0.0) {
            return Err(format!("rope_theta: {theta} is not usable"));
        }
        let part = self.raw.partial_rotary_factor.or(file.partial_rotary_factor).unwrap_or(1.0);
        let turned = (self.head_dim as f32 * part) as usize;
        if family.ropes != Ropes::Long && (part - 1.0).abs() > f32::EPSILON {
            return Err(format!(
                "partial_rotary_factor: {part}: heads of {} turn whole: 1",
                family.architecture
            ));
        }
        if !(part > 0.0 && part <= 1.0 && turned >= 2 && turned.is_multiple_of(2)) {
            return Err(format!(
                "partial_rotary_factor: {part} of head_dim, {}, is not a whole number of pairs",
                self.head_dim
            ));
        }
        let scaling = match (self.rope_type()?, family.ropes) {
            ("default", _) => RopeScaling::None,
            // its older names
            ("longrope", _) | ("su" | "yarn", Ropes::Long) => self.longrope(turned)?,
            ("linear", _) => RopeScaling::Linear { factor: self.need("factor", self.raw.factor)? },
            ("llama3", _) => self.llama3()?,
            ("yarn", _) => self.yarn()?,
            (other, _) => {
                return Err(format!(
                    "{}.rope_type: {other:?} is not supported: default, linear, llama3, yarn or longrope",
                    self.key
                ));
            }
        };
        Ok(Rope { theta, turned, scaling })
    }

    /// The kind of scaling, under either name.
    fn rope_type(&self) -> Result<&str, String> {
        let key = &self.key;
        match (self.raw.rope_type.as_deref(), self.raw.kind.as_deref()) {
            (Some(new), Some(old)) if new != old => Err(format!(
                "{key}.rope_type: {new:?}, and {key}.type, its older name, says {old:?}: leave one of them out"
            )),
            (new, old) => Ok(new.or(old).unwrap_or("default")),
        }
    }

    fn need(&self, field: &str, value: Option<f32>) -> Result<f32, String> {
        match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => Err(format!("{}.{field}: {value} is not usable", self.key)),
            None => Err(format!("{}.{field}: missing", self.key)),
        }
    }

    fn llama3(&self) -> Result<RopeScaling, String> {
        let low_freq_factor = self.need("low_freq_factor", self.raw.low_freq_factor)?;
        let high_freq_factor = self.need("high_freq_factor", self.raw.high_freq_factor)?;
        if high_freq_factor <= low_freq_factor {
            return Err(format!(
                "{}.high_freq_factor: must be above low_freq_factor, {low_freq_factor}",
                self.key
            ));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.need("factor", self.raw.factor)?,
            low_freq_factor,
            high_freq_factor,
            original_positions: self.need("original_max_position_embeddings", Some(self.original))?,
        })
    }

    fn yarn(&self) -> Result<RopeScaling, String> {
        let factor = self.need("factor", self.raw.factor)?;
        let sharpened = |by: f32| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
        let said = |scale: Option<f32>| scale.filter(|scale| *scale != 0.0);
        let attention_factor = match (said(self.raw.mscale), said(self.raw.mscale_all_dim)) {
            _ if self.raw.attention_factor.is_some() => {
                self.need("attention_factor", self.raw.attention_factor)?
            }
            (Some(some), Some(all)) => sharpened(some) / sharpened(all),
            _ => sharpened(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_positions: self.need("original_max_position_embeddings", Some(self.original))?,
            beta_fast: self.need("beta_fast", Some(said(self.raw.beta_fast).unwrap_or(32.0)))?,
            beta_slow: self.need("beta_slow", Some(said(self.raw.beta_slow).unwrap_or(1.0)))?,
            ramp: if self.raw.truncate == Some(false) { Ramp::Between } else { Ramp::WholePairs },
            attention_factor,
        })
    }

    /// The short factors up to the first training's length, the long ones beyond. Which ones is decided for the model, not
    /// for each context: a context that grew past that length would have keys turned by both.
    fn longrope(&self, turned: usize) -> Result<RopeScaling, String> {
        let original = self.need("original_max_position_embeddings", Some(self.original))?;
        let long = self.positions as f32 > original;
        let (field, factors) = if long {
            ("long_factor", &self.raw.long_factor)
        } else {
            ("short_factor", &self.raw.short_factor)
        };
        let factors = factors.as_ref().ok_or_else(|| format!("{}.{field}: missing", self.key))?;
        if factors.len() != turned / 2 {
            let (key, found, pairs) = (&self.key, factors.len(), turned / 2);
            return Err(format!("{key}.{field}: {found} factors for {pairs} pairs of a head"));
        }
        for factor in factors {
            self.need(field, Some(*factor))?;
        }
        let stretch = match self.raw.factor {
            Some(factor) => self.need("factor", Some(factor))?,
            None => self.positions as f32 / original,
        };
        let attention_factor = match self.raw.attention_factor {
            Some(factor) => self.need("attention_factor", Some(factor))?,
            None if stretch <= 1.0 => 1.0,
            None => (1.0 + stretch.ln() / original.ln()).sqrt(),
        };
        Ok(RopeScaling::LongRope { factors: factors.clone(), attention_factor })
    }
}
