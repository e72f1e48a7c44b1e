//! One row from one format to another.

use kernels::Format;

/// The buffers of one conversion, used for every row of a tensor.
pub(super) struct Row {
    from: Format,
    to: Format,
    /// As published, in float32.
    before: Vec<f32>,
    /// As sealed, in float32; empty where nothing is quantised.
    after: Vec<f32>,
    out: Vec<u8>,
}

impl Row {
    pub fn new(from: Format, to: Format, columns: usize) -> Self {
        let out = to.row_bytes(columns).expect("a format was chosen that fits the rows");
        let measured = if from != to && is_blocks(to) { columns } else { 0 };
        Self { from, to, before: vec![0.0; columns], after: vec![0.0; measured], out: vec![0; out] }
    }

    /// The row in the wanted format.
    pub fn convert<'a>(&'a mut self, row: &'a [u8]) -> Result<&'a [u8], String> {
        if self.from == self.to {
            return Ok(row);
        }
        self.from.dequantize_row(row, &mut self.before);
        if is_blocks(self.to)
            && let Some(at) = self.before.iter().position(|x| !x.is_finite())
        {
            return Err(format!("column {at} is {}: it cannot be quantised", self.before[at]));
        }
        self.to.quantize_row(&self.before, &mut self.out);
        if !self.after.is_empty() {
            self.to.dequantize_row(&self.out, &mut self.after);
        }
        Ok(&self.out)
    }

    /// The last row before and after, where it was quantised.
    pub fn requantised(&self) -> Option<(&[f32], &[f32])> {
        (!self.after.is_empty()).then_some((&self.before[..], &self.after[..]))
    }
}

fn is_blocks(format: Format) -> bool {
    format.block_elements() > 1
}
