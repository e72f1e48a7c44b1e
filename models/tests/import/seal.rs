//! Sealing: what is in the snapshot is what the makers published.

use crate::support::{self, llama::Llama};
use kernels::{Format, Packing};
use models::{ChatTemplate, Error, ModelConfig, SealOptions, Source, Target, Tokenizer, Weights, seal};
use snapshot::{SectionKind, Snapshot};
use std::{collections::BTreeMap, path::Path, sync::Arc};

const ALL: [Weights; 5] = [Weights::Native, Weights::F32, Weights::Bf16, Weights::Q8, Weights::Q4];

fn sealed(source: &Path, weights: Weights) -> Arc<Snapshot> {
    sealed_for(source, weights, Target::Portable)
}

fn sealed_for(source: &Path, weights: Weights, target: Target) -> Arc<Snapshot> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.snapshot");
    let options = SealOptions { model: "m".into(), weights, target, encrypt: None, guests: None };
    let mut last = (0, 0);
    let sealed = seal(&Source::open(source).unwrap(), &out, &options, &mut |done, all| last = (done, all)).unwrap();
    assert!(last.0 == last.1 && last.1 > 0, "progress ends at {last:?}");
    assert_eq!(std::fs::metadata(&out).unwrap().len(), sealed.bytes);
    let snapshot = Snapshot::open(&out).unwrap();
    snapshot.verify_all(&mut |_, _| ()).unwrap();
    assert_eq!(snapshot.digest(), sealed.digest);
    assert_eq!((snapshot.target(), snapshot.weights()), (target.name(), weights.name()));
    snapshot
}

/// Every tensor in float32, by name.
fn values(snapshot: &Arc<Snapshot>) -> BTreeMap<String, Vec<f32>> {
    let tensors = snapshot.tensors().iter();
    tensors
        .map(|tensor| {
            let format = Format::from_name(&tensor.dtype).unwrap();
            let columns = *tensor.shape.last().unwrap() as usize;
            let bytes = snapshot.tensor_bytes(tensor);
            let mut out = vec![0.0; tensor.shape.iter().product::<u64>() as usize];
            for (row, out) in bytes.chunks(format.row_bytes(columns).unwrap()).zip(out.chunks_mut(columns)) {
                format.dequantize_row(row, out);
            }
            (tensor.name.clone(), out)
        })
        .collect()
}

/// The rows of every tensor as their format has them, by name.
fn rows(snapshot: &Arc<Snapshot>) -> BTreeMap<String, Vec<u8>> {
    let tensors = snapshot.tensors().iter();
    tensors
        .map(|tensor| {
            let (format, packing) =
                (Format::from_name(&tensor.dtype).unwrap(), Packing::from_name(&tensor.layout).unwrap());
            let k = *tensor.shape.last().unwrap() as usize;
            let n = tensor.shape.iter().product::<u64>() as usize / k;
            let mut rows = vec![0; n * format.row_bytes(k).unwrap()];
            for (i, row) in rows.chunks_mut(format.row_bytes(k).unwrap()).enumerate() {
                packing.row(format, k, &snapshot.tensor_bytes(tensor), i, row);
            }
            (tensor.name.clone(), rows)
        })
        .collect()
}

#[test]
fn what_is_packed_for_a_processor_is_what_is_sealed_for_any() {
    let folder = tempfile::tempdir().unwrap();
    let model = Llama { hidden: 128, inner: 192, vocab: 300, ..Llama::default() };
    let paths = both(&model, folder.path());
    for weights in ALL {
        let [portable, packed, avx2] =
            [Target::Portable, Target::Avx512, Target::Avx2].map(|target| sealed_for(&paths[0], weights, target));
        assert_eq!(rows(&portable), rows(&packed), "{weights:?}");
        assert_eq!(rows(&portable), rows(&avx2), "{weights:?}");
        let layouts =
            |snapshot: &Snapshot| snapshot.tensors().iter().map(|tensor| tensor.layout.clone()).collect::<Vec<_>>();
        assert_eq!(layouts(&packed), layouts(&avx2), "one layout for both");
        let tiles = packed.tensors().iter().filter(|tensor| tensor.layout == "tiles16").count();
        let floats = matches!(weights, Weights::F32 | Weights::Native);
        assert_eq!(tiles > 0, !floats, "{weights:?}: float32 stays in rows");
        assert!(portable.tensors().iter().all(|tensor| tensor.layout == "row-major"));
        let here = Some(Target::here()).filter(|_| tiles > 0 && kernels::takes(Packing::Tiles16));
        assert_eq!(Target::faster(&portable), here, "{weights:?}: rows where this processor has kernels for tiles");
        assert_eq!(Target::faster(&packed), None, "{weights:?}");
    }
}

