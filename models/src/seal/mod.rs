//! Sealing: a model as published → one snapshot. Weights stream through row by row: memory does not grow with the model.

mod convert;
mod loss;
mod target;

pub use target::Target;

use crate::{
    ComputeDevice, Error, Source,
    compiled::Compiler,
    import::{plan::Role, tensor::Stored},
};
use convert::Row;
use kernels::{Format, Packing, TILE_ROWS};
use loss::Loss;
use serde::{Deserialize, Serialize};
use snapshot::{Header, OperatorKey, SealPlan, Sealed, SectionKind, Snapshot, TensorPlan};
use std::{fs::File, path::Path, sync::Arc};

/// How weights are kept in the snapshot. Norms are float32 whatever is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// As published.
    Native,
    /// The reference.
    F32,
    /// Rounded to nearest, ties to even.
    Bf16,
    /// Blocks of 32 with 8-bit values (`q8_0`).
    Q8,
    /// Blocks of 32 with 4-bit values, scale and minimum (`q4_1`); embedding and head `q8_0`, where 4 bits would show most.
    Q4,
}

impl Weights {
    /// The word of the command line and of the snapshot's header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// The format a tensor is sealed in.
    fn format(self, tensor: &Stored) -> Format {
        let wanted = match (self, tensor.role) {
            (Self::F32, _) => Format::F32,
            _ if tensor.shape.len() == 1 => Format::F32,
            (Self::Native, _) | (Self::Bf16 | Self::Q8 | Self::Q4, Role::Router) => tensor.native(),
            (Self::Bf16, _) => Format::BF16,
            (Self::Q8, _) | (Self::Q4, Role::Vocabulary) => Format::Q8_0,
            (Self::Q4, _) => Format::Q4_1,
        };
        if wanted.row_bytes(tensor.columns()).is_some() {
            return wanted;
        }
        // Only rows of float formats can be of any length, so the stored format is one of these and loses nothing.
        tracing::warn!(
            tensor = tensor.name,
            columns = tensor.columns(),
            wanted = wanted.name(),
            kept = tensor.native().name(),
            "rows are no multiple of the block: kept as published"
        );
        tensor.native()
    }
}

/// What to seal, and how.
#[derive(Clone, Debug)]
pub struct SealOptions {
    /// The name the snapshot carries.
    pub model: String,
    /// How weights are kept.
    pub weights: Weights,
    /// For which processors they are laid out.
    pub target: Target,
    /// Encrypts the snapshot: its own key lies beside it, wrapped by this one.
    pub encrypt: Option<OperatorKey>,
    /// The guests section, as it is to be: what it holds is others' matter.
    pub guests: Option<Vec<u8>>,
}

