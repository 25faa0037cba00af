//! Rotary frequencies, as `transformers` computes them.

use std::f32::consts::PI;

use crate::tensor::RopeTable;

/// How positions turn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rope {
    /// The base of the wavelengths.
    pub(super) theta: f64,
    pub(super) scaling: RopeScaling,
}

/// How frequencies are stretched for contexts beyond those of the first training.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RopeScaling {
    None,
    /// All by one factor.
    Linear {
        factor: f32,
    },
    /// Long wavelengths by the factor, short ones not at all, smoothly between (Llama 3.1).
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_positions: f32,
    },
}

impl Rope {
    /// The frequencies of `head_dim / 2` pairs.
    pub(super) fn table(&self, head_dim: usize) -> RopeTable {
        let plain = (0..head_dim).step_by(2).map(|i| {
            let exponent = i as f32 / head_dim as f32;
            1.0 / (self.theta as f32).powf(exponent)
        });
        RopeTable { frequencies: plain.map(|f| self.scaling.stretch(f)).collect(), attention_factor: 1.0 }
    }
}

impl RopeScaling {
    fn stretch(&self, frequency: f32) -> f32 {
        match *self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let wavelength = 2.0 * PI / frequency;
                if wavelength > original_positions / low_freq_factor {
                    frequency / factor
                } else if wavelength < original_positions / high_freq_factor {
                    frequency
                } else {
                    let smooth = (original_positions / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_waves_stretches_long_ones_and_is_between_in_between() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192.0,
        };
        let plain = Rope { theta: 500_000.0, scaling: RopeScaling::None }.table(128);
        let scaled = Rope { theta: 500_000.0, scaling }.table(128);
        let ratios: Vec<f32> =
            plain.frequencies.iter().zip(&scaled.frequencies).map(|(p, s)| p / s).collect();
        assert_eq!((ratios[0], ratios[63]), (1.0, 8.0));
        assert!(ratios.is_sorted() && ratios.iter().any(|r| (2.0..6.0).contains(r)), "{ratios:?}");
    }
}
