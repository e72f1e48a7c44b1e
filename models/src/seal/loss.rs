//! What quantising loses: the largest difference, and the root of the mean square, against the published weights.

use kernels::Format;

/// Differences of the elements compared so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loss {
    elements: u64,
    largest: f32,
    squares: f64,
    weight_squares: f64,
}

impl Loss {
    pub fn compare(&mut self, before: &[f32], after: &[f32]) {
        self.elements += before.len() as u64;
        for (x, y) in before.iter().zip(after) {
            let difference = x - y;
            self.largest = self.largest.max(difference.abs());
            self.squares += f64::from(difference) * f64::from(difference);
            self.weight_squares += f64::from(*x) * f64::from(*x);
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.elements += other.elements;
        self.largest = self.largest.max(other.largest);
        self.squares += other.squares;
        self.weight_squares += other.weight_squares;
    }

    /// Root of the mean square of the differences.
    pub fn rms(&self) -> f64 {
        (self.squares / self.elements.max(1) as f64).sqrt()
    }

    /// The same as a share of the weights' own.
    pub fn relative(&self) -> f64 {
        if self.weight_squares > 0.0 { (self.squares / self.weight_squares).sqrt() } else { 0.0 }
    }

    pub fn report(&self, tensor: &str, format: Format) {
        if self.elements > 0 {
            let (largest, rms, relative) = (self.largest, self.rms(), self.relative());
            tracing::debug!(tensor, format = format.name(), largest, rms, relative, "quantised");
        }
    }

    pub fn report_all(&self) {
        if self.elements > 0 {
            let (largest, rms, relative) = (self.largest, self.rms(), self.relative());
            tracing::info!(
                elements = self.elements,
                largest,
                rms,
                relative,
                "quantised: difference from the published weights"
            );
        }
    }
}