/// Writes `out`. `progress`: bytes done, bytes in all. What quantising loses is logged, tensor by tensor and in all.
///
/// # Errors
/// The file cannot be written; or a weight that is to be quantised is not finite (named).
pub fn seal(
    source: &Source,
    out: &Path,
    options: &SealOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Sealed, Error> {
    seal_sections(source, out, options, sections(source)?, progress)
}

/// What is computed with the sealed model and sealed with it.
#[derive(Clone, Debug, Default)]
pub struct Ahead {
    /// A beginning that many prompts have in common ([`crate::Prefix`]): JSON messages, or text.
    pub prefix: Option<String>,
    /// A device whose compiler is to have done its work ([`crate::KernelBundle`]).
    pub kernels: Option<ComputeDevice>,
}

/// The same, with what can be computed ahead; where that is anything the model is sealed twice, first beside `out` to compute it with.
///
/// # Errors
/// As [`seal`]; a prefix that fills no block or does not fit the context; messages that the template refuses; an encoder; a device that this
/// build or machine has not, or that has no compiler of ours.
pub fn seal_ahead(
    source: &Source,
    out: &Path,
    options: &SealOptions,
    ahead: &Ahead,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Sealed, Error> {
    if ahead.prefix.is_none() && ahead.kernels.is_none() {
        return seal(source, out, options, progress);
    }
    // What cannot be is found before the work of the first time.
    let compiler = ahead.kernels.map(Compiler::of).transpose()?;
    if source.config().variant.encoder.is_some() {
        return Err(Error::Unsupported("an encoder: it makes embeddings, and nothing of it is computed ahead".into()));
    }
    let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = tempfile::Builder::new().prefix(".seal.").tempdir_in(folder)?;
    let first = beside.path().join("first");
    // What is encrypted in the end is never plain on the disk.
    let encrypt = options.encrypt.as_ref().map(|_| OperatorKey::random()).transpose()?;
    seal(source, &first, &SealOptions { encrypt: encrypt.clone(), ..options.clone() }, progress)?;
    let snapshot = match encrypt {
        Some(key) => decrypt(&first, &key)?,
        None => Snapshot::open(&first)?,
    };
    let mut sections = sections(source)?;
    let prefix = ahead.prefix.as_ref().map(|text| crate::prefix::compute(&snapshot, text)).transpose()?;
    let kernels = compiler.map(|compiler| compiler.section(&snapshot)).transpose()?;
    sections.extend(kernels.map(|section| (SectionKind::Kernels, section)));
    sections.extend(prefix.map(|section| (SectionKind::PrefixKv, section)));
    seal_sections(source, out, options, sections, progress)
}

/// A file that this process has just encrypted.
fn decrypt(path: &Path, operator: &OperatorKey) -> Result<Arc<Snapshot>, Error> {
    let (file, wrapped) = (File::open(path)?, snapshot::wrapped_key(path)?);
    let key = operator.unwrap(wrapped.as_bytes(), &Header::read(&file)?.digest)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Snapshot::decrypt(file, &key, threads)?)
}

fn seal_sections(
    source: &Source,
    out: &Path,
    options: &SealOptions,
    mut sections: Vec<(SectionKind, Vec<u8>)>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Sealed, Error> {
    sections.extend(options.guests.clone().map(|guests| (SectionKind::Guests, guests)));
    let mut tensors: Vec<&Stored> = source.tensors().iter().collect();
    // Vectors are read while the graph is put together, which then waits for no matrix.
    tensors.sort_by_key(|tensor| tensor.shape.len() > 1);
    let layout = |tensor: &&Stored| {
        let format = options.weights.format(tensor);
        Layout { format, packing: options.target.packing(tensor, format) }
    };
    let layouts: Vec<Layout> = tensors.iter().map(layout).collect();
    let plan = SealPlan {
        model: options.model.clone(),
        target: options.target.name().into(),
        weights: options.weights.name().into(),
        tensors: tensors.iter().zip(&layouts).map(|(tensor, layout)| layout.plan(tensor)).collect(),
        sections,
        encrypt: options.encrypt.clone(),
    };
    let mut total = Loss::default();
    let mut write = |index: usize, out: &mut dyn std::io::Write| {
        let loss = layouts[index].write(tensors[index], out)?;
        loss.report(&tensors[index].name, layouts[index].format);
        total.add(&loss);
        Ok(())
    };
    let sealed = snapshot::seal(out, plan, &mut write, progress)?;
    total.report_all();
    Ok(sealed)
}

/// How one tensor is sealed.
#[derive(Clone, Copy)]
struct Layout {
    format: Format,
    packing: Packing,
}

impl Layout {
    fn plan(self, tensor: &Stored) -> TensorPlan {
        let bytes = self.packing.bytes(self.format, tensor.rows(), tensor.columns());
        TensorPlan {
            name: tensor.name.clone(),
            dtype: self.format.name().into(),
            layout: self.packing.name().into(),
            shape: tensor.shape.iter().map(|&extent| extent as u64).collect(),
            bytes: bytes.expect("a format was chosen that fits the rows") as u64,
        }
    }

    /// Row by row, packed a tile at a time.
    fn write(self, tensor: &Stored, out: &mut dyn std::io::Write) -> std::io::Result<Loss> {
        let mut loss = Loss::default();
        let mut row = Row::new(tensor.format, self.format, tensor.columns());
        let (mut rows, mut tile) = (Vec::new(), Vec::new());
        for index in 0..tensor.rows() {
            let published = tensor.row(index);
            let converted = row.convert(&published).map_err(|reason| {
                std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    format!("tensor {} row {index}: {reason}", tensor.name),
                )
            })?;
            match self.packing {
                Packing::Rows => out.write_all(converted)?,
                Packing::Tiles16 => {
                    rows.extend_from_slice(converted);
                    let count = index % TILE_ROWS + 1;
                    if count == TILE_ROWS || index + 1 == tensor.rows() {
                        let bytes = self.packing.bytes(self.format, count, tensor.columns());
                        tile.resize(bytes.expect("the plan has them, too"), 0);
                        self.packing.pack(self.format, tensor.columns(), &rows, &mut tile);
                        out.write_all(&tile)?;
                        rows.clear();
                    }
                }
            }
            if let Some((before, after)) = row.requantised() {
                loss.compare(before, after);
            }
        }
        Ok(loss)
    }
}

fn sections(source: &Source) -> Result<Vec<(SectionKind, Vec<u8>)>, Error> {
    let json =
        |value: serde_json::Result<Vec<u8>>| value.map_err(|error| Error::BadModel(format!("sections: {error}")));
    let mut sections = vec![
        (SectionKind::Config, json(serde_json::to_vec(source.config()))?),
        (SectionKind::Generation, json(serde_json::to_vec(source.generation()))?),
        (SectionKind::Tokenizer, crate::Tokenizer::seal(source.tokenizer_json())?),
    ];
    if !source.templates().by_name.is_empty() {
        sections.push((SectionKind::Template, json(serde_json::to_vec(source.templates()))?));
    }
    Ok(sections)
}
