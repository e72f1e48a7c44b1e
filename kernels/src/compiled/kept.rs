//! What CubeCL has compiled for a CUDA device in this process, to be handed to another process of the same program.
//!
//! **Contract:** [`keep`] comes before the device is first used. From then on whatever is compiled is kept, in memory alone, and what was
//! [`adopt`]ed is found in place of being compiled, by CubeCL's own key: the kernel with its constants, the program's build, CubeCL's version,
//! the device's architecture and the version of PTX that its driver takes. What does not fit is never found; what is no kernel is not taken.
//! No file is opened. What is adopted runs on the device as it is: it is to be trusted as the weights are, and the program beside them.
//! **Absent:** the driver's own step from PTX to the device's instructions. Tested with a stand-in for the driver; not run on a GPU.

use super::{Compiled, CompiledKernel};
use cubecl_environment::bundle::{self, Bundle};
use cubecl_environment::bytes::Bytes;
use cubecl_environment::environment;
use cubecl_environment::persistence::{CacheConfig, storage};
use cubecl_environment::records::RecordLevel;
use cubecl_server::config::{CubeClRuntimeConfig, RuntimeConfig};
use serde::Deserialize;

/// Where names of kernels for CUDA begin.
const NAMESPACE: &str = "cuda/";
/// No file has such a name, so that CubeCL's store stays in memory, which is what it then does.
const NO_FOLDER: &str = "\0";

/// Keeps what is compiled from here on; `false` where CubeCL was used before and keeps nothing, or keeps it elsewhere.
pub fn keep() -> bool {
    let mut config = CubeClRuntimeConfig::default().override_from_env();
    config.compilation.cache = true;
    config.environment.path = CacheConfig::Directory(NO_FOLDER.into());
    config.environment.records.level = RecordLevel::Off;
    CubeClRuntimeConfig::try_set(config) || is_kept(&CubeClRuntimeConfig::get())
}

fn is_kept(config: &CubeClRuntimeConfig) -> bool {
    let CacheConfig::Directory(folder) = &config.environment.path else { return false };
    config.compilation.cache && folder.as_os_str() == NO_FOLDER
}

/// What tells this program from every other build of it, in hexadecimal digits; `None` where it was linked without.
pub fn build() -> Option<String> {
    Some(buildid::build_id()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// All that was compiled or adopted so far, for the first kind of device where there are several.
pub fn compiled() -> Compiled {
    let names = environment::namespaces().into_iter().map(|found| found.namespace);
    let Some(namespace) = names.filter(|name| name.starts_with(NAMESPACE)).min() else { return Compiled::default() };
    let mut kernels = Vec::new();
    storage::open(&namespace).scan(&mut |key, code| {
        kernels.push(CompiledKernel { key: key.into(), code: code.into() });
    });
    kernels.sort();
    Compiled { namespace, kernels }
}

/// Has these found in place of being compiled; how many that are. To be called after [`keep`].
pub fn adopt(kernels: &Compiled) -> usize {
    bundle::import(&Handed(kernels)).imported
}

/// What CubeCL hands to the driver as it is.
#[derive(Deserialize)]
struct Code {
    entrypoint_name: String,
    ptx: Vec<i8>,
}

impl CompiledKernel {
    /// Text that ends where its driver looks for the end, and a name that can be one.
    fn is_sound(&self) -> bool {
        let read = ciborium::from_reader::<Code, _>(&self.code[..]);
        read.is_ok_and(|code| code.ptx.last() == Some(&0) && !code.entrypoint_name.contains('\0'))
    }
}

/// Kernels of another process.
#[derive(Debug)]
struct Handed<'a>(&'a Compiled);

impl Bundle for Handed<'_> {
    fn get(&self, namespace: &str, key: &[u8]) -> Option<Bytes> {
        let found = self.0.kernels.iter().find(|kernel| namespace == self.0.namespace && kernel.key == key);
        found.map(|kernel| Bytes::from_bytes_vec(kernel.code.clone()))
    }

    fn scan(&self, namespace: &str, visit: &mut dyn FnMut(&[u8], &[u8])) {
        let those = self.0.kernels.iter().filter(|kernel| namespace == self.0.namespace && kernel.is_sound());
        those.for_each(|kernel| visit(&kernel.key, &kernel.code));
    }

    fn namespaces(&self) -> Vec<String> {
        Some(&self.0.namespace).filter(|name| name.starts_with(NAMESPACE)).cloned().into_iter().collect()
    }

    fn describe(&self) -> String {
        format!("{} compiled kernels", self.0.kernels.len())
    }
}
