//! Who this worker is to its farm, kept in `worker.json` so that a restart is no new worker.

use super::api::Api;
use super::wire::{Amqp, Enrol, Enrolled};
use super::{Backoff, FarmError, Settings};
use pictor_tasks::message::WorkerId;
use pictor_tasks::worker::Inventory;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Who a worker is. It holds secrets: it is shown to nobody and written for its owner alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) id: WorkerId,
    pub(crate) name: String,
    /// The servers that it was given when it enrolled.
    servers: Vec<String>,
    pub(crate) token: String,
    pub(crate) amqp_url: String,
    pub(crate) heartbeat_ms: u64,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Identity {
    /// Who we were before, if that was the same worker of the same farm; else a new one, if there is an
    /// enrolment token.
    pub(crate) async fn take(
        settings: &Settings,
        client: &reqwest::Client,
        inventory: &Inventory,
    ) -> Result<Self, FarmError> {
        let data = &settings.data;
        let unusable = |source| FarmError::Data { path: path(data), source };
        let known = Self::read(data).map_err(unusable)?;
        let same = |known: &Self| {
            known.name == settings.name
                && known.servers.iter().any(|server| settings.servers.contains(server))
        };
        if let Some(known) = known.filter(same) {
            return Ok(known);
        }
        let Some(enrolment) = &settings.enrolment else {
            return Err(FarmError::Settings(
                "enrol this worker: a token is needed once; make one with `pictor token add NAME \
                 --role worker` and give it with --token-file FILE"
                    .into(),
            ));
        };
        let api = Api::new(client.clone(), settings.servers.clone(), enrolment.clone());
        let identity = Self::enrol(&api, settings, inventory).await?;
        identity.write(data).map_err(unusable)?;
        Ok(identity)
    }

    /// Waits for a server, and asks it to be taken on.
    async fn enrol(
        api: &Api,
        settings: &Settings,
        inventory: &Inventory,
    ) -> Result<Self, FarmError> {
        let (name, servers) = (settings.name.clone(), settings.servers.clone());
        let mut backoff = Backoff::default();
        loop {
            let asked = Enrol { name: &name, inventory };
            match api.post::<Enrolled>("/v1/workers", &asked, None).await {
                Ok(Enrolled { id, token, amqp: Amqp { url: amqp_url }, heartbeat_ms }) => {
                    return Ok(Self { id, name, servers, token, amqp_url, heartbeat_ms });
                }
                Err(error) if error.is_retryable() => backoff.wait().await,
                Err(error) => return Err(FarmError::Refused(error.to_string())),
            }
        }
    }

    /// Forgets who we were: the farm does not know us any more.
    pub(crate) fn forget(data: &Path) -> Result<(), FarmError> {
        match std::fs::remove_file(path(data)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FarmError::Data { path: path(data), source })
            }
            _ => Ok(()),
        }
    }

    fn read(data: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path(data)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it beside its place first: a crash leaves the old one or the new one.
    fn write(&self, data: &Path) -> io::Result<()> {
        let part = data.join("worker.json.part");
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        std::fs::rename(part, path(data))
    }
}

fn path(data: &Path) -> PathBuf {
    data.join("worker.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_outlives_a_restart_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Identity::read(folder.path()).unwrap().is_none());
        let identity = Identity {
            id: WorkerId(7),
            name: "a".into(),
            servers: vec!["https://farm".into()],
            token: "pictor_a_b".into(),
            amqp_url: "amqp://w:x@broker".into(),
            heartbeat_ms: 5000,
        };
        identity.write(folder.path()).unwrap();
        assert!(Identity::read(folder.path()).unwrap().as_ref() == Some(&identity));
        let mode = std::fs::metadata(path(folder.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        Identity::forget(folder.path()).unwrap();
        Identity::forget(folder.path()).unwrap();
        assert!(Identity::read(folder.path()).unwrap().is_none());
    }
}
