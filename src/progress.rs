//! Progress of long work, on standard error: a bar on a terminal, one line a step otherwise.

use crate::output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const BAR: &str = "{msg:32} {bar:32} {bytes:>10} of {total_bytes:10} {bytes_per_sec:>12} {eta:>4}";
const WAIT: &str = "{msg:32} {spinner}";
const SPINNER: &str = "{msg:32} {spinner} {bytes:>10} {bytes_per_sec:>12}";

/// One piece of long work. Dropping it without [`Progress::done`] takes the bar away and leaves what was said.
pub struct Progress {
    step: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Nothing is shown before the first step.
    pub fn new() -> Self {
        Self { step: String::new(), bar: None }
    }

    /// `done` of `total` bytes of `step`.
    pub fn at(&mut self, step: &str, done: u64, total: Option<u64>) {
        if self.step != step {
            self.begin(step);
        }
        if let Some(bar) = &self.bar {
            match total {
                Some(total) if bar.length() != Some(total) => {
                    bar.set_style(style(BAR));
                    bar.set_length(total);
                }
                None if done > 0 && bar.position() == 0 => bar.set_style(style(SPINNER)),
                _ => {}
            }
            bar.set_position(done);
        }
    }

    /// A step that has no bytes to count.
    pub fn step(&mut self, step: &str) {
        self.at(step, 0, None);
    }

    fn begin(&mut self, step: &str) {
        self.clear();
        step.clone_into(&mut self.step);
        if output::on_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(WAIT));
            bar.set_message(self.step.clone());
            self.bar = Some(bar);
        } else {
            output::note(step);
        }
    }

    /// The work is done; what is left on the terminal is one line.
    pub fn done(mut self, summary: &str) {
        self.clear();
        output::note(summary);
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants, and tested")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_templates() {
        for template in [BAR, SPINNER, WAIT] {
            style(template);
        }
    }
}
