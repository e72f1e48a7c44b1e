//! For which processors a snapshot's weights are laid out.

use crate::import::tensor::Stored;
use kernels::{Format, Packing};
use serde::{Deserialize, Serialize};

/// A kind of processor, by the instructions its kernels need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Any: rows as their formats have them.
    #[default]
    #[serde(rename = "cpu:portable")]
    Portable,
    /// x86-64 with AVX2, which multiplies rows as they are.
    #[serde(rename = "cpu:avx2")]
    Avx2,
    /// x86-64 with AVX-512, VNNI and BF16: tiles of sixteen rows.
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
            "avx512-vnni" if kernels::takes(Packing::Tiles16, Format::BF16) => Self::Avx512,
            "avx2" => Self::Avx2,
            _ => Self::Portable,
        }
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
        match self {
            Self::Avx512 if tensor.shape.len() == 2 && Packing::Tiles16.takes(format, tensor.columns()) => {
                Packing::Tiles16
            }
            Self::Portable | Self::Avx2 | Self::Avx512 | Self::Gpu => Packing::Rows,
        }
    }
}
