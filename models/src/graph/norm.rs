//! Root-mean-square normalisation, in float32 whatever the weights' precision.

use super::direct::Norm;
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;
use kernels::direct::Values;

/// `x / sqrt(mean(x²) + eps) · weight` over the last axis.
#[derive(Module, Debug)]
pub(crate) struct RmsNorm {
    /// `[hidden] f32`
    weight: Param<Tensor<1>>,
    #[module(skip)]
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn new(weight: Tensor<1>, eps: f32) -> Self {
        Self { weight: Param::initialized(ParamId::new(), weight), eps }
    }

    /// The same for an operation that normalises what it reads.
    pub(super) fn of_kernels(&self) -> kernels::Norm {
        kernels::Norm { weight: self.weight.val(), eps: self.eps }
    }

    /// The same for [`super::direct`]; `None` on another device.
    pub(super) fn direct(&self) -> Option<Norm> {
        Some(Norm { weight: Values::of(&self.weight.val())?, eps: self.eps })
    }

    /// `x [rows, hidden] f32 → [rows, hidden] f32`
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        kernels::rms_norm(x, self.weight.val(), self.eps)
    }
}
