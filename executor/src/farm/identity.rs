//! The identity of this worker in its farm, stored in `worker.json` so that a restart does not create a new worker.

use super::api::Api;
use super::{FarmError, Settings};
use pictor_api::{Amqp, Enrol, Enrolled, Heartbeat, HeartbeatReply, MachineLoad};
use pictor_net::{Backoff, random_bytes};
use pictor_tasks::message::WorkerId;
use pictor_tasks::worker::Inventory;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::time::{Duration, Instant, sleep};

/// How long to wait while another machine runs as the same worker. A farm notices after 15 s that a worker has ended.
const IN_USE: Duration = Duration::from_secs(20);
/// The interval between attempts in that time.
const IN_USE_AGAIN: Duration = Duration::from_secs(2);

/// A worker's identity. It contains secrets: it is never logged, and only its owner may read the file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) id: WorkerId,
    pub(crate) name: String,
    /// The servers that were configured when it enrolled.
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
    /// The stored identity, if it is that of the same worker in the same farm; otherwise enrols a new one, if there is
    /// an enrolment token. Waits for a server, which also checks whether another machine runs as that worker.
    pub(crate) async fn take(
        settings: &Settings,
        client: &reqwest::Client,
        instance: &str,
    ) -> Result<Self, FarmError> {
        let inventory = &settings.config.offer();
        let data = &settings.data;
        let unusable = |source| FarmError::Data { path: path(data), source };
        let known = Self::read(data).map_err(unusable)?;
        let same = |known: &Self| {
            known.name == settings.name
                && known.servers.iter().any(|server| settings.servers.contains(server))
        };
        if let Some(known) = known.filter(same) {
            let api = Api::new(client.clone(), settings.servers.clone(), known.token.clone());
            known.begin(&api, instance, inventory).await?;
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
        let (name, servers) = (settings.name.clone(), settings.servers.clone());
        let asked = Enrol {
            name: name.clone(),
            inventory: inventory.clone(),
            instance: instance.to_owned(),
        };
        // A rejected enrolment token does not mean that a worker was forgotten.
        let enrolled = ask(&api, "/v1/workers", &asked).await.map_err(|error| match error {
            FarmError::Unknown(why) => FarmError::Refused(why),
            other => other,
        })?;
        let Enrolled { id, token, amqp: Amqp { url: amqp_url }, heartbeat_ms, .. } = enrolled;
        let identity = Self { id: WorkerId(id), name, servers, token, amqp_url, heartbeat_ms };
        identity.write(data).map_err(unusable)?;
        Ok(identity)
    }

    /// Announces the worker's return before it receives what is queued for it at the broker.
    async fn begin(&self, api: &Api, instance: &str, has: &Inventory) -> Result<(), FarmError> {
        let heartbeat = Heartbeat {
            instance: instance.to_owned(),
            holding: Vec::new(),
            gpus: Vec::new(),
            machine: MachineLoad::default(),
            inventory: Some(has.clone()),
            accepts: false,
            reason: "it is starting".to_owned(),
        };
        let path = format!("/v1/workers/{}/heartbeat", self.id.0);
        ask::<HeartbeatReply>(api, &path, &heartbeat).await.map(drop)
    }

    /// Deletes the stored identity, which the farm does not know any more.
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

    /// Writes to a temporary file first and renames it: after a crash there is the old file or the new one.
    fn write(&self, data: &Path) -> io::Result<()> {
        let part = data.join("worker.json.part");
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        std::fs::rename(part, path(data))
    }
}

/// Repeats a request until a server answers. While another machine runs as this worker, the request is repeated for a
/// while: that machine may have ended without notice.
async fn ask<T: DeserializeOwned>(
    api: &Api,
    path: &str,
    body: &impl Serialize,
) -> Result<T, FarmError> {
    let (mut backoff, mut told) = (Backoff::default(), None::<Instant>);
    loop {
        match api.post(path, body, None).await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_retryable() => backoff.wait().await,
            Err(error) if error.is_in_use() => {
                let since = *told.get_or_insert_with(|| {
                    tracing::warn!("{error}; trying again for {} s", IN_USE.as_secs());
                    Instant::now()
                });
                if since.elapsed() >= IN_USE {
                    return Err(FarmError::Refused(error.to_string()));
                }
                sleep(IN_USE_AGAIN).await;
            }
            Err(error) if error.disowns_us() => return Err(FarmError::Unknown(error.to_string())),
            Err(error) => return Err(FarmError::Refused(error.to_string())),
        }
    }
}

/// A name for the instance of a worker that holds this lock file. No two live processes have the same one: the lock
/// belongs to this file, on this machine, since its last boot. So a process that comes back under the same name proves
/// that the one before is gone.
pub(crate) fn instance(lock: &File) -> io::Result<String> {
    let (meta, mut name) = (lock.metadata()?, blake3::Hasher::new());
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id");
    // On a system without a boot id, a returning worker first has to be missed for a while.
    name.update(&boot.unwrap_or_else(|_| random_bytes::<8>().to_vec()));
    name.update(&meta.dev().to_le_bytes()).update(&meta.ino().to_le_bytes());
    Ok(name.finalize().to_hex()[..32].to_owned())
}

fn path(data: &Path) -> PathBuf {
    data.join("worker.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_instance_is_that_of_the_file_and_not_of_its_copy() {
        let folder = tempfile::tempdir().unwrap();
        let (file, copy) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&file, "x").unwrap();
        std::fs::copy(&file, &copy).unwrap();
        let instance = |path: &Path| instance(&File::open(path).unwrap()).unwrap();
        assert_eq!(instance(&file), instance(&file));
        assert_ne!(instance(&file), instance(&copy));
    }

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
