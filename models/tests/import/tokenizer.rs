//! Text ↔ ids, and streams of text.

use crate::support;
use models::{Source, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::sync::{Arc, OnceLock};

fn ids(json: &Json) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// SmolLM2's tokenizer, rebuilt from its GGUF metadata.
fn smollm2() -> Option<Arc<Tokenizer>> {
    static TOKENIZER: OnceLock<Option<Arc<Tokenizer>>> = OnceLock::new();
    TOKENIZER
        .get_or_init(|| {
            let source = Source::open(&support::smollm2()?).unwrap();
            Some(Arc::new(Tokenizer::from_json(source.tokenizer_json()).unwrap()))
        })
        .clone()
}

#[test]
fn smollm2_pairs_are_exact_both_ways() {
    let Some(tokenizer) = smollm2() else { return };
    let golden = support::golden_json("smollm2.json");
    let pairs = golden["tokenizer"].as_array().unwrap();
    assert_eq!(pairs.len(), 8);
    for pair in pairs {
        let text = pair["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&pair["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&ids(&pair["ids"]), false).unwrap(), text);
    }
    assert_eq!(tokenizer.vocab_size(), 49152);
}

#[test]
fn smollm2_texts_of_generations_are_exact() {
    let Some(tokenizer) = smollm2() else { return };
    for case in support::golden_json("smollm2.json")["cases"].as_array().unwrap() {
        assert_eq!(tokenizer.decode(&ids(&case["greedy_ids"]), true).unwrap(), case["greedy_text"].as_str().unwrap());
    }
}

#[test]
fn bytes_of_a_token() {
    let Some(tokenizer) = smollm2() else { return };
    let rocket = "🚀".as_bytes();
    let ids = tokenizer.encode("🚀 the", false).unwrap();
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).collect();
    assert_eq!(bytes, [rocket, b" the"].concat());
    assert_eq!(tokenizer.token_bytes(1), b"<|im_start|>");
    assert_eq!(tokenizer.token_bytes(4_000_000_000), b"");
    assert_eq!(tokenizer.token_id("<|im_end|>"), Some(2));
}

/// A SentencePiece-like tokenizer: a mark for spaces, byte tokens, a decoder that strips the leading space.
fn pieces(decoder: Json) -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_json(&pieces_json(decoder)).unwrap())
}

fn pieces_json(decoder: Json) -> Vec<u8> {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "▁a", "▁▁", "a", "e", "b", "é", "東", "▁the", "ab▁c", "\n"].map(str::to_owned));
    let vocab: serde_json::Map<String, Json> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let special = |id: usize| {
        json!({
            "id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0), special(1), special(2)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["▁ a", "▁ ▁"],
        },
    });
    serde_json::to_vec(&file).unwrap()
}

fn llama2_decoder() -> Json {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]})
}

fn metaspace_decoder() -> Json {
    json!({"type": "Sequence", "decoders": [
        {"type": "ByteFallback"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false},
    ]})
}

#[test]
fn pieces_keep_inner_spaces_and_lose_the_first() {
    for decoder in [llama2_decoder(), metaspace_decoder()] {
        let tokenizer = pieces(decoder);
        let ids = tokenizer.encode("a a 東 z", false).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a a 東 z");
        let mut stream = tokenizer.stream(true);
        let mut texts: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        texts.push(stream.finish());
        assert_eq!(texts.concat(), "a a 東 z", "{texts:?}");
        assert_eq!(tokenizer.token_bytes(tokenizer.token_id("▁the").unwrap()), b" the");
        assert_eq!(tokenizer.token_bytes(tokenizer.token_id("<0xE6>").unwrap()), [0xE6]);
    }
}

/// Pushes ids one by one: the pieces together are the decoding of all.
fn check_stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) {
    let mut stream = tokenizer.stream(skip_special);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish());
    assert_eq!(pieces.concat(), tokenizer.decode(ids, skip_special).unwrap(), "{ids:?}: {pieces:?}");
    assert_eq!(stream.finish(), "", "a finished stream holds nothing");
}

