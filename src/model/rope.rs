//! Rotary frequencies, as `transformers` computes them.

use std::f32::consts::PI;

use crate::tensor::RopeTable;

/// How positions turn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rope {
    /// The base of the wavelengths.
    pub(super) theta: f64,
    /// Elements of a head that turn: the first so many.
    pub(super) turned: usize,
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
    /// The same with a ramp over the pairs of a head (Peng et al., 2023): those that turn `beta_fast` times in the
    /// original positions are not stretched, those that turn `beta_slow` times by the whole factor.
    Yarn {
        factor: f32,
        original_positions: f32,
        beta_fast: f32,
        beta_slow: f32,
        ramp: Ramp,
        attention_factor: f32,
    },
    /// Each pair by a factor of its own (Ding et al., 2024).
    LongRope {
        factors: Vec<f32>,
        attention_factor: f32,
    },
}

/// Where the ramp of yarn begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ramp {
    /// At whole pairs, the next outside.
    WholePairs,
    /// Between pairs, too.
    Between,
}

impl Rope {
    /// The frequencies of the `turned / 2` pairs.
    pub(super) fn table(&self) -> RopeTable {
        let plain = (0..self.turned).step_by(2).map(|i| {
            let exponent = i as f32 / self.turned as f32;
            1.0 / (self.theta as f32).powf(exponent)
        });
        let stretched = plain.enumerate().map(|(pair, frequency)| self.stretch(pair, frequency));
        RopeTable { frequencies: stretched.collect(), attention_factor: self.attention_factor() }
    }

    const fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => 1.0,
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor
            }
        }
    }

    fn stretch(&self, pair: usize, frequency: f32) -> f32 {
        match &self.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::LongRope { factors, .. } => frequency / factors[pair],
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
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
            &RopeScaling::Yarn { factor, original_positions, beta_fast, beta_slow, ramp, .. } => {
                let bounds = [beta_fast, beta_slow].map(|turns| self.pair_of(turns, original_positions));
                let share = Self::ramp(bounds, ramp, self.turned, pair);
                frequency / factor * share + frequency * (1.0 - share)
            }
        }
    }

    /// The pair that turns so many times in so many positions.
    fn pair_of(&self, turns: f32, positions: f32) -> f64 {
        let wavelengths = f64::from(positions) / (f64::from(turns) * 2.0 * std::f64::consts::PI);
        self.turned as f64 * wavelengths.ln() / (2.0 * self.theta.ln())
    }

    /// How much of the whole factor pair `pair` takes: nothing up to the first bound, all from the second on.
    fn ramp([low, high]: [f64; 2], ramp: Ramp, turned: usize, pair: usize) -> f32 {
        let [low, high] = match ramp {
            Ramp::WholePairs => [low.floor(), high.ceil()],
            Ramp::Between => [low, high],
        };
        let (low, high) = (low.max(0.0) as f32, high.min(turned as f64 - 1.0) as f32);
        // as wide as the original makes a ramp without width
        let width = if low.total_cmp(&high).is_eq() { 0.001 } else { high - low };
        ((pair as f32 - low) / width).clamp(0.0, 1.0)
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
        let of = |scaling| Rope { theta: 500_000.0, turned: 128, scaling }.table();
        let (plain, scaled) = (of(RopeScaling::None), of(scaling));
        let ratios: Vec<f32> =
            plain.frequencies.iter().zip(&scaled.frequencies).map(|(p, s)| p / s).collect();
        assert_eq!((ratios[0], ratios[63]), (1.0, 8.0));
        assert!(ratios.is_sorted() && ratios.iter().any(|r| (2.0..6.0).contains(r)), "{ratios:?}");
    }

    /// What `transformers` 5.24 gives for a base of 1000, heads of 16 and 32 positions stretched by 4.
    #[test]
    fn yarn_is_that_of_transformers() {
        let yarn = |beta_fast, beta_slow, ramp| RopeScaling::Yarn {
            factor: 4.0,
            original_positions: 32.0,
            beta_fast,
            beta_slow,
            ramp,
            attention_factor: 1.138_629_4,
        };
        for (scaling, second) in [
            (yarn(32.0, 1.0, Ramp::WholePairs), 2.635_603_2e-1),
            (yarn(8.0, 2.0, Ramp::Between), 1.295_299_4e-1),
        ] {
            let table = Rope { theta: 1000.0, turned: 16, scaling }.table();
            assert!((table.attention_factor - 1.138_629_4).abs() < 1e-6);
            let rest = [
                4.445_698_5e-2,
                1.874_735_4e-2,
                7.905_695e-3,
                3.333_803_7e-3,
                1.405_853_3e-3,
                5.928_434_5e-4,
            ];
            let expected = [1.0, second].into_iter().chain(rest);
            for (found, expected) in table.frequencies.iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 1e-5, "{found} against {expected}");
            }
        }
    }
}
