//! What differs from layer to layer: windows, ropes, experts.

use super::Mlp;
use super::family::{Family, LayerTypes, Mlps, Ropes, WindowSwitch, Windows};
use super::raw::Raw;

/// Whether a layer attends within the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Full,
    Sliding,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Full => "full_attention",
            Self::Sliding => "sliding_attention",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Full, Self::Sliding].into_iter().find(|kind| kind.name() == name)
    }
}

impl Raw {
    /// The window, if there is one, and of each layer whether it attends within it.
    pub(super) fn windows(
        &self,
        family: &Family,
        turns: &[bool],
    ) -> Result<(Option<u32>, Vec<Kind>), String> {
        let off =
            family.window_switch == WindowSwitch::UseSlidingWindow && self.use_sliding_window != Some(true);
        let window = if off { None } else { self.sliding_window.or(family.absent.window) };
        if window == Some(0) {
            return Err("sliding_window: 0 would hide a token from itself: null means no window".to_owned());
        }
        let kinds = self.kinds(family, window, turns)?;
        if let Some(layer) = kinds.iter().position(|kind| *kind == Kind::Sliding).filter(|_| window.is_none())
        {
            return Err(format!(
                "layer_types: layer {layer} is sliding_attention, and there is no sliding_window"
            ));
        }
        Ok((window, kinds))
    }

    fn kinds(&self, family: &Family, window: Option<u32>, turns: &[bool]) -> Result<Vec<Kind>, String> {
        let layers = self.num_hidden_layers;
        let own = match (&self.layer_types, family.layer_types) {
            (Some(given), LayerTypes::Read) => return self.named_kinds(given),
            _ => self.kinds_by_rule(family, window, turns)?,
        };
        match &self.layer_types {
            Some(given) if self.named_kinds(given)? != own => Err(format!(
                "layer_types: {} takes {} in each of its {layers} layers: leave it out",
                family.architecture,
                own.first().map_or("none", |kind| kind.name())
            )),
            _ => Ok(own),
        }
    }

    fn named_kinds(&self, given: &[String]) -> Result<Vec<Kind>, String> {
        if given.len() != self.num_hidden_layers as usize {
            let (found, layers) = (given.len(), self.num_hidden_layers);
            return Err(format!("layer_types: {found} of them, and num_hidden_layers is {layers}"));
        }
        let kind = |name: &String| {
            Kind::named(name).ok_or_else(|| {
                format!("layer_types: {name:?} is not supported: full_attention or sliding_attention")
            })
        };
        given.iter().map(kind).collect()
    }

    fn kinds_by_rule(
        &self,
        family: &Family,
        window: Option<u32>,
        turns: &[bool],
    ) -> Result<Vec<Kind>, String> {
        let layers = 0..self.num_hidden_layers;
        let kind = |sliding: bool| if sliding { Kind::Sliding } else { Kind::Full };
        let there = window.is_some();
        Ok(match family.windows {
            Windows::NoLayer => layers.map(|_| Kind::Full).collect(),
            Windows::EveryLayer => layers.map(|_| kind(there)).collect(),
            Windows::LaterLayers { absent } => {
                let first = self.max_window_layers.unwrap_or(absent);
                layers.map(|i| kind(there && i >= first)).collect()
            }
            Windows::AllButEach { absent } => {
                let each = self.sliding_window_pattern.unwrap_or(absent);
                if each == 0 {
                    return Err(
                        "sliding_window_pattern: 0: it is how many layers come to one without".to_owned()
                    );
                }
                layers.map(|i| kind(!(i + 1).is_multiple_of(each))).collect()
            }
            Windows::WithoutRope => turns.iter().map(|turns| kind(there && !turns)).collect(),
        })
    }

    /// Of each layer whether it has a rope.
    pub(super) fn turning(&self, family: &Family) -> Result<Vec<bool>, String> {
        let layers = self.num_hidden_layers;
        let Ropes::SomeWithout { absent_interval } = family.ropes else {
            return Ok((0..layers).map(|_| true).collect());
        };
        match &self.no_rope_layers {
            Some(given) if given.len() < layers as usize => {
                Err(format!("no_rope_layers: {} of them, and num_hidden_layers is {layers}", given.len()))
            }
            Some(given) => Ok(given.iter().take(layers as usize).map(|turns| *turns != 0).collect()),
            None => match self.no_rope_layer_interval.unwrap_or(absent_interval) {
                0 => Err("no_rope_layer_interval: 0: it is how many layers come to one without".to_owned()),
                each => Ok((1..=layers).map(|i| !i.is_multiple_of(each)).collect()),
            },
        }
    }

    /// What follows attention in layer `i`.
    pub(super) fn mlp(&self, family: &Family, i: u32) -> Result<Mlp, String> {
        let Mlps::Experts { absent } = family.mlps else { return Ok(Mlp::Dense) };
        let each = self.decoder_sparse_step.unwrap_or(1);
        if each == 0 {
            return Err("decoder_sparse_step: 0: it is how many layers come to one with experts".to_owned());
        }
        let dense = self.mlp_only_layers.as_ref().is_some_and(|layers| layers.contains(&i));
        if dense || !(i + 1).is_multiple_of(each) {
            Ok(Mlp::Dense)
        } else {
            Ok(Mlp::Sparse(self.experts(absent)?))
        }
    }
}
