//! What an operator says about one model's service; everything but names has a default.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One model as one Knative Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// The service's name: a DNS label.
    pub name: String,
    /// Its namespace; `None` leaves it to `kubectl`.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The container image, best pinned by digest.
    pub image: String,
    /// The name that clients ask for.
    pub model: String,
    /// The sealed snapshot's path inside the container.
    pub snapshot: String,
    /// Where that path comes from; `None`: the image itself carries it.
    #[serde(default)]
    pub volume: Option<ModelVolume>,
    /// How long the model stays restored after its last request, in seconds. Shorter than Knative's own clock.
    #[serde(default = "default_idle_s")]
    pub idle_s: u32,
    /// The one port, for HTTP/1.1 and HTTP/2.
    #[serde(default = "default_port")]
    pub port: u16,
    /// How many pods, and when there are none.
    #[serde(default)]
    pub scale: Scale,
    /// Requests in one pod at a time; 0 is unlimited.
    #[serde(default = "default_concurrency")]
    pub container_concurrency: u32,
    /// Knative's clocks, which count the cold start.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// What a pod may use.
    #[serde(default)]
    pub resources: Resources,
    /// Where pods may run.
    #[serde(default)]
    pub placement: Placement,
}

/// A volume that holds snapshots, mounted read-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ModelVolume {
    /// An existing claim.
    Claim {
        /// The `PersistentVolumeClaim`'s name.
        claim: String,
        /// Folder in the container.
        mount: String,
    },
    /// An OCI image whose files are the volume.
    Image {
        /// The image's reference.
        reference: String,
        /// Folder in the container.
        mount: String,
    },
}

/// Knative's autoscaling of pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scale {
    /// Pods that always stay. With 1 a pod holds requests without any model in memory: a cold start is a restore only.
    pub min: u32,
    /// Pods at most; 0 is unlimited.
    pub max: u32,
    /// Over how long Knative averages before it removes pods, in seconds: 6 to 3600.
    pub window_s: u32,
    /// How long the last pod stays after that, in seconds.
    pub pod_retention_s: u32,
    /// Where the old revision holds the only slice, a new one would wait for it for ever: let a new revision count as ready
    /// without a pod, so that traffic moves, the old one drains, and requests are held until the slice is free.
    pub drain_first: bool,
}

impl Default for Scale {
    fn default() -> Self {
        Self { min: 0, max: 1, window_s: 300, pod_retention_s: 60, drain_first: false }
    }
}

/// Knative's clocks, in seconds. All start when the request arrives, so they count the cold start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// For the whole answer. Over 600 the cluster's own limit must be raised: a patch is rendered.
    pub request_s: u32,
    /// Until the first byte of the answer; at most `request_s`.
    pub response_start_s: u32,
    /// Between two bytes; 0 is unlimited.
    pub idle_s: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { request_s: 600, response_start_s: 600, idle_s: 0 }
    }
}

/// What a pod asks for and may use, in Kubernetes quantities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Cores, e.g. `2` or `500m`.
    pub cpu: String,
    /// Bytes, e.g. `1Gi`.
    pub memory: String,
    /// A slice of a GPU.
    pub gpu: Option<Gpu>,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu: "2".into(), memory: "1Gi".into(), gpu: None }
    }
}

/// A GPU resource as the device plugin names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// E.g. `nvidia.com/gpu`, `nvidia.com/gpu.shared`, `nvidia.com/mig-1g.10gb`.
    pub resource: String,
    /// How many.
    pub count: u32,
}

/// Where pods may run; each field needs a feature flag of Knative, which is rendered as a patch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// Labels a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints a pod tolerates.
    pub tolerations: Vec<Toleration>,
    /// E.g. `nvidia`.
    pub runtime_class: Option<String>,
}

/// One tolerated taint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toleration {
    /// The taint's key.
    pub key: String,
    /// Its value; `None` tolerates any.
    #[serde(default)]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl ServiceSpec {
    /// A service of a model that the image itself carries, everything else by default.
    pub fn new(name: &str, image: &str, model: &str, snapshot: &str) -> Self {
        Self {
            name: name.into(),
            namespace: None,
            image: image.into(),
            model: model.into(),
            snapshot: snapshot.into(),
            volume: None,
            idle_s: default_idle_s(),
            port: default_port(),
            scale: Scale::default(),
            container_concurrency: default_concurrency(),
            timeouts: Timeouts::default(),
            resources: Resources::default(),
            placement: Placement::default(),
        }
    }
}

fn default_idle_s() -> u32 {
    30
}

fn default_port() -> u16 {
    8080
}

fn default_concurrency() -> u32 {
    8
}
