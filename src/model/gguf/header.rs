//! The structure of a file: its keys, and where its tensors lie.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::value::{Kind, Metadata, Value};
use crate::tensor::{BlockFormat, ElementType, Encoding};

/// All that a file says before its tensors' numbers.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) metadata: Metadata<'a>,
    pub(super) tensors: Vec<TensorInfo<'a>>,
}

/// A tensor, whose bytes lie within the file.
#[derive(Debug, Clone)]
pub(super) struct TensorInfo<'a> {
    pub(super) name: &'a str,
    /// Outermost first, as `transformers` has it: the file has it the other way round. None is 0.
    pub(super) shape: Vec<usize>,
    pub(super) encoding: Encoding,
    /// Of the file.
    pub(super) range: Range<usize>,
}

/// Tensors begin at multiples of it, unless the file says another.
const ALIGNMENT: u32 = 32;
/// Of a key or a name; the format allows no longer keys.
const LONGEST_NAME: usize = 65_535;
const MOST_DIMENSIONS: u32 = 4;
const TEXT: u32 = 8;
const LIST: u32 = 9;

impl<'a> Header<'a> {
    /// Reads it off the bytes of a whole file.
    pub(super) fn read(file: &'a [u8]) -> Result<Self, String> {
        let mut cursor = Cursor { file, at: 0 };
        if cursor.bytes(4)? != b"GGUF" {
            return Err("its first four bytes are not GGUF: it is no GGUF file".to_owned());
        }
        let version = cursor.u32()?;
        if !matches!(version, 2 | 3) {
            let why = match (version, version.swap_bytes()) {
                (1, _) => "convert the model anew",
                (_, 2 | 3) => "it is written big-endian, and only little-endian files are read",
                _ => "only versions 2 and 3 are read",
            };
            return Err(format!("at byte 4: version {version}: {why}"));
        }
        let (tensors, keys) = (cursor.u64()?, cursor.u64()?);
        let metadata = metadata(&mut cursor, keys)?;
        let alignment = metadata.size("general.alignment")?.unwrap_or(ALIGNMENT);
        if !alignment.is_power_of_two() {
            return Err(format!("general.alignment: {alignment} is not a power of two"));
        }
        let plans = plans(&mut cursor, tensors)?;
        let data = cursor.at.next_multiple_of(alignment as usize);
        let tensors = plans.into_iter().map(|plan| plan.placed(data, alignment, file.len()));
        let tensors: Vec<TensorInfo<'_>> = tensors.collect::<Result<_, _>>()?;
        apart(&tensors)?;
        Ok(Self { metadata, tensors })
    }

    /// The tensor of a name.
    pub(super) fn tensor(&self, name: &str) -> Option<&TensorInfo<'a>> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// Where the next bytes are read.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn wrong(&self, what: &str) -> String {
        format!("at byte {}: {what}", self.at)
    }

    /// The next bytes, which the file must have.
    fn bytes(&mut self, count: u64) -> Result<&'a [u8], String> {
        let rest = &self.file[self.at..];
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let taken = taken.ok_or_else(|| {
            let left = rest.len();
            self.wrong(&format!("{count} bytes should follow, and {left} do: it is cut short or corrupt"))
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let length = self.u64()?;
        let at = self.at;
        let bytes = self.bytes(length)?;
        std::str::from_utf8(bytes).map_err(|e| format!("at byte {at}: a text that is no UTF-8: {e}"))
    }

    /// The name of a key or of a tensor.
    fn name(&mut self) -> Result<&'a str, String> {
        let at = self.at;
        let name = self.text()?;
        if name.is_empty() || name.len() > LONGEST_NAME {
            let length = name.len();
            return Err(format!("at byte {at}: a name of {length} bytes, where 1 to {LONGEST_NAME} may be"));
        }
        Ok(name)
    }

    fn value(&mut self) -> Result<Value<'a>, String> {
        match self.u32()? {
            TEXT => Ok(Value::Text(self.text()?)),
            LIST => self.list(),
            number => {
                let kind = self.kind(number)?;
                let bytes = self.bytes(kind.size() as u64)?;
                kind.read(bytes).ok_or_else(|| self.wrong("a truth value before it is neither 0 nor 1"))
            }
        }
    }

    fn kind(&self, number: u32) -> Result<Kind, String> {
        Kind::of(number).ok_or_else(|| self.wrong(&format!("{number} is the type of no value")))
    }

    /// A list of texts or of numbers.
    fn list(&mut self) -> Result<Value<'a>, String> {
        let (number, count) = (self.u32()?, self.u64()?);
        match number {
            LIST => Err(self.wrong("a list of lists, which no key of ours holds")),
            TEXT => {
                // each takes eight bytes and more, so that there are never more than the file has room for
                let mut texts = Vec::new();
                for _ in 0..count {
                    texts.push(self.text()?);
                }
                Ok(Value::Texts(texts))
            }
            number => {
                let kind = self.kind(number)?;
                let bytes = count.saturating_mul(kind.size() as u64);
                Ok(Value::Numbers(kind, self.bytes(bytes)?))
            }
        }
    }
}

