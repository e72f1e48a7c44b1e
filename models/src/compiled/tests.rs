#![allow(clippy::unwrap_used)]
use super::*;
use proptest::{collection::vec, prelude::*};

fn bundle(kernels: Vec<CompiledKernel>) -> KernelBundle {
    let identity =
        Identity { version: "0.1.0".into(), build: "00ff".into(), architecture: "sm_90".into(), driver: 12080 };
    KernelBundle { identity, compiled: Compiled { namespace: "cuda/x".into(), kernels } }
}

fn kernel() -> impl Strategy<Value = CompiledKernel> {
    let bytes = || vec(any::<u8>(), 0..40);
    (bytes(), bytes()).prop_map(|(key, code)| CompiledKernel { key, code })
}

proptest! {
    #[test]
    fn a_section_is_read_as_it_was_written_and_refused_where_it_is_cut(kernels in vec(kernel(), 0..5), cut in any::<prop::sample::Index>()) {
        let bundle = bundle(kernels);
        let section = bundle.to_section().unwrap();
        prop_assert_eq!(&KernelBundle::from_section(&section).unwrap(), &bundle);
        let refused = KernelBundle::from_section(&section[..cut.index(section.len())]).unwrap_err().to_string();
        prop_assert!(refused.starts_with("kernels section: "), "{}", refused);
    }
}

#[test]
fn lengths_are_those_of_the_bytes() {
    let section = bundle(vec![CompiledKernel { key: vec![1], code: vec![2, 3] }]).to_section().unwrap();
    let more = [&section[..], &[0]].concat();
    assert!(KernelBundle::from_section(&more).unwrap_err().to_string().contains("1 bytes behind the last kernel"));
    let mut huge = section.clone();
    let at = section.windows(5).position(|bytes| bytes == b"[1,2]").unwrap();
    huge[at + 3] = b'9';
    assert!(KernelBundle::from_section(&huge).unwrap_err().to_string().contains("beyond its end"));
}
