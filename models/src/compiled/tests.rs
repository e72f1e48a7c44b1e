#![allow(clippy::unwrap_used)]
use super::*;
use proptest::{collection::vec, prelude::*};

fn identity() -> Identity {
    Identity { version: "0.1.0".into(), build: "00ff".into(), architecture: "sm_90".into() }
}

fn kernel() -> impl Strategy<Value = CompiledKernel> {
    let bytes = || vec(any::<u8>(), 0..40);
    ("[a-z0-9/_.-]{0,20}", bytes(), bytes()).prop_map(|(namespace, key, code)| CompiledKernel { namespace, key, code })
}

proptest! {
    #[test]
    fn a_section_is_read_as_it_was_written_and_refused_where_it_is_cut(kernels in vec(kernel(), 0..5), cut in any::<prop::sample::Index>()) {
        let bundle = KernelBundle { identity: identity(), kernels };
        let section = bundle.to_section().unwrap();
        prop_assert_eq!(&KernelBundle::from_section(&section).unwrap(), &bundle);
        let refused = KernelBundle::from_section(&section[..cut.index(section.len())]).unwrap_err().to_string();
        prop_assert!(refused.starts_with("kernels section: "), "{}", refused);
    }
}

#[test]
fn lengths_are_those_of_the_bytes() {
    let kernel = |code: &[u8]| CompiledKernel { namespace: "cuda/x".into(), key: vec![1], code: code.into() };
    let section = KernelBundle { identity: identity(), kernels: vec![kernel(&[2, 3])] }.to_section().unwrap();
    let more = [&section[..], &[0]].concat();
    assert!(KernelBundle::from_section(&more).unwrap_err().to_string().contains("1 bytes behind the last kernel"));
    let mut huge = section.clone();
    let at = section.windows(8).position(|bytes| bytes == b"\"code\":2").unwrap();
    huge[at + 7] = b'9';
    assert!(KernelBundle::from_section(&huge).unwrap_err().to_string().contains("beyond its end"));
}
