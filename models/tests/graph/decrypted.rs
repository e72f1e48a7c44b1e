//! A model that is decrypted as it is read computes the bits of the one in the clear: whatever its kernels read was announced.

use crate::files::llama::Llama;
use crate::support::{Pool, Rows, Sequence, Wanted};
use kernels::Format;
use kernels::watch::{Watch, Watching};
use models::{Model, SealOptions, Source, Target, Weights};
use snapshot::{Header, OperatorKey, Snapshot, Verification};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Decrypts what is about to be read.
struct Told(Verification);

impl Watch for Told {
    fn about_to_read(&self, bytes: Range<*const u8>) {
        self.0.look_at(bytes);
    }

    fn about_to_gather(&self, bytes: Range<*const u8>) {
        self.0.look_at(bytes);
    }
}

fn seal(source: &Path, out: &Path, target: Target, encrypt: Option<OperatorKey>) {
    let options = SealOptions { model: "m".into(), weights: Weights::Native, target, encrypt, guests: None };
    models::seal(&Source::open(source).unwrap(), out, &options, &mut |_, _| {}).unwrap();
}

/// Nothing of its weights is decrypted yet.
#[allow(unsafe_code)]
fn to_be_decrypted(path: &Path, operator: &OperatorKey) -> Arc<Snapshot> {
    let file = File::open(path).unwrap();
    let wrapped = snapshot::wrapped_key(path).unwrap();
    let key = operator.unwrap(wrapped.as_bytes(), &Header::read(&file).unwrap().digest).unwrap();
    // SAFETY: the kernels announce every byte of a matrix before they read it, and who asks here watches as long as some are not there.
    unsafe { Snapshot::decrypt_as_read(None, file, &key) }.unwrap()
}

/// The logits of a step, and of one behind it.
fn logits(pool: &mut Pool, tokens: &[u32]) -> Vec<Vec<u32>> {
    let mut sequence = Sequence::new();
    let mut step = |tokens: &[u32]| {
        let logits = pool.step(&mut [Rows { sequence: &mut sequence, tokens, wanted: Wanted::Last }]);
        logits.row(0).iter().map(|logit| logit.to_bits()).collect()
    };
    vec![step(tokens), step(&tokens[..1])]
}

#[test]
fn what_is_decrypted_as_it_is_read_has_the_bits_of_the_model_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let operator = OperatorKey::from_bytes(&[3; 32]).unwrap();
    let [source, plain, sealed] = ["m.gguf", "plain", "sealed"].map(|name| folder.path().join(name));
    // Of several pieces of 1 MiB each.
    let shape =
        Llama { vocab: 4096, hidden: 512, inner: 1024, heads: 8, kv_heads: 4, head_dim: 64, ..Llama::default() };
    let formats = [Format::F32, Format::F16, Format::BF16, Format::Q4_0, Format::Q4_1, Format::Q8_0];
    for (i, format) in formats.into_iter().enumerate() {
        std::fs::write(&source, Llama { tied: i % 2 == 0, format, ..shape.clone() }.gguf().bytes()).unwrap();
        for target in [Target::here(), Target::Portable] {
            seal(&source, &plain, target, None);
            seal(&source, &sealed, target, Some(operator.clone()));
            let mut clear = Pool::new(Model::restore(&Snapshot::open(&plain).unwrap()).unwrap(), 8);
            for rows in [1, 2, 40] {
                let tokens: Vec<u32> = (0..rows).map(|row| (row * 97 + 5) % 4096).collect();
                let snapshot = to_be_decrypted(&sealed, &operator);
                // Nobody decrypts what is not announced.
                let verification = snapshot.verify_beside(2, Duration::from_secs(600));
                let watching = Watching::begin(Arc::new(Told(verification.clone())));
                let mut pool = Pool::new(Model::restore(&snapshot).unwrap(), 8);
                let what = format!("{format:?} for {}, {rows} rows", target.name());
                assert!(logits(&mut pool, &tokens) == logits(&mut clear, &tokens), "{what}");
                verification.go_on();
                verification.wait().unwrap();
                drop(watching);
                assert!(logits(&mut pool, &tokens) == logits(&mut clear, &tokens), "{what}, once all is there");
            }
        }
    }
}
