//! Clouds and clusters to try deployments on, as HTTP servers: the real kubectl and other tools speak with them.
//!
//! Not shipped. [`kubernetes`] is a small Kubernetes API; what time rollouts take and what fails is ordered. [`limits`]
//! counts calls as Azure, AWS and Google do, and refuses them as they do. [`pods`]
//! runs rendered manifests as processes.
#![forbid(unsafe_code)]

mod background;
pub mod kubernetes;
pub mod limits;
pub mod pods;

pub use background::Background;