/// The reference for encoding: the tokenizers crate's own model, read from the same bytes.
fn check_encoding(bytes: &[u8], texts: &[&str]) {
    let theirs = tokenizers::Tokenizer::from_bytes(bytes).unwrap();
    let sealed = Tokenizer::from_section(Tokenizer::seal(bytes).unwrap().into()).unwrap();
    for (ours, text) in [Tokenizer::from_json(bytes).unwrap(), sealed]
        .iter()
        .flat_map(|ours| texts.iter().map(move |text| (ours, text)))
    {
        for special in [false, true] {
            let expected = theirs.encode(*text, special).unwrap().get_ids().to_vec();
            assert_eq!(ours.encode(text, special).unwrap(), expected, "{text:?}");
            assert_eq!(ours.decode(&expected, special).unwrap(), theirs.decode(&expected, special).unwrap());
        }
    }
}

#[test]
fn encoding_is_the_tokenizers_crates() {
    let long = "ab".repeat(3000) + " and " + &"é東🚀".repeat(200);
    let texts = [
        "",
        " ",
        "Hello, world!",
        "  two  spaces\nand\ttabs\n\n",
        "naïve café — 東京 🚀🚀",
        "1234567 ½ x²",
        "<|im_start|>user\nhi<|im_end|><|bos|> x <unk></s>",
        "fn main() { println!(\"{}\", 1 + 1); }",
        "a a▁▁a the\u{0}",
        &long,
    ];
    check_encoding(&std::fs::read(support::golden("llama3-tiny/tokenizer.json")).unwrap(), &texts);
    check_encoding(&pieces_json(llama2_decoder()), &texts);
    if let Some(path) = support::smollm2() {
        check_encoding(Source::open(&path).unwrap().tokenizer_json(), &texts);
    }
}

proptest! {
    #[test]
    fn encoding_of_any_text_is_the_tokenizers_crates(text in "[a-d ▁é東]{0,40}", merges in prop::collection::vec((0usize..12, 0usize..12), 0..12)) {
        let mut tokens: Vec<String> = ["▁", "a", "b", "c", "d"].map(str::to_owned).into();
        let mut pairs = Vec::new();
        for (left, right) in merges {
            let (left, right) = (tokens[left % tokens.len()].clone(), tokens[right % tokens.len()].clone());
            let made = format!("{left}{right}");
            if !tokens.contains(&made) {
                tokens.push(made);
            }
            if !pairs.contains(&json!([left, right])) {
                pairs.push(json!([left, right]));
            }
        }
        tokens.push("<unk>".into());
        let vocab: serde_json::Map<String, Json> =
            tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, "pre_tokenizer": null,
            "post_processor": null, "decoder": llama2_decoder(),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": text.len() % 2 == 0, "byte_fallback": true,
                "ignore_merges": text.len() % 3 == 0, "vocab": vocab, "merges": pairs,
            },
        });
        check_encoding(&serde_json::to_vec(&file).unwrap(), &[&text]);
    }

    #[test]
    fn a_stream_of_random_ids_is_their_decoding(ids in prop::collection::vec(0u32..49_200, 0..40), skip: bool) {
        if let Some(tokenizer) = smollm2() {
            check_stream(&tokenizer, &ids, skip);
        }
    }

    #[test]
    fn a_stream_of_random_byte_tokens_is_their_decoding(ids in prop::collection::vec(0u32..300, 0..40), skip: bool) {
        static TOKENIZERS: OnceLock<[Arc<Tokenizer>; 3]> = OnceLock::new();
        let bytes = || serde_json::to_vec(&support::huggingface::byte_tokenizer(280)).unwrap();
        let all = TOKENIZERS.get_or_init(|| {
            let bytes = Arc::new(Tokenizer::from_json(&bytes()).unwrap());
            [pieces(llama2_decoder()), pieces(metaspace_decoder()), bytes]
        });
        for tokenizer in all {
            check_stream(tokenizer, &ids, skip);
        }
    }

    /// Text survives, and no piece but the last ever holds a replacement character.
    #[test]
    fn a_stream_of_text_is_the_text(text in "\\PC{0,24}") {
        let Some(tokenizer) = smollm2() else { return Ok(()) };
        prop_assume!(!text.contains(char::REPLACEMENT_CHARACTER));
        let ids = tokenizer.encode(&text, false).unwrap();
        let mut stream = tokenizer.stream(false);
        let mut all = String::new();
        for id in ids {
            let piece = stream.push(id).unwrap();
            prop_assert!(!piece.contains(char::REPLACEMENT_CHARACTER), "{piece:?}");
            all += &piece;
        }
        prop_assert_eq!(stream.finish(), "");
        prop_assert_eq!(all, text);
    }

    #[test]
    fn a_tokenizer_of_garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Tokenizer::from_json(&bytes).is_err());
    }
}

