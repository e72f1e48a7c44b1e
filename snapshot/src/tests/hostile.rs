//! Files whose checksums all fit and whose values do not.

use super::*;

/// Replaces words in the table by others of the same length.
fn forged_table(from: &str, to: &str) -> String {
    assert_eq!(from.len(), to.len());
    let sample = Sample::new(&small_draft());
    let at = find(&sample.bytes, from);
    sample.forge(at, to.as_bytes());
    Snapshot::open(&sample.path).expect_err("a forged table was accepted").to_string()
}

fn find(bytes: &[u8], needle: &str) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle.as_bytes()).unwrap()
}

fn forged_header(at: usize, value: &[u8]) -> String {
    let sample = Sample::new(&small_draft());
    sample.forge(at, value);
    let error = Snapshot::open(&sample.path).expect_err("a forged header was accepted");
    assert!(error.is_bad_data());
    error.to_string()
}

#[test]
fn senseless_headers_name_their_field_and_offset() {
    let huge = u64::MAX.to_le_bytes();
    for (at, value, expected) in [
        (12, &[1][..], "header field tags at byte 0x80: Region { offset: 0, bytes: 0 } does not follow"),
        (12, &[4], "one of the header flags 0x4 is critical"),
        (20, &[0, 0, 0, 0], "header field chunk bytes at byte 0x14"),
        (20, &[1, 16, 0, 0], "header field chunk bytes at byte 0x14"),
        (24, &huge, "header field checksums at byte 0x38"),
        (32, &huge, "header field table at byte 0x20"),
        (40, &huge, "header field table at byte 0x20"),
        (40, &[0; 8], "header field table at byte 0x20"),
        (56, &huge, "header field checksums at byte 0x38"),
        (64, &huge, "header field checksums at byte 0x38"),
        (80, &huge, "header field weights at byte 0x50"),
        (88, &huge, "header field weights at byte 0x50"),
        (128, &huge, "header field tags at byte 0x80"),
        (176, &huge, "header field prefix KV at byte 0xb0"),
        (256, &[255, 255], "header field model at byte 0x100: 65535 bytes, 254 at most"),
        (258, &[255], "header field model at byte 0x100: invalid utf-8"),
        (512, &[63, 0], "header field target at byte 0x200: 63 bytes"),
    ] {
        let error = forged_header(at, value);
        assert!(error.starts_with(expected), "at {at}: {error}");
    }
}

#[test]
fn senseless_tables_name_their_field() {
    for (from, to, expected) in [
        ("{\"sections\"", "[\"sections\"", "table at byte"),
        ("\"offset\":8192", "\"offset\":8193", "table.sections[0] (config)"),
        ("\"offset\":8192", "\"offset\":4096", "table.sections[0] (config)"),
        ("\"bytes\":5000", "\"bytes\":9000", "table.sections[2] (template)"),
        ("\"name\":\"tokenizer\"", "\"name\":\"\",\"k\":\"en\"", "table.sections[1].name"),
        ("\"kind\":4", "\"kind\":2", "table.sections[1]: a second section tokenizer"),
        ("\"section\":3", "\"section\":9", "table.arenas[0].section"),
        ("\"name\":\"layer.0\"", "\"name\":\"embed\"  ", "table.arenas[0].tensors[1] (embed): the name is used twice"),
        ("\"shape\":[4097]", "\"shape\":[9e99]", "table at byte"),
        ("\"bytes\":4097", "\"bytes\":4353", "table.arenas[0].tensors[2] (empty)"),
        ("\"bytes\":4097", "\"bytes\":9999", "table.arenas[0].tensors[1] (layer.0)"),
    ] {
        let error = forged_table(from, to);
        let place = expected.split(": ").next().unwrap();
        assert!(error.starts_with(place), "{from} → {to}: {error}");
        assert!(error.contains(expected.rsplit(": ").next().unwrap()), "{from} → {to}: {error}");
    }
}

fn check_plan(change: impl FnOnce(&mut Draft), expected: &str) {
    let mut draft = small_draft();
    change(&mut draft);
    let folder = tempfile::tempdir().unwrap();
    let error = write_draft(&folder.path().join("out"), &draft, CHUNK).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was left behind");
}

#[test]
fn absurd_plans_are_refused_and_leave_nothing() {
    check_plan(|draft| draft.model = "m".repeat(255), "model: 255 bytes, expected 1 to 254");
    check_plan(|draft| draft.target.clear(), "target: 0 bytes");
    check_plan(|draft| draft.tensors[1].name = "embed".into(), "tensor embed");
    check_plan(|draft| draft.tensors[1].shape = vec![1 << 32, 1 << 32], "too many elements");
    check_plan(|draft| draft.tensors[1].shape = vec![1; 9], "shape of layer.0: 9 entries, 8 at most");
    check_plan(|draft| draft.tensors[0].bytes = u64::MAX - 10, "larger than 64-bit");
    check_plan(
        |draft| draft.tensors = (0..=crate::TENSORS_MAX).map(|i| tensor(&i.to_string(), 0)).collect(),
        "65537 entries",
    );
    check_plan(|draft| draft.payloads.push(Payload::known(SectionKind::Config, vec![])), "section config");
    check_plan(|draft| draft.payloads.push(Payload::known(SectionKind::Weights, vec![])), "section weights");
}

fn newer(critical: bool, kind: u32, version: u16) -> Draft {
    let mut draft = small_draft();
    draft.payloads.push(Payload { kind, name: "moods".into(), version, critical, bytes: vec![7; 10] });
    draft
}

#[test]
fn an_unknown_section_is_skipped_unless_it_is_critical() {
    for (kind, version) in [(99, 1), (SectionKind::Kernels as u32, 2)] {
        let sample = Sample::new(&newer(false, kind, version));
        let snapshot = open_and_wait(&sample.path, 1).unwrap();
        assert_eq!(snapshot.section(SectionKind::Config).unwrap(), Some(&b"{}"[..]));
        assert_eq!(snapshot.section(SectionKind::Kernels).unwrap(), None);

        let sample = Sample::new(&newer(true, kind, version));
        let error = Snapshot::open(&sample.path).unwrap_err();
        assert!(error.to_string().starts_with(&format!("section moods version {version} is critical")), "{error}");
    }
}
