//! What CubeCL has compiled for a CUDA device in this process, to be handed to another process of the same program.
//!
//! **Contract:** [`keep`] comes before the device is first used. From then on whatever is compiled is kept, in memory alone, and what was
//! [`adopt`]ed is found in place of being compiled, by CubeCL's own key: the kernel with its constants, the program's build, CubeCL's version
//! and the device's architecture. What does not fit is never found; what cannot be read is compiled anew. No file is opened.
//! **Absent:** the driver's own step from PTX to the device's instructions. Tested with a stand-in for the driver; not run on a GPU.

use super::CompiledKernel;
use cubecl_environment::bundle::{self, Bundle};
use cubecl_environment::bytes::Bytes;
use cubecl_environment::environment;
use cubecl_environment::persistence::{CacheConfig, storage};
use cubecl_environment::records::RecordLevel;
use cubecl_server::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Where names of what is compiled for CUDA begin.
const NAMESPACE: &str = "cuda";
/// No file has such a name, so that CubeCL's store stays in memory, which is what it then does.
const NO_FOLDER: &str = "\0";

/// Keeps what is compiled from here on; `false` where CubeCL was used before and keeps nothing.
pub fn keep() -> bool {
    let mut config = CubeClRuntimeConfig::default().override_from_env();
    config.compilation.cache = true;
    config.environment.path = CacheConfig::Directory(NO_FOLDER.into());
    config.environment.records.level = RecordLevel::Off;
    CubeClRuntimeConfig::try_set(config) || CubeClRuntimeConfig::get().compilation.cache
}

/// What tells this program from every other build of it, in hexadecimal digits; `None` where it was linked without.
pub fn build() -> Option<String> {
    Some(buildid::build_id()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// All that was compiled or adopted so far, in order.
pub fn compiled() -> Vec<CompiledKernel> {
    let mut all = Vec::new();
    for namespace in environment::namespaces().into_iter().map(|found| found.namespace).filter(|name| is_ours(name)) {
        storage::open(&namespace).scan(&mut |key, code| {
            all.push(CompiledKernel { namespace: namespace.clone(), key: key.into(), code: code.into() });
        });
    }
    all.sort();
    all
}

/// Has these found in place of being compiled; how many were not there yet.
pub fn adopt(kernels: &[CompiledKernel]) -> usize {
    bundle::import(&Handed(kernels)).imported
}

fn is_ours(namespace: &str) -> bool {
    namespace.starts_with(NAMESPACE)
}

/// Kernels of another process.
#[derive(Debug)]
struct Handed<'a>(&'a [CompiledKernel]);

impl Bundle for Handed<'_> {
    fn get(&self, namespace: &str, key: &[u8]) -> Option<Bytes> {
        let found = self.0.iter().find(|kernel| kernel.namespace == namespace && kernel.key == key);
        found.map(|kernel| Bytes::from_bytes_vec(kernel.code.clone()))
    }

    fn scan(&self, namespace: &str, visit: &mut dyn FnMut(&[u8], &[u8])) {
        let those = self.0.iter().filter(|kernel| kernel.namespace == namespace);
        those.for_each(|kernel| visit(&kernel.key, &kernel.code));
    }

    fn namespaces(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.iter().map(|kernel| kernel.namespace.clone()).collect();
        names.retain(|name| is_ours(name));
        names.sort();
        names.dedup();
        names
    }

    fn describe(&self) -> String {
        format!("{} compiled kernels", self.0.len())
    }
}