fn dtypes(snapshot: &Snapshot) -> BTreeMap<&str, &str> {
    snapshot.tensors().iter().map(|tensor| (tensor.name.as_str(), tensor.dtype.as_str())).collect()
}

/// A model as a GGUF file and as a folder: both must seal to the same values.
fn both(model: &Llama, folder: &Path) -> [std::path::PathBuf; 2] {
    let paths = [folder.join("model.gguf"), folder.join("hf")];
    std::fs::write(&paths[0], model.gguf().bytes()).unwrap();
    model.folder(&paths[1]);
    paths
}

#[test]
fn a_gguf_and_a_folder_of_one_model_seal_to_the_same_tensors() {
    let folder = tempfile::tempdir().unwrap();
    // Head dimension unlike hidden / heads, rows of no power of two.
    let model = Llama { hidden: 96, heads: 6, kv_heads: 3, head_dim: 32, inner: 160, ..Llama::default() };
    let expected: BTreeMap<_, _> = model.tensors().into_iter().map(|(name, _, values)| (name, values)).collect();
    for path in both(&model, folder.path()) {
        for weights in [Weights::Native, Weights::F32] {
            assert_eq!(values(&sealed(&path, weights)), expected, "{path:?} {weights:?}");
        }
    }
}

#[test]
fn rows_of_quantised_queries_and_keys_come_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for format in [Format::Q4_0, Format::Q4_1, Format::Q8_0, Format::F16, Format::BF16] {
        let model = Llama { format, ..Llama::default() };
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, model.gguf().bytes()).unwrap();
        let snapshot = sealed(&path, Weights::Native);
        let sealed = values(&snapshot);
        for (name, shape, values) in model.tensors() {
            let wanted = if shape.len() == 1 { Format::F32 } else { format };
            assert_eq!(dtypes(&snapshot)[name.as_str()], wanted.name());
            let mut row = vec![0; wanted.row_bytes(shape[shape.len() - 1]).unwrap()];
            let mut rounded = values.clone();
            for (values, out) in values.chunks(shape[shape.len() - 1]).zip(rounded.chunks_mut(shape[shape.len() - 1])) {
                wanted.quantize_row(values, &mut row);
                wanted.dequantize_row(&row, out);
            }
            assert_eq!(sealed[&name], rounded, "{name} {}", format.name());
        }
    }
}

#[test]
fn tensors_lie_in_order_of_first_use_vectors_before_all_matrices() {
    let folder = tempfile::tempdir().unwrap();
    let model = Llama { layers: 1, ..Llama::default() };
    let [_, path] = both(&model, folder.path());
    let snapshot = sealed(&path, Weights::Native);
    let names: Vec<_> = snapshot.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    let mut all = model.tensors();
    all.sort_by_key(|(_, shape, _)| shape.len() > 1);
    let expected: Vec<_> = all.into_iter().map(|(name, _, _)| name).collect();
    assert_eq!(names, expected);
    assert!(snapshot.tensors().is_sorted_by_key(|tensor| tensor.offset));
}

#[test]
fn each_word_of_weights_seals_its_formats() {
    let folder = tempfile::tempdir().unwrap();
    let [path, _] = both(&Llama { format: Format::F16, ..Llama::default() }, folder.path());
    let (matrix, head, norm) = ("model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight");
    let expected = ["f16 f16 f32", "f32 f32 f32", "bf16 bf16 f32", "q8_0 q8_0 f32", "q4_1 q8_0 f32"];
    for (weights, expected) in ALL.into_iter().zip(expected) {
        let snapshot = sealed(&path, weights);
        let dtypes = dtypes(&snapshot);
        assert_eq!([dtypes[matrix], dtypes[head], dtypes[norm]].join(" "), expected, "{weights:?}");
    }
}

