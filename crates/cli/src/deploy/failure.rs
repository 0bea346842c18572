//! Exit codes and hints for what goes wrong in `pccl deploy`, apart from tasks that fail.

use pccl_deploy::plan::PlanError;
use pccl_engine::DeployError;

use crate::error::CliError;
use crate::exit::Exit;

impl From<DeployError> for CliError {
    fn from(error: DeployError) -> Self {
        let (exit, hint) = match &error {
            // Its text has place and hint already.
            DeployError::File(_) => (Exit::Config, None),
            DeployError::Unreadable { .. } => {
                (Exit::Config, Some("give the file as argument; default: deploy.yaml"))
            }
            DeployError::Plan(PlanError::Selection { hint, .. }) => {
                return Self::new(Exit::Usage, error.to_string()).hint(hint.clone());
            }
            DeployError::Plan(_) => (Exit::Usage, Some("see `pccl deploy validate`")),
            DeployError::Locked { .. } => {
                (Exit::Locked, Some("wait for it, or ask them; `pccl deploy status` shows how far it is"))
            }
            DeployError::Fenced => (Exit::Locked, Some("`pccl deploy status` shows the other session")),
            DeployError::Journal(_) => (
                Exit::System,
                Some("`--state DIR` chooses another folder for it, `--journal URL` a database"),
            ),
            DeployError::NoRun { .. } => {
                (Exit::Usage, Some("`pccl deploy runs` lists them, `pccl deploy run` begins one"))
            }
            DeployError::Listen { .. } => {
                (Exit::Port, Some("port 0 takes any free one; `ss -ltnp` shows who has it"))
            }
            DeployError::Interrupted => (Exit::Interrupted, Some("go on with it: pccl deploy resume")),
            DeployError::Secret { .. } => (Exit::Config, Some("see `secrets` in the deployment file")),
            _ => (Exit::System, None),
        };
        let shown = Self::new(exit, error.to_string());
        match hint {
            Some(hint) => shown.hint(hint),
            None => shown,
        }
    }
}
