//! Objects as `kubectl kustomize` renders them.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::PodError;

/// The objects of an overlay.
#[derive(Clone, Debug)]
pub struct Manifest {
    objects: Vec<Value>,
    text: String,
}

impl Manifest {
    /// Renders a folder with a `kustomization.yaml` by the `kubectl` on the PATH.
    ///
    /// # Errors
    /// What kubectl says is wrong with it.
    pub fn rendered(folder: &Path) -> Result<Self, PodError> {
        let what = format!("render {}", folder.display());
        let output = Command::new("kubectl").arg("kustomize").arg(folder).output();
        let output = output.map_err(|error| PodError(format!("{what}: kubectl: {error}")))?;
        if !output.status.success() {
            return Err(PodError(format!("{what}: {}", String::from_utf8_lossy(&output.stderr))));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let objects =
            serde_saphyr::from_multiple(&text).map_err(|error| PodError(format!("{what}: {error}")))?;
        Ok(Self { objects, text })
    }

    /// As YAML.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All of one kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// All.
    pub fn objects(&self) -> &[Value] {
        &self.objects
    }

    /// One object.
    ///
    /// # Errors
    /// It is not there.
    pub fn object(&self, kind: &str, name: &str) -> Result<&Value, PodError> {
        let mut all = self.objects.iter();
        let found = all.find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        found.ok_or_else(|| PodError(format!("find the {kind} {name}")))
    }

    /// A Deployment or StatefulSet.
    pub(super) fn workload(&self, name: &str) -> Result<&Value, PodError> {
        self.object("Deployment", name).or_else(|_| self.object("StatefulSet", name))
    }
}
