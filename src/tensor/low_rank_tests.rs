use super::*;
use crate::tensor::reference::{self, noise, weight};
use crate::tensor::{Affine, Context, HostRows, KvCache, KvLayout, Mask, linear, test_device};

/// A layer, adapters for some of its slots, and contexts that go through them.
struct Case {
    layer: Weight,
    parts: Vec<Option<LowRank>>,
    /// Rows, and the slot.
    contexts: Vec<(usize, Option<usize>)>,
}

const WIDTH: usize = 40;
const OUTS: usize = 300;

fn part(rank: usize, element: ElementType, seed: u64) -> LowRank {
    let down = weight(&noise(rank * WIDTH, seed), element, &[rank, WIDTH]);
    let up = weight(&noise(OUTS * rank, seed + 1), element, &[OUTS, rank]);
    LowRank::new(down, up, 0.25 * seed as f32).unwrap()
}

fn case(element: ElementType) -> Case {
    Case {
        layer: weight(&noise(OUTS * WIDTH, 9), element, &[OUTS, WIDTH]),
        // one that is empty, and one of a rank that is no whole number of anything
        parts: vec![Some(part(4, element, 1)), None, Some(part(13, element, 3))],
        contexts: vec![
            (1, Some(2)),
            (2, None),
            (30, Some(0)),
            (1, Some(0)),
            (3, Some(1)),
            (1, None),
            (9, Some(2)),
        ],
    }
}

impl Case {
    fn rows(&self) -> usize {
        self.contexts.iter().map(|(rows, _)| rows).sum()
    }

    fn slots(&self) -> Vec<Option<usize>> {
        self.contexts.iter().flat_map(|(rows, slot)| std::iter::repeat_n(*slot, *rows)).collect()
    }

    /// What the rows of `x` get, each computed by itself in `f64`.
    fn exact(&self, x: &[f32]) -> Vec<f32> {
        let mut y = reference::linear(x, &self.layer);
        for (row, slot) in self.slots().into_iter().enumerate() {
            let Some(LowRank { down, up, scale }) = slot.and_then(|slot| self.parts[slot].as_ref()) else {
                continue;
            };
            let between = reference::linear(&x[row * WIDTH..][..WIDTH], down);
            let added = reference::linear(&between, up);
            y[row * OUTS..][..OUTS].iter_mut().zip(added).for_each(|(y, added)| *y += scale * added);
        }
        y
    }

    /// The layer and its adapters on a device, over the contexts from `skip` on.
    fn computed(&self, device: &Device, x: &Tensor, skip: usize) -> Vec<f32> {
        let mut parts = LowRanks::default();
        let layer = self.layer.on(device).unwrap();
        for (slot, part) in AdapterSlot::all().zip(&self.parts) {
            if let Some(part) = part {
                parts.seat(slot, part, &layer, (device, layer.element())).unwrap();
            }
        }
        let slots: Vec<AdapterSlot> = AdapterSlot::all().collect();
        let layout = KvLayout { layers: 1, blocks: 8, block_size: 64, kv_heads: 1, head_dim: 8 };
        let cache = KvCache::new(device, layout, self.layer.element()).unwrap();
        let contexts: Vec<Context<'_>> = self.contexts[skip..]
            .iter()
            .map(|(rows, slot)| Context {
                rows: *rows,
                len: *rows,
                blocks: &[0],
                mask: Mask::Causal,
                adapter: slot.map(|slot| slots[slot]),
            })
            .collect();
        let zeros = vec![0; x.rows()];
        let host =
            HostRows { tokens: &zeros, positions: &zeros, slots: &zeros, wanted: &[], contexts: &contexts };
        let rows = Rows::new(&cache, host).unwrap();
        let y = linear(x, Affine { weight: &layer, bias: None }).unwrap();
        add_low_rank(y, x, &parts, &rows).unwrap().into_vec().unwrap()
    }
}

fn near(found: &[f32], exact: &[f32], tolerance: f32) {
    assert_eq!(found.len(), exact.len());
    let largest = exact.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(exact).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "element {i}: {a} against {b}, of at most {largest}");
    }
}

#[test]
fn each_row_gets_what_its_own_adapter_adds_and_is_computed_alone() {
    for element in [ElementType::F32, ElementType::Bf16] {
        let case = case(element);
        let values = noise(case.rows() * WIDTH, 7);
        let x = || Tensor::from_vec(values.clone(), case.rows(), WIDTH).unwrap();
        let together = case.computed(&Device::CPU, &x(), 0);
        near(&together, &case.exact(&values), 1e-5);
        // the same rows without those before them
        let before = 1 + 2;
        let rest = Tensor::from_vec(values[before * WIDTH..].to_vec(), case.rows() - before, WIDTH).unwrap();
        let alone = case.computed(&Device::CPU, &rest, 2);
        assert_eq!(alone, together[before * OUTS..], "{element:?}");
    }
}

#[test]
fn a_gpu_adds_the_same() {
    let device = test_device(1 << 28);
    for (element, tolerance) in
        [(ElementType::F32, 1e-5), (ElementType::F16, 1.0 / 256.0), (ElementType::Bf16, 1.0 / 32.0)]
    {
        let case = case(element);
        let values = noise(case.rows() * WIDTH, 7);
        let stored = weight(&values, element, &[case.rows(), WIDTH]);
        let rounded = element.widen(stored.bytes());
        let Place::Gpu(gpu) = &device.0 else { unreachable!("it is a GPU") };
        let x = |from: usize| {
            let rows = case.rows() - from;
            let own = weight(&values[from * WIDTH..], element, &[rows, WIDTH]);
            let buffer = std::sync::Arc::new(gpu.place(own.bytes()).unwrap());
            Tensor::new(rows, WIDTH, Data::Device(gpu::Array::of(buffer, element)))
        };
        let together = case.computed(&device, &x(0), 0);
        near(&together, &case.exact(&rounded), tolerance);
        // what is left of this run once those before it are gone is cut into blocks at other rows
        let alone = case.computed(&device, &x(3), 2);
        near(&alone, &together[3 * OUTS..], tolerance);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_an_emptied_slot_adds_nothing() {
    let f32s = |shape: [usize; 2]| weight(&noise(shape[0] * shape[1], 1), ElementType::F32, &shape);
    assert!(LowRank::new(f32s([4, WIDTH]), f32s([OUTS, 5]), 1.0).is_err(), "two ranks");
    assert!(LowRank::new(f32s([513, 4]), f32s([4, 513]), 1.0).is_err(), "a rank that no kernel has room for");
    let quantised = f32s([32, 64]).quantised(crate::tensor::BlockFormat::Q8_0).unwrap();
    assert!(LowRank::new(quantised, f32s([4, 32]), 1.0).is_err(), "quantised");
    let cpu = (&Device::CPU, ElementType::F32);
    let mut parts = LowRanks::default();
    let slot = AdapterSlot::all().next().unwrap();
    let fits = part(4, ElementType::F32, 1);
    assert!(parts.seat(slot, &fits, &f32s([OUTS, WIDTH + 1]), cpu).is_err());
    assert!(parts.seat(slot, &fits, &f32s([OUTS + 1, WIDTH]), cpu).is_err());
    assert!(parts.is_empty());
    parts.seat(slot, &fits, &f32s([OUTS, WIDTH]), cpu).unwrap();
    assert!(!parts.is_empty());
    parts.unseat(slot, &Device::CPU).unwrap();
    assert!(parts.is_empty());
}
