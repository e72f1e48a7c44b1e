//! Snapshots whose tensors do not fit their configuration are refused by name.

use crate::random::{self, odd_config};
use kernels::Format;
use models::{Model, ModelConfig, Rope, RopeScaling};

/// Seals the tensors of `sealed`, but restores them under the configuration `said`.
fn refusal(sealed: &ModelConfig, said: &ModelConfig, without: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = random::tensors(sealed, 1);
    if let Some(name) = without {
        tensors.remove(name).unwrap();
    }
    let snapshot = random::seal_as(folder.path(), sealed, said, &tensors, Format::F32);
    Model::restore(&snapshot).unwrap_err().to_string()
}

#[track_caller]
fn check(said: ModelConfig, without: Option<&str>, words: &[&str]) {
    let message = refusal(&odd_config(), &said, without);
    assert!(words.iter().all(|w| message.contains(w)), "{message}");
}

#[test]
fn a_missing_tensor() {
    let name = "model.layers.2.mlp.down_proj.weight";
    check(odd_config(), Some(name), &[name, "missing"]);
}

#[test]
fn a_matrix_of_another_shape() {
    let said = ModelConfig { intermediate_size: 90, ..odd_config() };
    check(said, None, &["model.layers.0.mlp.gate_proj.weight", "[92, 44]", "[90, 44]"]);
}

#[test]
fn a_vector_of_another_length() {
    let said = ModelConfig { hidden_size: 43, ..odd_config() };
    check(said, None, &["model.embed_tokens.weight", "[131, 44]", "[131, 43]"]);
}

#[test]
fn more_layers_than_there_are() {
    check(ModelConfig { layers: 4, ..odd_config() }, None, &["model.layers.3", "missing"]);
}

#[test]
fn configurations_the_graph_cannot_run() {
    check(ModelConfig { layers: 0, ..odd_config() }, None, &["layers", "0, accepted"]);
    check(ModelConfig { kv_heads: 2, ..odd_config() }, None, &["kv_heads", "2 do not divide"]);
    check(ModelConfig { head_dim: 19, ..odd_config() }, None, &["head_dim", "19 is odd"]);
    check(ModelConfig { vocab_size: usize::MAX, ..odd_config() }, None, &["vocab_size"]);
    let rope = Rope { theta: 1e4, scaling: RopeScaling::Factors { factors: vec![1.0; 9] } };
    check(ModelConfig { rope, ..odd_config() }, None, &["rope", "9 frequency factors"]);
    check(ModelConfig { rms_norm_eps: -1.0, ..odd_config() }, None, &["rms_norm_eps"]);
}