#[test]
fn a_tokenizer_cut_short_anywhere_is_refused() {
    let whole = serde_json::to_vec(&support::huggingface::byte_tokenizer(262)).unwrap();
    assert!(Tokenizer::from_json(&whole).is_ok());
    for length in (0..whole.len()).step_by(7) {
        assert!(Tokenizer::from_json(&whole[..length]).is_err(), "{length} bytes");
    }
}

/// Text of the kinds that vocabularies are cut by: words, numbers, spaces, marks, scripts, and bytes that are no word of any.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-zA-Z']{1,12}",
        "'[stremvldSTREMVLDſé]{1,3}",
        "[0-9½²٣Ⅷ]{1,5}",
        "[ \\t\\n]{1,4}",
        "[ \\r\\n\u{a0}\u{3000}\u{2028}\u{b}]{1,4}",
        "[!-/:-@]{1,4}",
        "[é東ßǅʰा́ͅ🚀]{1,3}",
        "\\PC{1,6}",
        any::<String>(),
        Just("<|im_end|>".to_owned()),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// The tokenizer of tiny models; SmolLM2's; and that with other ways of cutting, among them Llama 3's and Qwen's.
fn byte_tokenizers() -> Vec<Vec<u8>> {
    const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let bytes =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |numbers: &str| {
        let regex = WORDS.replace("NUMBERS", numbers);
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
    };
    let all = |steps: &[Json]| json!({"type": "Sequence", "pretokenizers": steps});
    let cased = |behind: &str, numbers: &str| {
        const WORD: [&str; 2] = [
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
        ];
        let rest = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let regex = format!("{}{behind}|{}{behind}|{numbers}{rest}", WORD[0], WORD[1]);
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
    };
    let digits = json!({"type": "Digits", "individual_digits": true});
    let bos = json!({
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    });
    let mut files = vec![std::fs::read(support::golden("llama3-tiny/tokenizer.json")).unwrap()];
    let Some(smollm2) = smollm2_json() else { return files };
    let mut changed = |pre_tokenizer: Json, normalizer: Json, post_processor: Json, ignore_merges: bool| {
        let mut file: Json = serde_json::from_slice(&smollm2).unwrap();
        file["pre_tokenizer"] = pre_tokenizer;
        file["normalizer"] = normalizer;
        file["post_processor"] = post_processor;
        file["model"]["ignore_merges"] = json!(ignore_merges);
        files.push(serde_json::to_vec(&file).unwrap());
    };
    changed(all(&[split(r"\p{N}{1,3}"), bytes(false)]), json!(null), bos.clone(), true);
    changed(all(&[split(r"\p{N}"), bytes(false)]), json!({"type": "NFC"}), json!(null), false);
    changed(all(&[digits, bytes(true)]), json!(null), bos, false);
    changed(bytes(false), json!(null), json!(null), false);
    changed(all(&[cased("", r"\p{N}"), bytes(false)]), json!(null), json!(null), true);
    changed(
        all(&[cased("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"\p{N}{1,3}"), bytes(false)]),
        json!(null),
        json!(null),
        false,
    );
    files.push(smollm2);
    files
}

/// `PROPTEST_CASES=1000000 cargo test --release -p models --test import sealed_tables -- --nocapture` is the long run.
#[test]
fn sealed_tables_encode_as_the_tokenizers_crate_does() {
    for bytes in byte_tokenizers() {
        let theirs = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
        let ours = Tokenizer::from_section(Tokenizer::seal(&bytes).unwrap().into()).unwrap();
        proptest!(|(text in any_text(), special: bool)| {
            let expected = theirs.encode_fast(text.as_str(), special).unwrap();
            prop_assert_eq!(ours.encode(&text, special).unwrap(), expected.get_ids());
        });
    }
}

#[test]
fn a_template_that_names_what_is_not_there_is_refused() {
    let with = |single: Json, inside: bool| {
        let mut file = support::huggingface::byte_tokenizer(262);
        let template = json!({
            "type": "TemplateProcessing", "single": single, "special_tokens": {},
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        });
        file["post_processor"] = match inside {
            true => json!({"type": "Sequence", "processors": [template]}),
            false => template,
        };
        Tokenizer::from_json(&serde_json::to_vec(&file).unwrap()).err().map(|error| error.to_string())
    };
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    assert_eq!(with(json!([text]), true), None);
    for inside in [false, true] {
        let error = with(json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, text]), inside).unwrap();
        assert!(error.contains("post_processor: single: \"<s>\""), "{error}");
        assert!(with(json!([["<s>", 0]]), inside).is_some());
        assert!(with(json!([{"SpecialToken": ["<s>", 0]}]), inside).is_some());
        let error = with(json!([text, {"Sequence": {"id": "B", "type_id": 0}}]), inside).unwrap();
        assert!(error.contains("$B"), "{error}");
    }
}

fn smollm2_json() -> Option<Vec<u8>> {
    support::smollm2().map(|path| Source::open(&path).unwrap().tokenizer_json().to_vec())
}

#[test]
fn a_sealed_tokenizer_cut_short_or_bent_is_refused_or_harmless() {
    let json = serde_json::to_vec(&support::huggingface::byte_tokenizer(262)).unwrap();
    let whole = Tokenizer::seal(&json).unwrap();
    assert_eq!(whole, Tokenizer::seal(&json).unwrap(), "same bytes, same section");
    for length in 0..whole.len() {
        assert!(Tokenizer::from_section(whole[..length].to_vec().into()).is_err(), "{length} bytes");
    }
    for at in (0..whole.len()).step_by(3) {
        let mut bent = whole.clone();
        bent[at] ^= 0xFF;
        // Whatever it says now, it ends and does not panic.
        if let Ok(tokenizer) = Tokenizer::from_section(bent.into()) {
            let ids = tokenizer.encode("Hello, world! é", true).unwrap_or_default();
            let _ = tokenizer.decode(&ids, false);
        }
    }
}

#[test]
fn word_pieces_and_unigrams_are_tokenized_by_their_own_rules() {
    let mut file = support::huggingface::byte_tokenizer(262);
    file["added_tokens"] = json!([]);
    file["pre_tokenizer"] = json!({"type": "Whitespace"});
    file["post_processor"] = json!(null);
    let mut ids = |model| {
        file["model"] = model;
        Tokenizer::from_json(&serde_json::to_vec(&file).unwrap()).unwrap().encode("lamps x", false).unwrap()
    };
    let vocab = json!({"[UNK]": 0, "lamp": 1, "##s": 2, "la": 3});
    let pieces = json!({"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100});
    assert_eq!(ids(pieces), [1, 2, 0]);
    let vocab = json!([["<unk>", 0.0], ["lamps", -9.0], ["lamp", -1.0], ["s", -2.0], ["x", -1.0]]);
    assert_eq!(ids(json!({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false})), [2, 3, 4]);
}

#[test]
fn a_tokenizer_of_another_kind_is_refused_by_name() {
    let mut file = support::huggingface::byte_tokenizer(262);
    file["model"] = json!({"type": "WordLevel", "vocab": {}, "unk_token": "[UNK]"});
    let error = Tokenizer::from_json(&serde_json::to_vec(&file).unwrap()).err().unwrap().to_string();
    assert!(error.contains("WordLevel"), "{error}");
}