fn metadata<'a>(cursor: &mut Cursor<'a>, count: u64) -> Result<Metadata<'a>, String> {
    let mut all = BTreeMap::new();
    for _ in 0..count {
        let at = cursor.at;
        let key = cursor.name()?;
        let value = cursor.value().map_err(|what| format!("{key}: {what}"))?;
        match all.entry(key) {
            Entry::Vacant(free) => free.insert(value),
            Entry::Occupied(_) => return Err(format!("at byte {at}: {key} is there twice")),
        };
    }
    Ok(Metadata(all))
}

/// Refuses tensors that lie in each other: a small file could ask for any amount of memory with them.
fn apart(tensors: &[TensorInfo<'_>]) -> Result<(), String> {
    let mut by_place: Vec<&TensorInfo<'_>> = tensors.iter().collect();
    by_place.sort_by_key(|tensor| tensor.range.start);
    match by_place.windows(2).find(|pair| pair[1].range.start < pair[0].range.end) {
        Some(pair) => {
            Err(format!("tensors {} and {} overlap: the file is corrupt", pair[0].name, pair[1].name))
        }
        None => Ok(()),
    }
}

/// A tensor as the header writes it.
struct Plan<'a> {
    name: &'a str,
    shape: Vec<usize>,
    encoding: Encoding,
    /// From where the tensors begin.
    offset: u64,
}

fn plans<'a>(cursor: &mut Cursor<'a>, count: u64) -> Result<Vec<Plan<'a>>, String> {
    let (mut all, mut names) = (Vec::new(), BTreeSet::new());
    for _ in 0..count {
        let at = cursor.at;
        let name = cursor.name()?;
        let plan = plan(cursor, name).map_err(|what| format!("tensor {name}: {what}"))?;
        if !names.insert(name) {
            return Err(format!("at byte {at}: tensor {name} is there twice"));
        }
        all.push(plan);
    }
    Ok(all)
}

fn plan<'a>(cursor: &mut Cursor<'a>, name: &'a str) -> Result<Plan<'a>, String> {
    let dimensions = cursor.u32()?;
    if dimensions == 0 || dimensions > MOST_DIMENSIONS {
        return Err(cursor.wrong(&format!("{dimensions} dimensions, where 1 to {MOST_DIMENSIONS} may be")));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = cursor.u64()?;
        match usize::try_from(size) {
            Ok(size) if size > 0 => shape.push(size),
            _ => return Err(cursor.wrong(&format!("a dimension of {size}"))),
        }
    }
    shape.reverse();
    let encoding = encoding(cursor.u32()?)?;
    Ok(Plan { name, shape, encoding, offset: cursor.u64()? })
}

impl<'a> Plan<'a> {
    /// The tensor, if its bytes lie within a file of so many whose tensors begin at `data`.
    fn placed(self, data: usize, alignment: u32, length: usize) -> Result<TensorInfo<'a>, String> {
        let Self { name, shape, encoding, offset } = self;
        if !offset.is_multiple_of(alignment.into()) {
            return Err(format!("tensor {name}: its offset, {offset}, is not a multiple of {alignment}"));
        }
        let cols = shape.last().copied().unwrap_or(0);
        let Some(row) = encoding.row_bytes(cols) else {
            return Err(format!("tensor {name}: rows of {cols} are no whole number of blocks of {encoding}"));
        };
        let bytes = shape[..shape.len() - 1].iter().try_fold(row, |bytes, size| bytes.checked_mul(*size));
        let start = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
        let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes));
        match start.zip(end) {
            Some((start, end)) if end <= length => {
                Ok(TensorInfo { name, shape, encoding, range: start..end })
            }
            _ => Err(format!(
                "tensor {name}: {encoding} of shape {shape:?} at offset {offset} reaches past the file's {length} \
                 bytes: it is cut short or corrupt"
            )),
        }
    }
}

/// By its number in GGML.
fn encoding(number: u32) -> Result<Encoding, String> {
    Ok(match number {
        0 => ElementType::F32.into(),
        1 => ElementType::F16.into(),
        30 => ElementType::Bf16.into(),
        2 => BlockFormat::Q4_0.into(),
        3 => BlockFormat::Q4_1.into(),
        6 => BlockFormat::Q5_0.into(),
        7 => BlockFormat::Q5_1.into(),
        8 => BlockFormat::Q8_0.into(),
        10 => BlockFormat::Q2K.into(),
        11 => BlockFormat::Q3K.into(),
        12 => BlockFormat::Q4K.into(),
        13 => BlockFormat::Q5K.into(),
        14 => BlockFormat::Q6K.into(),
        other => {
            let name = unread(other).map_or_else(|| format!("type {other}"), str::to_owned);
            return Err(format!(
                "it is stored as {name}, and only f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0 and q2_k to q6_k are \
                 read: take a file of another quantisation"
            ));
        }
    })
}

/// Types that other programs read, by the names that files are called by.
const fn unread(number: u32) -> Option<&'static str> {
    Some(match number {
        16 => "iq2_xxs",
        17 => "iq2_xs",
        18 => "iq3_xxs",
        19 => "iq1_s",
        20 => "iq4_nl",
        21 => "iq3_s",
        22 => "iq2_s",
        23 => "iq4_xs",
        29 => "iq1_m",
        34 => "tq1_0",
        35 => "tq2_0",
        39 => "mxfp4",
        _ => return None,
    })
}