/// Largest differences by format, as a share of the largest weight of a row: half a step of 8 and of 4 bits.
#[test]
fn quantising_loses_no_more_than_half_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let model = Llama::default();
    let [_, path] = both(&model, folder.path());
    for (weights, share) in [(Weights::Bf16, 1.0 / 256.0), (Weights::Q8, 1.0 / 200.0), (Weights::Q4, 1.0 / 13.0)] {
        let sealed = values(&sealed(&path, weights));
        for (name, _, values) in model.tensors() {
            let largest = values.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            let differences = values.iter().zip(&sealed[&name]).map(|(x, y)| (x - y).abs());
            let worst = differences.fold(0f32, f32::max);
            assert!(worst <= largest * share, "{name} {weights:?}: {worst} of {largest}");
        }
    }
}

#[test]
fn rows_that_are_no_multiple_of_the_block_stay_as_published() {
    let folder = tempfile::tempdir().unwrap();
    let model = Llama { inner: 90, format: Format::BF16, ..Llama::default() };
    let [_, path] = both(&model, folder.path());
    let snapshot = sealed(&path, Weights::Q4);
    let dtypes = dtypes(&snapshot);
    assert_eq!(dtypes["model.layers.0.mlp.down_proj.weight"], "bf16");
    assert_eq!(dtypes["model.layers.0.mlp.up_proj.weight"], "q4_1");
}

#[test]
fn a_weight_that_is_no_number_is_named_where_it_would_be_lost() {
    let folder = tempfile::tempdir().unwrap();
    let model = Llama::default();
    let mut file = model.gguf();
    let up = file.tensors.iter_mut().find(|tensor| tensor.name == "blk.1.ffn_up.weight").unwrap();
    up.data[4 * 64 * 3..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    let options =
        SealOptions { model: "m".into(), weights: Weights::Q8, target: Target::Portable, encrypt: None, guests: None };
    let out = folder.path().join("out");
    let error = seal(&Source::open(&path).unwrap(), &out, &options, &mut |_, _| ()).unwrap_err();
    let words = error.to_string();
    assert!(words.contains("model.layers.1.mlp.up_proj.weight row 3") && words.contains("column 0"), "{words}");
    assert!(!out.exists());
}

#[test]
fn sections_hold_what_the_runtime_reads() {
    let path = support::golden("llama3-tiny");
    let source = Source::open(&path).unwrap();
    let snapshot = sealed(&path, Weights::Native);
    let section = |kind| snapshot.section(kind).unwrap().unwrap();
    let config: ModelConfig = serde_json::from_slice(section(SectionKind::Config)).unwrap();
    assert_eq!(&config, source.config());
    let generation: models::Generation = serde_json::from_slice(section(SectionKind::Generation)).unwrap();
    assert_eq!((generation.bos, generation.eos), (Some(0), vec![1]));
    let json = std::fs::read(path.join("tokenizer.json")).unwrap();
    assert_eq!(section(SectionKind::Tokenizer), Tokenizer::seal(&json).unwrap());
    let tokenizer = Tokenizer::from_snapshot(&snapshot).unwrap();
    assert_eq!(tokenizer.vocab_size(), 796);
    assert!(ChatTemplate::from_snapshot(&snapshot).unwrap().is_some());
    assert!(dtypes(&snapshot).iter().all(|(name, dtype)| *dtype == if name.contains("norm") { "f32" } else { "bf16" }));
}

#[test]
fn the_same_model_seals_to_the_same_bytes() {
    let path = support::golden("llama3-tiny");
    assert_eq!(sealed(&path, Weights::Q4).digest(), sealed(&path, Weights::Q4).digest());
}

#[test]
fn smollm2_seals_as_published() {
    let Some(path) = support::smollm2() else { return };
    let snapshot = sealed(&path, Weights::Native);
    assert_eq!(snapshot.tensors().len(), 272);
    assert_eq!((snapshot.tensors()[0].dtype.as_str(), snapshot.tensors()[61].dtype.as_str()), ("f32", "q8_0"));
    assert_eq!(dtypes(&snapshot)["model.layers.29.mlp.down_proj.weight"], "q4_1");
    let config: ModelConfig = serde_json::from_slice(snapshot.section(SectionKind::Config).unwrap().unwrap()).unwrap();
    assert_eq!((config.layers, config.head_dim, config.tied_embedding), (30, 64, true));
    assert_eq!((config.rms_norm_eps, config.rope.theta), (1e-5, 100_000.0));
}

#[test]
fn a_snapshot_without_a_tokenizer_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x");
    let plan = snapshot::SealPlan {
        model: "m".into(),
        target: "portable".into(),
        weights: "f32".into(),
        ..Default::default()
    };
    snapshot::seal(&out, plan, &mut |_, _| Ok(()), &mut |_, _| ()).unwrap();
    let snapshot = Snapshot::open(&out).unwrap();
    assert!(matches!(Tokenizer::from_snapshot(&snapshot), Err(Error::BadModel(_))));
    assert!(ChatTemplate::from_snapshot(&snapshot).unwrap().is_none());
}

