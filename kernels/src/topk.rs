//! The largest of each row of logits, with their ids.
//!
//! **Order:** larger before smaller, equals (0 and -0 are) by the lower id, and what is no number behind all that are, by id. So
//! there is one result, the same on every device.

use crate::cpu::dispatch::Level;
use crate::cpu::topk::of_row;
use crate::ops::Kernels;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, TensorMetadata};
use burn::tensor::{DType, Int, Tensor, TensorData, read_sync};

/// The `k` largest of each row of `x [rows, n] f32` and their ids, `[rows, k]` each, in the order of this module.
///
/// # Panics
/// Where `k` is 0 or more than `n`, or `x` is not f32.
pub fn top_k(x: Tensor<2>, k: usize) -> (Tensor<2>, Tensor<2, Int>) {
    let [_rows, n] = x.dims();
    assert!(0 < k && k <= n, "{k} of {n}");
    assert_eq!(x.dtype(), DType::F32, "logits");
    let (values, ids) = Dispatch::top_k(x.into_dispatch(), k);
    (Tensor::from_dispatch(values), Tensor::from_dispatch(ids))
}

/// The same of one row `[n]` in memory, as `(id, value)`: all where there are no more than `k`. `best` is overwritten.
pub fn top_k_of_row(row: &[f32], k: usize, best: &mut Vec<(u32, f32)>) {
    of_row(Level::best(), row, k, best);
}

/// What a backend without an operation of its own does: rows through memory, results back.
pub(crate) fn through_memory<B: Backend>(x: FloatTensor<B>, k: usize) -> (FloatTensor<B>, IntTensor<B>) {
    let (shape, device) = (x.shape(), x.device());
    let (rows, n) = (shape[0], shape[1]);
    let data = read_sync(B::float_into_data(x)).expect("a tensor of this device is read");
    let logits = data.as_slice::<f32>().expect("logits are f32");
    let (mut values, mut ids, mut best) = (Vec::with_capacity(rows * k), Vec::with_capacity(rows * k), Vec::new());
    for row in logits.chunks_exact(n) {
        top_k_of_row(row, k, &mut best);
        values.extend(best.iter().map(|best| best.1));
        ids.extend(best.iter().map(|best| best.0 as i32));
    }
    let values = B::float_from_data(TensorData::new(values, [rows, k]), &device);
    (values, B::int_from_data(TensorData::new(ids, [rows, k]), &device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;
    use burn::tensor::Device;

    fn logits() -> Tensor<2> {
        let rows =
            [[1.0, 3.0, f32::NAN, 3.0], [f32::NEG_INFINITY, f32::NAN, f32::NAN, f32::NAN], [0.0, -0.0, -1.0, 2.0]];
        Tensor::from_data(TensorData::from(rows), &Device::flex())
    }

    fn ids(ids: &TensorData) -> Vec<i64> {
        ids.clone().convert::<i64>().try_to_vec().unwrap()
    }

    #[test]
    fn equals_are_by_id_and_what_is_no_number_is_last() {
        let (values, found) = top_k(logits(), 3);
        assert_eq!((values.dims(), found.dims()), ([3, 3], [3, 3]));
        assert_eq!(ids(&found.into_data()), [1, 3, 0, 0, 1, 2, 3, 0, 1]);
        let values: Vec<f32> = values.into_data().try_to_vec().unwrap();
        assert_eq!((&values[..4], &values[6..]), (&[3.0, 3.0, 1.0, f32::NEG_INFINITY][..], &[2.0, 0.0, -0.0][..]));
        assert!(values[4].is_nan() && values[5].is_nan());
        let strided = logits().swap_dims(0, 1); // [4, 3]
        assert_eq!(ids(&top_k(strided, 1).1.into_data()), [0, 0, 2, 0]);
    }

    #[test]
    fn through_memory_is_the_same() {
        let data = logits().into_data();
        let device = Default::default();
        let (values, found) = through_memory::<Flex>(
            <Flex as burn::backend::ops::FloatTensorOps<Flex>>::float_from_data(data, &device),
            3,
        );
        let (want, want_ids) = top_k(logits(), 3);
        let bits = |data: TensorData| data.as_slice::<f32>().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let read = |x| read_sync(<Flex as burn::backend::ops::FloatTensorOps<Flex>>::float_into_data(x)).unwrap();
        assert_eq!(bits(read(values)), bits(want.into_data()));
        let read = read_sync(<Flex as burn::backend::ops::IntTensorOps<Flex>>::int_into_data(found)).unwrap();
        assert_eq!(ids(&read), ids(&want_ids.into_data()));
    }

    #[test]
    #[should_panic(expected = "5 of 4")]
    fn more_than_there_are_is_a_mistake() {
        top_k(logits(), 5);
    }
}
