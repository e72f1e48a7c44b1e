//! For which processors a snapshot's weights are laid out.

use crate::import::plan::{EMBEDDING, HEAD};
use crate::import::tensor::Stored;
use kernels::{Format, Packing};
use serde::{Deserialize, Serialize};
use snapshot::Snapshot;

/// A kind of processor, by the instructions its kernels need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Any: rows as their formats have them.
    #[default]
    #[serde(rename = "cpu:portable")]
    Portable,
    /// x86-64 with AVX2: tiles of sixteen rows.
    #[serde(rename = "cpu:avx2")]
    Avx2,
    /// x86-64 with AVX-512 and VNNI: the same tiles.
    #[serde(rename = "cpu:avx512")]
    Avx512,
    /// A GPU: rows, which are brought to its memory as they are. Not run on a GPU.
    #[serde(rename = "gpu")]
    Gpu,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Gpu];

    /// What this machine multiplies fastest.
    pub fn here() -> Self {
        match kernels::instruction_set() {
            "avx512-vnni" => Self::Avx512,
            "avx2" => Self::Avx2,
            _ => Self::Portable,
        }
    }

    /// What `snapshot` should be sealed for to be multiplied faster by this machine's processor: where it has matrices in rows that would be
    /// in tiles. The embedding of a model whose head is another matrix is not multiplied, and does not count.
    pub fn faster(snapshot: &Snapshot) -> Option<Self> {
        let here = Self::here();
        let has_head = snapshot.tensors().iter().any(|tensor| tensor.name == HEAD);
        let is_slow = |tensor: &snapshot::Tensor| {
            let (format, packing) = (Format::from_name(&tensor.dtype), Packing::from_name(&tensor.layout));
            let columns = tensor.shape.last().and_then(|columns| usize::try_from(*columns).ok());
            packing == Some(Packing::Rows)
                && tensor.shape.len() == 2
                && !(has_head && tensor.name == EMBEDDING)
                && format.zip(columns).is_some_and(|(format, columns)| here.packs(format, columns))
        };
        snapshot.tensors().iter().any(is_slow).then_some(here)
    }

    /// The word of the command line and of the snapshot's header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "cpu:portable",
            Self::Avx2 => "cpu:avx2",
            Self::Avx512 => "cpu:avx512",
            Self::Gpu => "gpu",
        }
    }

    /// How a tensor in `format` is laid out.
    pub(super) fn packing(self, tensor: &Stored, format: Format) -> Packing {
        if tensor.shape.len() == 2 && self.packs(format, tensor.columns()) { Packing::Tiles16 } else { Packing::Rows }
    }

    /// Whether a matrix of `columns` columns in `format` is laid out in tiles.
    fn packs(self, format: Format, columns: usize) -> bool {
        match self {
            Self::Avx2 | Self::Avx512 => Packing::Tiles16.takes(format, columns),
            Self::Portable | Self::Gpu => false,
        }
    }
}