/// Rewrites a folder's tensors: name → dtype, shape, bytes.
fn rewrite(folder: &Path, change: impl FnOnce(&mut BTreeMap<String, (String, Vec<usize>, Vec<u8>)>)) {
    let path = folder.join("model.safetensors");
    let file = std::fs::read(&path).unwrap();
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in header.as_object().unwrap() {
        let sizes = |key: &str| -> Vec<usize> { serde_json::from_value(tensor[key].clone()).unwrap() };
        let at = sizes("data_offsets");
        let dtype = tensor["dtype"].as_str().unwrap().to_owned();
        tensors.insert(name.clone(), (dtype, sizes("shape"), data[at[0]..at[1]].to_vec()));
    }
    change(&mut tensors);
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let at = [data.len(), data.len() + bytes.len()];
        header.insert(name, serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": at}));
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
}

#[test]
fn eight_bit_floats_are_sealed_as_bfloat16_with_their_scales_applied() {
    const NAME: &str = "model.layers.1.mlp.up_proj.weight";
    let folder = tempfile::tempdir().unwrap();
    let model = Llama::default();
    model.folder(folder.path());
    let mut config = model.config();
    config["quantization_config"] = serde_json::json!({"quant_method": "fp8", "weight_block_size": [40, 50]});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    // 1.0 and 1.5 by turns; blocks of 40 rows and 50 columns over [96, 64] are three times two.
    let bytes: Vec<u8> = (0..96 * 64).map(|i| if i % 2 == 0 { 0x38 } else { 0x3C }).collect();
    let scales: Vec<u8> = [1f32, 2.0, 4.0, 8.0, 16.0, 32.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    rewrite(folder.path(), |tensors| {
        tensors.insert(NAME.into(), ("F8_E4M3".into(), vec![96, 64], bytes));
        tensors.insert(format!("{NAME}_scale_inv"), ("F32".into(), vec![3, 2], scales));
    });
    let snapshot = sealed(folder.path(), Weights::Native);
    assert_eq!(dtypes(&snapshot)[NAME], "bf16");
    let values = &values(&snapshot)[NAME];
    for (row, column, want) in [(0, 0, 1.0), (0, 51, 3.0), (39, 49, 1.5), (40, 0, 4.0), (95, 63, 48.0)] {
        assert_eq!(values[row * 64 + column], want, "row {row}, column {column}");
    }
    rewrite(folder.path(), |tensors| drop(tensors.remove(&format!("{NAME}_scale_inv"))));
    let error = Source::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains(NAME) && error.contains("_scale_inv"), "{error}");
    // One scale for a whole matrix that has no rows: nothing is divided by them.
    config["quantization_config"] = serde_json::json!({"quant_method": "fp8"});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    rewrite(folder.path(), |tensors| {
        tensors.insert(NAME.into(), ("F8_E4M3".into(), vec![0, 64], Vec::new()));
        tensors.insert(format!("{NAME}_scale_inv"), ("F32".into(), vec![1], vec![0; 4]));
    });
    let error = Source::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains(NAME) && error.contains("[0, 64]"), "{error}");
}
