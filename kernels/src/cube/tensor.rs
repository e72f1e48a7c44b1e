//! Burn's tensors on a CubeCL device: whole ones in, whole ones out, and how work is dealt out to cubes and planes.

use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::features::Plane;
use cubecl::prelude::*;

/// Units of a cube, for every kernel: a whole number of planes on every device.
const UNITS: usize = 128;

/// Cubes along one axis: what every device has.
const AXIS_MAX: usize = 65_535;

/// Row after row without gaps; `x` itself where it is that.
///
/// # Panics
/// Where a kernel cannot count its elements.
pub(super) fn whole(x: CubeTensor) -> CubeTensor {
    count(x.meta.num_elements());
    into_contiguous(x)
}

/// A tensor that is yet to be written, row after row without gaps, on the device of `like`.
///
/// # Panics
/// As [`whole`].
pub(super) fn unwritten(like: &CubeTensor, shape: &[usize], dtype: DType) -> CubeTensor {
    let elements = shape.iter().product::<usize>().max(1);
    count(elements);
    let handle = like.client.empty(elements * dtype.size());
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), Shape::from(shape.to_vec()), handle, dtype)
}

/// Numbers of the host, on the device of `like`: `[words.len()] u32`.
pub(super) fn uploaded(like: &CubeTensor, words: &[u32]) -> CubeTensor {
    let handle = like.client.create_from_slice(bytemuck::cast_slice(words));
    let shape = Shape::from(vec![words.len()]);
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, handle, DType::U32)
}

/// The units of every cube.
pub(super) fn cube_dim() -> CubeDim {
    CubeDim::new_1d(UNITS as u32)
}

/// Cubes for one unit per element: see [`element`].
pub(super) fn elementwise(elements: usize) -> CubeCount {
    let cubes = elements.div_ceil(UNITS);
    let x = cubes.clamp(1, AXIS_MAX);
    CubeCount::Static(x as u32, cubes.div_ceil(x) as u32, 1)
}

/// Which of the elements of [`elementwise`] this unit has; some units have one that is not there.
#[cube]
pub(super) fn element() -> usize {
    (CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize) * UNITS + UNIT_POS as usize
}

/// Cubes for one plane per task, for each of `others`, or fewer: see [`first_task`].
///
/// # Panics
/// Where the device's units do not work in planes, or there are too many others.
pub(super) fn planes(like: &CubeTensor, tasks: usize, others: usize) -> CubeCount {
    // `Plane::Ops` is not asked for: CubeCL takes it from Vulkan devices made of software, which have it.
    assert!(like.client.features().plane.contains(Plane::Sync), "the units of a plane cannot meet on this device");
    let each = UNITS / like.client.properties().hardware.plane_size_max.clamp(1, UNITS as u32) as usize;
    assert!(others <= AXIS_MAX, "{others} groups of rows at once");
    CubeCount::Static(tasks.div_ceil(each).clamp(1, AXIS_MAX) as u32, others as u32, 1)
}

/// The first task of this plane; the next is [`planes_at_work`] further.
#[cube]
pub(super) fn first_task() -> usize {
    CUBE_POS_X as usize * planes_of_cube() + PLANE_POS as usize
}

/// Planes that share the tasks.
#[cube]
pub(super) fn planes_at_work() -> usize {
    CUBE_COUNT_X as usize * planes_of_cube()
}

#[cube]
fn planes_of_cube() -> usize {
    UNITS / PLANE_DIM as usize
}

/// The sum of what the units of a plane have, in each of them. All of them come here, and meet first: a device may let them run
/// apart after a branch.
#[cube]
pub(super) fn sum_of_plane(x: f32) -> f32 {
    sync_plane();
    plane_sum(x)
}

/// The largest of what the units of a plane have; else as [`sum_of_plane`].
#[cube]
pub(super) fn most_of_plane(x: f32) -> f32 {
    sync_plane();
    plane_max(x)
}

/// What unit `unit` of the plane has; else as [`sum_of_plane`].
#[cube]
pub(super) fn of_unit(x: f32, unit: usize) -> f32 {
    sync_plane();
    plane_shuffle(x, unit as u32)
}

/// A number of elements as a kernel takes it.
///
/// # Panics
/// Where a kernel cannot count so far.
pub(super) fn count(elements: usize) -> u32 {
    u32::try_from(elements).expect("fewer than 2^32 elements")
}
