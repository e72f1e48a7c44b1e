//! The operations between matrices, against the CPU's.

use crate::{assert_close, device, tensor, values, wave};
use burn::tensor::Device;
use kernels::{gelu_mul, rms_norm, rotate, silu_mul};

#[test]
fn each_is_what_it_is_on_the_cpu() {
    let scaled = |count, step| wave(count, step).into_iter().map(|x| x * 4.0).collect::<Vec<f32>>();
    let results = [Device::flex(), device()].map(|device| {
        let of = |seed| tensor(scaled(7 * 97, seed), [7, 97], &device);
        let norm = rms_norm(of(0.3), tensor(scaled(97, 0.9), [97], &device), 1e-5);
        let (silu, gelu) = (silu_mul(of(0.3), of(0.7)), gelu_mul(of(0.3), of(0.7)));
        let turns = |seed| tensor(scaled(7 * 9, seed), [7, 9], &device);
        // A partial rotation, of an input that is not in the order of its elements.
        let x = tensor(scaled(7 * 3 * 22, 0.3), [3, 7, 22], &device).swap_dims(0, 1);
        let turned = rotate(x, turns(0.1), turns(0.2));
        let strided = silu_mul(of(0.3).transpose(), of(0.7).transpose());
        [values(norm), values(silu), values(gelu), values(turned), values(strided)]
    });
    for (i, (want, got)) in results[0].iter().zip(&results[1]).enumerate() {
        assert_close(got, want, 8e-6, &format!("operation {i}"));
    }
}

#[test]
fn gates_saturate_and_no_rows_are_no_work() {
    let device = device();
    let far = || tensor(vec![-1e4, -200.0, 0.0, 200.0, 1e4], [1, 5], &device);
    let ones = || tensor(vec![1.0; 5], [1, 5], &device);
    assert_eq!(values(silu_mul(far(), ones())), [0.0, 0.0, 0.0, 200.0, 1e4]);
    assert_eq!(values(gelu_mul(far(), ones())), [0.0, 0.0, 0.0, 200.0, 1e4]);
    assert_eq!(silu_mul(tensor(vec![], [0, 7], &device), tensor(vec![], [0, 7], &device)).dims(), [0, 7]);
}
